"""What both driving engines do alike with adapters: refuse by name what cannot drive, and keep what drives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")

from safetensors.torch import load_file, save_file  # noqa: E402

from continuonbrain.model import lora  # noqa: E402
from continuonbrain.model.base import load_base  # noqa: E402
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder  # noqa: E402
from continuonbrain.model.lora import SHARED_LAYER_TARGETS, adapter_files, attach_lora  # noqa: E402
from continuonbrain.model.serving import adapter_inputs  # noqa: E402
from continuonbrain.model.serving.spec import SPEC_FILE, BundleError  # noqa: E402
from continuonbrain.policy.engine import AdapterError, Engine  # noqa: E402
from continuonbrain.policy.litert_engine import LiteRTEngine  # noqa: E402
from continuonbrain.policy.torch_engine import TorchEngine  # noqa: E402

BASE = tiny_base_folder()
FRAME: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (1, 120, 160, 3), dtype=np.uint8)
OPEN: dict[str, Callable[[], Engine]] = {
    "torch": lambda: TorchEngine(BASE),
    "litert": lambda: LiteRTEngine(BASE, BASE / "serving" / "int8"),
}


@pytest.fixture(scope="module", params=sorted(OPEN))
def engine(request: pytest.FixtureRequest) -> Engine:
    return OPEN[request.param]()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_base(BASE)
    torch.manual_seed(1)
    parameters = attach_lora(
        model, base_sha256=base_sha256(BASE), rank=4, alpha=8, targets=SHARED_LAYER_TARGETS
    )
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(0, 0.2)
    folder = tmp_path_factory.mktemp("adapter") / "a"
    folder.mkdir()
    for name, data in adapter_files(model).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def copied(adapter: Path, tmp_path: Path) -> Path:
    return shutil.copytree(adapter, tmp_path / "copied")


def edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    held = load_file(path)
    change(held)
    save_file(held, path, metadata={"format": "pt"})


def answer(engine: Engine) -> NDArray[np.float32]:
    found = engine.decide(FRAME, ["keep left"], [0.5])
    return np.concatenate([found.curvature.ravel(), found.speed.ravel()])


@pytest.mark.parametrize("before", ["the base", "an adapter"])
def test_what_answers_with_no_numbers_is_refused_before_the_swap(
    engine: Engine, adapter: Path, copied: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the bounds of its numbers not enough."""
    monkeypatch.setattr(lora, "LARGEST_FACTOR", float("inf"))
    monkeypatch.setattr(adapter_inputs, "LARGEST_FACTOR", float("inf"))
    monkeypatch.setattr(adapter_inputs, "LARGEST_CHANGE", float("inf"))
    monkeypatch.setattr(lora, "LARGEST_CHANGE", float("inf"))
    tensors(copied, lambda held: held.update({n: t * 1e17 for n, t in held.items()}))
    engine.use_adapter(None if before == "the base" else adapter)
    kept, drove = engine.adapter_sha256, answer(engine)
    with monkeypatch.context() as patched:
        if isinstance(engine, LiteRTEngine):  # kernels without AVX-512 clamp what is no number to one
            patched.setattr(engine._graphs, "tried", lambda _: np.full(10, np.nan, np.float32))
        with pytest.raises(AdapterError, match="not finite"):
            engine.use_adapter(copied)
    assert engine.adapter_sha256 == kept
    assert np.array_equal(answer(engine), drove)
    engine.use_adapter(adapter)
    assert np.isfinite(answer(engine)).all()


@pytest.mark.parametrize("factor", [1e30, -1e5, float("nan"), float("inf")])
def test_numbers_that_no_training_makes_are_refused(engine: Engine, copied: Path, factor: float) -> None:
    tensors(copied, lambda held: held.update({n: t.double() * factor for n, t in held.items()}))
    with pytest.raises(AdapterError, match="not finite"):
        engine.use_adapter(copied)


def test_a_small_factor_beside_a_huge_one_is_no_way_around(engine: Engine, copied: Path) -> None:
    tensors(
        copied,
        lambda h: h.update({n: torch.full_like(t, 1e38 if "_A" in n else 1e-37) for n, t in h.items()}),
    )
    with pytest.raises(AdapterError, match="beyond"):
        engine.use_adapter(copied)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: edit(f, r=16),
        lambda f: edit(f, r=0),
        lambda f: edit(f, r="x"),
        lambda f: edit(f, rank_pattern={"q_proj": 2}),
        lambda f: edit(f, target_modules=["q_proj"]),
        lambda f: edit(f, target_modules=5),
        lambda f: edit(f, target_modules="(.|.)" * 50 + "X"),
        lambda f: edit(f, exclude_modules=["q_proj"]),
        lambda f: edit(f, exclude_modules=".?" * 60 + "X"),
        lambda f: edit(f, rank_pattern={".?" * 60 + "X": 4}),
        lambda f: edit(f, alpha_pattern={".?" * 60 + "X": 4}),
        lambda f: edit(f, task_type="SEQ_CLS"),
        lambda f: edit(f, target_modules=[*SHARED_LAYER_TARGETS], layers_to_transform=[999]),
        lambda f: edit(f, target_modules=[*SHARED_LAYER_TARGETS], layers_to_transform=[4, 5]),
        lambda f: edit(f, target_modules=r"(?x:(.|.) *z)"),
        lambda f: edit(f, alpha_pattern={"(?i)q_proj": 4}),
        lambda f: edit(f, rank_pattern={r"(.*)(.*)\2z": 4}),
        lambda f: tensors(f, lambda h: [t.fill_(900.0) for t in h.values()]),
        lambda f: tensors(f, lambda h: h.update({n: t > 0 for n, t in h.items()})),
        lambda f: tensors(f, lambda h: [h.pop(n) for n in [*h] if "layers.5.self_attn.q_proj" in n]),
        lambda f: tensors(
            f, lambda h: h.update({n.replace("model.l", "l"): h.pop(n) for n in sorted(h)[:2]})
        ),
    ],
)
def test_tensors_of_which_the_configuration_does_not_speak_are_refused_by_both(
    engine: Engine, adapter: Path, copied: Path, spoil: Callable[[Path], object]
) -> None:
    engine.use_adapter(adapter)
    drove = answer(engine)
    spoil(copied)
    with pytest.raises(AdapterError):
        engine.use_adapter(copied)
    assert np.array_equal(answer(engine), drove)


def test_the_head_goes_with_the_adapter_and_the_base_has_its_own(
    engine: Engine, adapter: Path, copied: Path
) -> None:
    shutil.copy(BASE / "reflex.safetensors", copied / "reflex.safetensors")
    engine.use_adapter(copied)
    assert engine.reflex is not None
    engine.use_adapter(adapter)
    assert engine.reflex is None
    engine.use_adapter(None)
    assert engine.reflex is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.update(base_sha256="f" * 64), "exported from base"),
        (lambda raw: raw["prompt"].update(layout_version=2), "another layout"),
        (lambda raw: raw["prompt"].update(answer_first=39), "another layout"),
    ],
)
def test_a_bundle_of_another_base_or_layout_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    bundle = shutil.copytree(BASE / "serving" / "int8", tmp_path / "b")
    raw = json.loads((bundle / SPEC_FILE).read_text())
    change(raw)
    (bundle / SPEC_FILE).write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=said):
        LiteRTEngine(BASE, bundle)
