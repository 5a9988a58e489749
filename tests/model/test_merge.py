"""A merged base: the base with its adapter, in other bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from continuonbrain.model.base import load_base  # noqa: E402
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder  # noqa: E402
from continuonbrain.model.driving import DrivingModel  # noqa: E402
from continuonbrain.model.lora import adapter_files, attach_lora, load_adapter  # noqa: E402
from continuonbrain.model.merge import MergeError, merge_adapter  # noqa: E402
from continuonbrain.model.weight_shapes import adapter_refusal, other_shapes  # noqa: E402
from continuonbrain.storage.adapter_version import adapter_sha256_on_disk  # noqa: E402


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny base with numbers as large as a training leaves them."""
    torch.manual_seed(3)
    model: DrivingModel = load_base(tiny_base_folder())
    attach_lora(
        model,
        rank=8,
        alpha=16.0,
        base_sha256=base_sha256(tiny_base_folder()),
        targets=("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    )
    with torch.no_grad():
        for name, parameter in model.language_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    folder = tmp_path_factory.mktemp("adapter")
    for name, data in adapter_files(model).items():
        (folder / name).write_bytes(data)
    return folder


def test_it_answers_as_base_and_adapter_do(
    learned: Path, tmp_path: Path, prompts: tuple[torch.Tensor, torch.Tensor]
) -> None:
    made = merge_adapter(tiny_base_folder(), learned, tmp_path / "merged")
    assert made.max_logit_diff < 1e-3 < 1e-1 < made.moved
    assert base_sha256(tmp_path / "merged") == made.base_sha256 != base_sha256(tiny_base_folder())
    model = load_base(tiny_base_folder())
    load_adapter(model, learned, base_sha256=made.grown_from, name="a")
    merged = load_base(tmp_path / "merged")
    with torch.inference_mode():
        assert (merged(*prompts) - model(*prompts)).abs().max() < 1e-3
    card = json.loads((tmp_path / "merged" / "card.json").read_bytes())
    assert card["grown_from"] == {
        "base_sha256": base_sha256(tiny_base_folder()),
        "adapter_sha256": adapter_sha256_on_disk(learned),
    }
    assert (
        other_shapes(tmp_path / "merged" / "model.safetensors", tiny_base_folder() / "model.safetensors")
        == ""
    )
    assert not (tmp_path / "merged" / "serving").exists(), "those are the old base's graphs"


def test_a_real_adapter_has_the_shapes_that_an_import_asks_for(learned: Path) -> None:
    files = {p.name: p.read_bytes() for p in learned.iterdir()}
    assert adapter_refusal(files, tiny_base_folder(), base_sha256=base_sha256(tiny_base_folder())) == ""


@pytest.mark.parametrize("change", ["shape", "name", "infinite"])
def test_what_does_not_fit_leaves_nothing(
    learned: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from continuonbrain.errors import BrainError

    odd = tmp_path / "odd"
    shutil.copytree(learned, odd)
    tensors = load_file(odd / "adapter_model.safetensors")
    name = sorted(n for n in tensors if "lora_A" in n)[0]
    if change == "shape":
        tensors[name] = tensors[name][:, :-1].contiguous()
    elif change == "name":
        tensors[name.replace("layers.", "layers.9")] = tensors.pop(name)
    else:
        tensors[name][0, 0] = float("inf")
    save_file(tensors, odd / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BrainError):
        merge_adapter(tiny_base_folder(), odd, tmp_path / "merged")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["odd"]


def test_a_merge_that_differs_is_not_kept(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from continuonbrain.model import merge

    real: Callable[..., dict[str, torch.Tensor]] = merge._merged
    monkeypatch.setattr(
        merge, "_merged", lambda *a: {n: t.half() if "q_proj" in n else t for n, t in real(*a).items()}
    )
    monkeypatch.setattr(merge, "_TOLERANCE", 1e-6)
    with pytest.raises(MergeError, match="does not merge"):
        merge_adapter(tiny_base_folder(), learned, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []
