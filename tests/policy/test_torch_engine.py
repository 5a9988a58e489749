"""Claims about the reference engine: answers are plausible numbers, adapters come and go, identity follows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from continuonbrain.model.base_identity import base_sha256  # noqa: E402
from continuonbrain.model.lora import adapter_files, attach_lora  # noqa: E402
from continuonbrain.policy.engine import AdapterError, Decisions  # noqa: E402
from continuonbrain.policy.torch_engine import TorchEngine  # noqa: E402


@pytest.fixture(scope="module")
def engine(untrained_base: Path) -> TorchEngine:
    return TorchEngine(untrained_base)


@pytest.fixture
def adapter(engine: TorchEngine, untrained_base: Path, tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, seed: int) -> Path:
        from continuonbrain.model.base import load_base

        model = load_base(untrained_base)
        torch.manual_seed(seed)
        parameters = attach_lora(
            model, base_sha256=engine.base_sha256, rank=4, alpha=8, targets=["q_proj", "down_proj"]
        )
        with torch.no_grad():
            for p in parameters:
                p.normal_(0, 0.2)
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for file, data in adapter_files(model).items():
            (folder / file).write_bytes(data)
        return folder

    return write


FRAMES: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (2, 120, 160, 3), dtype=np.uint8)


def ask(engine: TorchEngine) -> Decisions:
    return engine.decide(FRAMES, ["drive", "keep left"], [0.5, None])


def same(a: Decisions, b: Decisions) -> bool:
    return np.array_equal(a.curvature, b.curvature) and np.array_equal(a.speed, b.speed)


def test_answers_have_the_shape_and_range_of_an_action_chunk(engine: TorchEngine) -> None:
    answer = ask(engine)
    assert (answer.curvature.shape, answer.speed.shape) == ((2, 8), (2, 2))
    assert np.abs(answer.curvature).max() <= 1.8
    assert 0 <= answer.speed.min() <= answer.speed.max() <= 2.2
    assert answer.curvature.dtype == np.float32


def test_it_knows_its_base(engine: TorchEngine, untrained_base: Path) -> None:
    assert engine.base_sha256 == base_sha256(untrained_base)
    assert engine.adapter_sha256 == ""


def test_one_at_a_time_is_the_same_as_together(engine: TorchEngine) -> None:
    together = ask(engine)
    alone = engine.decide(FRAMES[1:], ["keep left"], [None])
    np.testing.assert_allclose(alone.curvature, together.curvature[1:], atol=1e-5)


def test_adapters_come_and_go_without_a_trace(engine: TorchEngine, adapter: Callable[..., Path]) -> None:
    base = ask(engine)
    engine.use_adapter(adapter("a", 1), sha256="a" * 64)
    first = ask(engine)
    assert engine.adapter_sha256 == "a" * 64
    engine.use_adapter(adapter("b", 2), sha256="b" * 64)
    assert not same(ask(engine), first)
    engine.use_adapter(adapter("a2", 1), sha256="a" * 64)
    assert same(ask(engine), first)
    engine.use_adapter(None)
    assert same(ask(engine), base)
    assert engine.adapter_sha256 == ""


def test_a_folder_whose_content_changed_is_another_adapter(
    engine: TorchEngine, adapter: Callable[..., Path]
) -> None:
    """`adapters/current` is always the same path: without a sha256 the bytes must decide, not the name."""
    current, next_one = adapter("one/current", 1), adapter("two/current", 2)
    engine.use_adapter(current)
    first, name = ask(engine), engine.adapter_sha256
    engine.use_adapter(next_one)
    assert not same(ask(engine), first)
    assert engine.adapter_sha256 != name
    shutil.copytree(current, next_one, dirs_exist_ok=True)
    engine.use_adapter(next_one)
    assert same(ask(engine), first)
    assert engine.adapter_sha256 == name
    engine.use_adapter(None)


def test_a_bad_adapter_leaves_the_old_one_with_identical_answers(
    engine: TorchEngine, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    engine.use_adapter(adapter("good", 1), sha256="a" * 64)
    before = ask(engine)
    bad = adapter("bad", 2)
    settings = json.loads((bad / "adapter_config.json").read_text())
    (bad / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "continuonbrain:" + "f" * 64})
    )
    with pytest.raises(AdapterError, match=r"f{12}, this robot runs base"):
        engine.use_adapter(bad, sha256="b" * 64)
    with pytest.raises(AdapterError, match="nowhere"):
        engine.use_adapter(tmp_path / "nowhere")
    assert same(ask(engine), before)
    assert engine.adapter_sha256 == "a" * 64
    engine.use_adapter(None)


def test_an_adapter_brings_its_own_head_or_none_and_the_base_has_its_own(
    tmp_path: Path, untrained_base: Path
) -> None:
    import shutil

    from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
    from continuonbrain.model.lora import adapter_files, attach_lora, detach_lora
    from continuonbrain.model.reflex_net import reflex_bytes
    from continuonbrain.policy.reflex import REFLEX_FILE
    from continuonbrain.trainer.reflex_job import new_net

    base = tmp_path / "base"
    shutil.copytree(untrained_base, base)
    bare = base_sha256(base)
    shutil.copy(tiny_base_folder() / REFLEX_FILE, base)
    engine = TorchEngine(base)
    assert engine.base_sha256 != bare  # the head is part of which base this is
    own = engine.reflex
    assert own is not None
    attach_lora(engine.model, base_sha256=engine.base_sha256, rank=2, alpha=2, targets=("q_proj",))
    files = adapter_files(engine.model)
    detach_lora(engine.model)
    for name in ("with", "without", "torn"):
        (tmp_path / name).mkdir()
        for file, data in files.items():
            (tmp_path / name / file).write_bytes(data)
    torch.manual_seed(1)
    (tmp_path / "with" / REFLEX_FILE).write_bytes(
        reflex_bytes(new_net(), torch.zeros(1, 120, 160, 3, dtype=torch.uint8))
    )
    (tmp_path / "torn" / REFLEX_FILE).write_bytes(b"torn")
    engine.use_adapter(tmp_path / "with", sha256="a" * 64)
    theirs = engine.reflex
    assert theirs is not None
    assert theirs.sha256 != own.sha256
    with pytest.raises(AdapterError, match="no reflex head"):
        engine.use_adapter(tmp_path / "torn", sha256="c" * 64)
    assert (engine.adapter_sha256, engine.reflex) == ("a" * 64, theirs)
    engine.use_adapter(tmp_path / "without", sha256="b" * 64)
    assert engine.reflex is None
    engine.use_adapter(None)
    assert engine.reflex is own
