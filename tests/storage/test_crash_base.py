"""The crash harness on a change of the base: nothing is found; what an outsider must find is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import crash_base, crash_points
from benchmarks.ptraced import trace
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops import promotion

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "_APART_S", 0.0)


@pytest.mark.long
@pytest.mark.parametrize("name", [operation.name for operation in crash_base.OPERATIONS])
def test_killed_at_every_call_a_base_is_never_half_changed(tmp_path: Path, name: str) -> None:
    try:
        trace(lambda: None)
    except OSError as error:
        pytest.skip(str(error))
    operation = next(o for o in crash_points.operations() if o.name == name)
    found = crash_points.crash(operation, tmp_path)
    assert found.violations == []
    assert found.crash_points >= 2 * found.calls >= 40


def on_probation(folder: Path) -> tuple[BrainRoot, str]:
    operation = next(o for o in crash_base.OPERATIONS if o.name == "rollback_base")
    brain = crash_points.new_root(folder / "b")
    operation.prepare(brain)
    now = open_brain(brain.layout.root)
    return now, now.layout.base_slot


def test_half_a_slot_a_wrong_base_and_a_change_told_twice_are_found_out(tmp_path: Path) -> None:
    brain, slot = on_probation(tmp_path)
    root = brain.layout.root
    assert crash_base.base_faults(root, {slot}) == []
    assert crash_base.base_unsettled(root) == []
    assert "allowed are ['']" in crash_base.base_faults(root, {""})[0]
    weights = root / "model" / "bases" / slot / "base" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert crash_base.base_faults(root, {slot}) == [f"slot {slot} is not whole"]
    weights.write_bytes(whole)
    log = root / "run" / "events" / "events.jsonl"
    lines = log.read_bytes()
    log.write_bytes(lines + lines)
    assert "told 2 times" in crash_base.base_unsettled(root)[0]
    log.write_bytes(b"")
    assert "told 0 times" in crash_base.base_unsettled(root)[0]
    state = root / "model" / "base_slot.json"
    state.write_text(json.dumps(json.loads(state.read_bytes()) | {"current": "0" * 16}))
    assert "is not there" in crash_base.base_faults(root, {"0" * 16})[0]
