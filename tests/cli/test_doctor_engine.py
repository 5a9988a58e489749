"""What the doctor says of the engine: which one decides, and what is wrong with its bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.small_verdict import judged
from continuonbrain.brain_root import open_brain
from continuonbrain.cli.doctor import check_brain
from continuonbrain.cli.doctor_brain import check_adapter, check_engine, check_safety_head, check_words
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.storage.layout import BrainLayout, init_brain_root

TALKING_BASE = Path(__file__).parents[1] / "talking_base" / "base"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return init_brain_root(tmp_path / "b", "sim-donkey", base_model=tiny_base_folder()).root


def test_what_does_not_say_which_base_drives_is_not_called_the_config(root: Path) -> None:
    check, report = check_brain(root)
    assert (check.name, check.ok) == ("config", True)
    assert report is not None
    slot = BrainLayout(root).base_slot_path
    slot.write_text("{ torn")
    check, report = check_brain(root)
    assert (check.name, check.ok) == ("base slot", False)
    assert str(slot) in check.value
    assert check.remedy.startswith(f"remove {slot}")
    assert report is None
    (root / "config.json").write_text("{ torn")
    assert check_brain(root)[0].name == "config"


def set_policy(root: Path, **changes: object) -> None:
    path = root / "config.json"
    settings = json.loads(path.read_text())
    settings["policy"] |= changes
    path.write_text(json.dumps(settings))


def _change_base(root: Path) -> None:
    config = root / "model" / "base_model" / "config.json"
    config.write_text(config.read_text() + " ")


def _cut(root: Path) -> None:
    graph = root / "model" / "base_model" / "serving" / "fp32" / "serving.tflite"
    graph.write_bytes(graph.read_bytes()[:-1])


def test_a_whole_bundle_is_what_decides(root: Path) -> None:
    for precision in ("fp32", "int8"):
        set_policy(root, precision=precision)
        found = check_engine(root)
        assert (found.ok, found.value) == (True, f"litert, {precision}, adapters up to rank 16")
    set_policy(root, engine="torch")
    assert check_engine(root).value == "torch"


@pytest.mark.parametrize(("change", "words"), [(_cut, "is damaged"), (_change_base, "is of another base")])
def test_a_bundle_that_does_not_fit_is_told_before_the_robot_starts(
    root: Path, change: Callable[[Path], None], words: str
) -> None:
    change(root)
    found = check_engine(root)
    assert not found.ok
    assert found.needed
    assert words in found.value
    assert "export" in found.remedy


def test_the_adapter_in_use_is_looked_at(root: Path) -> None:
    assert check_adapter(root).value == "none: the base drives alone"
    base = base_sha256(root / "model" / "base_model")
    store = AdapterStore(open_brain(root).layout)

    def promote(named: str) -> AdapterVersion:
        config = json.dumps({"base_model_name_or_path": f"continuonbrain:{named}"}).encode()
        files = {
            "adapter_model.safetensors": named.encode(),
            "adapter_config.json": config,
            "calibration.json": b"{}",
        }
        version = store.stage(files)
        verdict = judged(version, base)
        return store.promote(version.version_id, verdict, base_sha256=base)

    assert promote("f" * 64).version_id in check_adapter(root).value
    assert not check_adapter(root).ok
    good = promote(base)
    assert check_adapter(root).ok
    (good.path / "adapter_model.safetensors").write_bytes(b"cut")
    found = check_adapter(root)
    assert not found.ok
    assert "damaged" in found.value
    assert "rollback" in found.remedy


def test_a_candidate_without_its_weights_is_told(root: Path) -> None:
    store = AdapterStore(open_brain(root).layout)
    config = b'{"base_model_name_or_path": "continuonbrain:0"}'
    staged = store.stage({"adapter_model.safetensors": b"x", "adapter_config.json": config})
    assert check_adapter(root).ok
    (staged.path / "adapter_model.safetensors").unlink()
    found = check_adapter(root)
    assert not found.ok
    assert "the candidate" in found.value
    assert f"continuonbrain train --root {root}" in found.remedy


def test_thresholds_that_are_not_in_use_yet_are_told(root: Path) -> None:
    assert "config.json" not in check_safety_head(root).value
    path = root / "config.json"
    settings = json.loads(path.read_text())
    settings.setdefault("heads", {}).setdefault("safety", {})["block_threshold"] = 0.75
    path.write_text(json.dumps(settings))
    value = check_safety_head(root).value
    assert "stops from 0.6 (config.json says 0.25 and 0.75: from the next start on)" in value


def test_words_are_told_and_not_needed(root: Path, tmp_path: Path) -> None:
    assert (check_words(root).ok, check_words(root).needed) == (False, False)
    talks = init_brain_root(tmp_path / "t", "sim-donkey", base_model=TALKING_BASE).root
    assert (check_words(talks).ok, check_words(talks).value) == (True, "litert")


def test_a_base_that_only_talks_is_told_to_be_one_and_its_words_are_shown(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from continuonbrain.cli.main import app

    root = init_brain_root(tmp_path / "b", "sim-donkey", base_model=TALKING_BASE).root
    result = CliRunner().invoke(app, ["doctor", "--root", str(root), "--json"])
    assert result.exit_code == 1  # it cannot drive
    checks = {check["name"]: check for check in json.loads(result.output)["checks"]}
    assert "not built to drive" in checks["base model"]["value"]
    assert "chat" in checks["base model"]["remedy"]
    assert checks["words"]["ok"]
    assert checks["adapter"]["value"] == "none: the base drives alone"
    assert "engine" not in checks
