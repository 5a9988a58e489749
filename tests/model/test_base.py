"""Claims about a base on disk: it comes back as it was saved, and a damaged one is named, never half loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch")

from continuonbrain.model.base import load_base  # noqa: E402
from continuonbrain.model.base_identity import (  # noqa: E402
    BaseModelError,
    base_sha256,
    tiny_base_folder,
)
from continuonbrain.storage.base_files import BEHAVIOUR_FILES  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

    from continuonbrain.model.driving import DrivingModel


@pytest.fixture
def copy(untrained_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained_base, tmp_path / "base"))


def test_a_saved_base_answers_as_before_up_to_half_precision(
    untrained_model: Callable[..., DrivingModel], untrained_base: Path, prompts: tuple[Tensor, Tensor]
) -> None:
    saved, loaded = untrained_model(0), load_base(untrained_base)
    with torch.no_grad():
        before, after = saved(*prompts), loaded(*prompts)
    assert (before - after).abs().max() < 0.02 * before.abs().max()
    assert not any(p.requires_grad for p in loaded.parameters())
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert not loaded.training


@pytest.mark.parametrize("name", BEHAVIOUR_FILES)
def test_every_file_that_decides_behaviour_is_in_the_identity(copy: Path, name: str) -> None:
    before = base_sha256(copy)
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    assert base_sha256(copy) != before


def test_the_card_is_not(copy: Path) -> None:
    before = base_sha256(copy)
    (copy / "card.json").write_text("{}")
    assert base_sha256(copy) == before


@pytest.mark.parametrize("name", BEHAVIOUR_FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BaseModelError, match=name.replace(".", r"\.")) as caught:
        load_base(copy)
    assert "base_model_path" in caught.value.remedy


def shorten(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])


def edit(folder: Path, name: str, **changes: object) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: shorten(f, "model.safetensors"),
        lambda f: shorten(f, "connector.safetensors"),
        lambda f: (f / "connector.json").write_text("{"),
        lambda f: (f / "connector.json").write_text("[]"),
        lambda f: (f / "connector.json").write_text("{}"),
        lambda f: edit(f, "connector.json", connector={"channels": [8, 8], "hidden_size": 128}),
        lambda f: edit(f, "connector.json", connector={"channels": [8, 8, 8, 8], "hidden_size": 128}),
        lambda f: (f / "config.json").write_text("{"),
        lambda f: edit(f, "config.json", hidden_size=64),
        lambda f: shutil.copy(f / "connector.safetensors", f / "model.safetensors"),
    ],
)
def test_a_damaged_base_is_refused_by_folder(copy: Path, damage: Callable[[Path], object]) -> None:
    damage(copy)
    with pytest.raises(BaseModelError, match=str(copy)):
        load_base(copy)


def test_the_shipped_base_loads_and_is_as_small_as_promised() -> None:
    folder = tiny_base_folder()
    if not (folder / "model.safetensors").exists():
        pytest.skip("the tiny base is not built here")
    model = load_base(folder)
    config = model.causal_lm.config
    assert sum(p.numel() for p in model.parameters()) <= 6_000_000
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 12 * 1024 * 1024
    assert config.num_kv_shared_layers * 2 == config.num_hidden_layers
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("shared", range(1, 7))
def test_a_base_of_any_depth_of_sharing_decides_and_trains_above_its_cut(shared: int) -> None:
    from continuonbrain.model.driving import new_tiny_model
    from continuonbrain.model.lora import attach_lora

    torch.manual_seed(0)
    model = new_tiny_model(200, image_token=4, queries=3, shared_layers=shared)
    ids = torch.randint(5, 200, (2, 30))
    ids[:, 6:26] = 4
    frames = torch.randint(0, 256, (2, 120, 160, 3), dtype=torch.uint8)
    with torch.no_grad():
        before = model.decode(model.encode(ids, frames))
    assert model.decoder.first == 8 - shared
    trained = attach_lora(model, base_sha256="0" * 64, rank=2, alpha=2, targets=("q_proj", "o_proj"))
    assert len(trained) == 2 * 2 * shared
    assert torch.allclose(model.decode(model.encode(ids, frames)), before, atol=1e-5)


def test_a_depth_that_leaves_nothing_to_share_is_refused() -> None:
    from continuonbrain.model.driving import new_tiny_model

    with pytest.raises(ValueError, match="shared_layers is 7"):
        new_tiny_model(200, image_token=4, queries=3, shared_layers=7)
