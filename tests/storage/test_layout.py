"""The brain root: what init creates, that it never overwrites, and what it says when it cannot."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from continuonbrain.brain_root import open_brain
from continuonbrain.configs import UnknownPresetError, preset_bytes
from continuonbrain.storage.layout import BrainLayout, LayoutError, init_brain_root
from continuonbrain.storage.manifest import manifest_from_settings, write_manifest

PLANNED = [
    "config.json",
    "model/adapters/versions",
    "model/base_model",
    "model/manifest.json",
    "model/safety/current",
    "rlds/episodes",
    "run",
    "trainer/logs",
]


@pytest.mark.parametrize("preset", ["sim-donkey", "pi5-donkey"])
def test_init_creates_the_planned_layout_and_it_opens(tmp_path: Path, preset: str) -> None:
    init_brain_root(tmp_path, preset)
    assert all((tmp_path / part).exists() for part in PLANNED)
    assert (tmp_path / "config.json").read_bytes() == preset_bytes(preset)
    assert open_brain(tmp_path).layout == BrainLayout(tmp_path)


def test_init_again_changes_nothing(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path, "sim-donkey")
    mine = layout.config_path.read_text().replace('"max_steps": 300', '"max_steps": 7')
    layout.config_path.write_text(mine)
    (layout.base_model_dir / "weights").write_bytes(b"mine")
    other = tmp_path / "other_base"
    other.mkdir()
    (other / "weights").write_bytes(b"theirs")
    init_brain_root(tmp_path, "pi5-donkey", base_model=other)
    assert layout.config_path.read_text() == mine
    assert (layout.base_model_dir / "weights").read_bytes() == b"mine"


def test_init_copies_the_base_model_into_an_empty_root(tmp_path: Path) -> None:
    base = tmp_path / "tiny"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"w")
    layout = init_brain_root(tmp_path / "brain", "sim-donkey", base_model=base)
    assert (layout.base_model_dir / "model.safetensors").read_bytes() == b"w"


def test_init_killed_at_any_call_is_completed_by_running_it_again(
    tmp_path: Path, dying_os: Callable[..., object], adapters: type
) -> None:
    for change in range(100):
        root = tmp_path / str(change)
        dying = dying_os(change)
        try:
            init_brain_root(root, "sim-donkey")
        except adapters.SimulatedDeathError:
            dying_os()
            init_brain_root(root, "sim-donkey")
        open_brain(root)
        json.loads((root / "model" / "manifest.json").read_text())
        if not dying.dead:
            break
    assert change > 15


def test_a_root_that_cannot_be_created_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LayoutError) as caught:
        init_brain_root(tmp_path / "file" / "brain", "sim-donkey")
    assert str(tmp_path / "file" / "brain") in caught.value.message
    assert "--root" in caught.value.remedy


def test_a_root_that_is_not_writable_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # access() says yes to root whatever the mode bits are, so its answer is given here.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(LayoutError, match="Permission denied"):
        init_brain_root(tmp_path / "brain", "sim-donkey")


def test_an_unknown_preset_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnknownPresetError):
        init_brain_root(tmp_path / "brain", "nothing")
    assert not (tmp_path / "brain").exists()


def test_opening_what_is_no_brain_root_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LayoutError) as caught:
        open_brain(tmp_path)
    assert "continuonbrain init" in caught.value.remedy


def test_paths_in_the_config_are_followed(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "brain", "sim-donkey")
    settings = json.loads(layout.config_path.read_bytes())
    settings["rlds_dir"] = str(tmp_path / "big_disk")
    settings["adapters_out_dir"] = "learned/candidate"
    layout.config_path.write_text(json.dumps(settings))
    opened = open_brain(layout.root).layout
    assert opened.episodes_dir == tmp_path / "big_disk"
    assert opened.candidate == layout.root / "learned" / "candidate"


def test_a_socket_path_too_long_for_the_kernel_is_refused_early(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="socket"):
        _ = BrainLayout(tmp_path / ("x" * 120)).policy_socket


def test_the_manifest_has_the_examples_keys_and_absolute_paths(tmp_path: Path) -> None:
    example_path = Path(__file__).parents[2] / "continuonbrain" / "model" / "manifest.pi5.example.json"
    example = json.loads(example_path.read_text())
    layout = init_brain_root(tmp_path, "pi5-donkey")
    (layout.base_model_dir / "merged.litertlm").write_bytes(b"")
    write_manifest(
        layout, manifest_from_settings(layout, open_brain(tmp_path).config.model_dump(mode="json"))
    )
    manifest = json.loads(layout.manifest_path.read_text())
    assert manifest.keys() == example.keys()
    for group in ("runtime", "adapter_meta", "capabilities"):
        assert manifest[group] == example[group]
    assert manifest["safety"]["clamp_bounds"] == example["safety"]["clamp_bounds"]
    assert manifest["paths"].keys() == example["paths"].keys()
    assert all(Path(path).is_absolute() for path in manifest["paths"].values())


def test_the_manifest_says_what_each_path_can_do_and_names_no_bundle_that_is_not_there(
    tmp_path: Path,
) -> None:
    layout = init_brain_root(tmp_path, "sim-donkey")
    config = open_brain(tmp_path).config.model_dump(mode="json")
    manifest = manifest_from_settings(layout, config)
    assert manifest["capabilities"].keys() == {"base_model", "adapter", "service"}
    (layout.base_model_dir / "plain.litertlm").write_bytes(b"")
    manifest = manifest_from_settings(layout, config)
    assert manifest["paths"]["plain_bundle"] == str(layout.base_model_dir / "plain.litertlm")
    assert manifest["capabilities"]["plain_bundle"]["adapter"] == "none"
    assert set(manifest["capabilities"]) <= set(manifest["paths"])


def test_the_manifest_names_a_safety_head_only_when_there_is_one(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path, "sim-donkey")
    config = open_brain(tmp_path).config.model_dump(mode="json")
    assert manifest_from_settings(layout, config)["paths"]["safety_head"] == str(layout.safety_dir)
    for file in layout.safety_dir.iterdir():
        file.unlink()
    assert "safety_head" not in manifest_from_settings(layout, config)["paths"]


def test_writing_the_manifest_touches_it_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = init_brain_root(tmp_path, "sim-donkey")
    touched: list[Path] = []
    monkeypatch.setattr(os, "utime", lambda path, *_: touched.append(path))
    write_manifest(layout, {"model_name": "x"})
    assert touched == [layout.manifest_path]
    assert json.loads(layout.manifest_path.read_text()) == {"model_name": "x"}


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(LayoutError, match="not a brain root"):
        init_brain_root(tmp_path, "sim-donkey")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_half_a_brain_root_is_completed(tmp_path: Path) -> None:
    (tmp_path / "model" / "base_model").mkdir(parents=True)
    assert init_brain_root(tmp_path, "sim-donkey").config_path.exists()
