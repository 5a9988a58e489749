"""Which base drives: the rule, the file that says it, and that no kill and no damage ever leaves another one."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ptraced import trace
from continuonbrain.brain_root import open_brain
from continuonbrain.storage.base_files import BEHAVIOUR_FILES
from continuonbrain.storage.base_slot_rule import (
    MOST_EVENTS,
    BaseEvent,
    BaseState,
    Refused,
    Switch,
    decide,
)
from continuonbrain.storage.base_slots import BaseSlotError, BaseSlots
from continuonbrain.storage.base_verdict_rule import BASE_VERDICT_VERSION, switch_refusal
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from continuonbrain.storage.probation_rule import Boot, Confirm, Revert, Rollback, Terms

A, B = "a" * 16, "b" * 16
TERMS = Terms(400, 0.0, "boot-1")


def after(state: BaseState, event: BaseEvent) -> BaseState:
    new = decide(state, event)
    assert isinstance(new, BaseState)
    return new


# The rule.


def test_a_revert_puts_everything_back_and_keeps_the_bad_one_out() -> None:
    before = after(BaseState(), Switch(A))
    now = after(before, Switch(B, TERMS))
    assert (now.current, now.previous, now.terms) == (B, A, TERMS)
    back = after(now, Revert())
    assert (back.current, back.previous, back.terms) == (before.current, before.previous, None)
    assert back.taken_back == (B,)
    assert isinstance(decide(back, Switch(B, TERMS)), Refused)
    assert after(back, Switch(B, TERMS, again=True)).current == B


def test_a_start_of_the_machine_takes_back_what_was_not_confirmed() -> None:
    now = after(BaseState(), Switch(A, TERMS))
    assert decide(now, Boot("boot-1")) is None
    assert after(now, Boot("boot-2")).current == ""
    assert after(now, Boot("")).current == ""
    kept = after(now, Confirm())
    assert decide(kept, Boot("boot-2")) is None


def test_on_probation_there_is_no_other_switch() -> None:
    now = after(BaseState(), Switch(A, TERMS))
    found = decide(now, Switch(B, TERMS))
    assert isinstance(found, Refused)
    assert "confirm" in found.remedy


def test_a_second_rollback_undoes_the_first_and_none_goes_nowhere() -> None:
    assert isinstance(decide(BaseState(), Rollback()), Refused)
    now = after(after(BaseState(), Switch(A)), Rollback())
    assert (now.current, now.previous) == ("", A)
    assert after(now, Rollback()).current == A


EVENTS = st.one_of(
    st.builds(Switch, st.sampled_from([A, B]), st.sampled_from([None, TERMS]), st.booleans()),
    st.sampled_from([Confirm(), Revert(), Rollback(), Boot("boot-1"), Boot("boot-2")]),
)


@given(st.lists(EVENTS, max_size=80))
def test_whatever_happens_the_state_can_be_told_and_read_again(events: list[BaseEvent]) -> None:
    state = BaseState()
    for event in events:
        new = decide(state, event)
        if isinstance(new, BaseState):
            assert new.change == state.change + 1
            if state.terms is not None:  # a probation ends one way or the other, and begins no other
                assert new.terms is None
                assert new.current in (state.current, state.previous)
            if new.terms is not None:
                assert new.previous == state.current
            state = new
        assert BaseState.from_json(json.loads(json.dumps(state.to_json()))) == state
        assert len(state.events) <= MOST_EVENTS


# The verdict.

GOOD: dict[str, Any] = {
    "version": BASE_VERDICT_VERSION,
    "passed": True,
    "reason": "",
    "checks": [{"name": "completion", "passed": True}],
    "evidence": {"held_out_steps": 0},
    "base_sha256": "1" * 64,
    "adapter_sha256": "",
    "calibration_sha256": "2" * 64,
    "against_base_sha256": "3" * 64,
    "against_adapter_sha256": "4" * 64,
}
NOW = {
    "base_sha256": "1" * 64,
    "adapter_sha256": "",
    "calibration_sha256": "2" * 64,
    "against_base": "3" * 64,
    "against_adapter": "4" * 64,
}


def test_a_verdict_of_exactly_these_two_lets_it_drive() -> None:
    assert switch_refusal(GOOD, **NOW) == ""
    assert switch_refusal(None, **NOW) == "it has no verdict"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"passed": False}, "did not pass"),
        ({"passed": 1}, "did not pass"),
        ({"checks": []}, "no checks"),
        ({"checks": [{"passed": False}]}, "its checks do not"),
        ({"reason": "completion"}, "why it did not"),
        ({"evidence": {}}, "no evidence"),
        ({"base_sha256": "9" * 64}, "another base"),
        ({"adapter_sha256": "9" * 64}, "another adapter"),
        ({"calibration_sha256": "9" * 64}, "another servo"),
        ({"against_base_sha256": "9" * 64}, "stale"),
        ({"against_adapter_sha256": ""}, "stale"),
        ({"against_adapter_sha256": None}, "stale"),
    ],
)
def test_any_other_verdict_does_not(changes: dict[str, Any], match: str) -> None:
    assert match in switch_refusal(GOOD | changes, **NOW)


# The file.


@pytest.fixture
def layout(tmp_path: Path) -> BrainLayout:
    """A root with two imported bases of a few bytes."""
    found = init_brain_root(tmp_path / "brain", "sim-donkey")
    for slot in (A, B):
        base = found.slot_dir(slot) / "base"
        base.mkdir(parents=True)
        for name in BEHAVIOUR_FILES:
            (base / name).write_text(slot)
        (found.slot_dir(slot) / "slot.json").write_text(json.dumps({"base_sha256": slot * 4}))
    return found


def test_what_drives_is_what_everybody_opens(layout: BrainLayout) -> None:
    slots = BaseSlots(layout)
    assert open_brain(layout.root).layout == layout
    slots.change(Switch(A), {"by": "test"})
    found = open_brain(layout.root).layout
    assert found.base_slot == A
    assert found.base_model_dir == layout.slot_dir(A) / "base"
    assert found.adapters_dir == layout.slot_dir(A) / "adapters"
    assert found.driving_now_dir != layout.driving_now_dir
    assert found.announced_path != layout.announced_path
    assert found.changing_lock_path == layout.changing_lock_path
    slots.change(Rollback(), {"by": "test"})
    assert open_brain(layout.root).layout == layout


@pytest.mark.parametrize("gone", ["slot.json", "base/model.safetensors", "base"])
def test_a_base_that_is_named_and_not_whole_stops_everybody(layout: BrainLayout, gone: str) -> None:
    BaseSlots(layout).change(Switch(A), {})
    path = layout.slot_dir(A) / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BaseSlotError, match="should drive cannot") as told:
        open_brain(layout.root)
    assert "base rollback" in told.value.remedy
    open_brain(layout.root, slot="")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"schema": 1}', b"\xff", b"[" * 100_000]
    + [
        json.dumps(BaseState().to_json() | change).encode()
        for change in (
            {"schema": 2},
            {"current": "../../elsewhere"},
            {"current": None},
            {"previous": "A" * 16},
            {"change": -1},
            {"events": {}},
        )
    ],
)
def test_a_damaged_file_never_means_the_other_base(layout: BrainLayout, data: bytes) -> None:
    layout.base_slot_path.write_bytes(data)
    with pytest.raises(BaseSlotError, match="does not say which base drives") as told:
        open_brain(layout.root)
    assert "remove" in told.value.remedy


def test_nobody_switches_to_what_is_not_there(layout: BrainLayout) -> None:
    shutil.rmtree(layout.slot_dir(A))
    with pytest.raises(BaseSlotError, match="there is no base"):
        BaseSlots(layout).change(Switch(A), {})
    assert not layout.base_slot_path.exists()


def test_two_who_watch_do_one_thing(layout: BrainLayout) -> None:
    slots = BaseSlots(layout)
    state = slots.change(Switch(A, TERMS), {})
    assert state is not None
    assert slots.change(Revert(), {}, change=state.change) is not None
    assert slots.change(Revert(), {}, change=state.change) is None
    assert slots.state().current == ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("event", [Switch(B, TERMS), Rollback(), Revert(), Confirm()])
def test_killed_at_every_call_the_old_base_drives_or_the_new_one(
    tmp_path: Path, layout: BrainLayout, event: BaseEvent
) -> None:
    """Enumerated: before each file-system call, after it, and in the middle of each write."""
    try:
        trace(lambda: None)
    except OSError as error:
        pytest.skip(str(error))
    slots = BaseSlots(layout)
    slots.change(Switch(A, None if isinstance(event, Switch) else TERMS), {})
    old = slots.state()
    pristine = tmp_path / "pristine"
    shutil.copytree(layout.root, pristine)

    def afresh() -> None:
        shutil.rmtree(layout.root)
        shutil.copytree(pristine, layout.root)

    def act() -> None:
        BaseSlots(layout).change(event, {"by": "test"})

    def told(state: BaseState) -> dict[str, Any]:
        return replace(state, events=()).to_json()

    whole = trace(act)
    assert whole.code == 0
    new = slots.state()
    assert told(new) != told(old)
    seen = set()
    for number, call in enumerate(whole.calls):
        for when in ("before", "torn", "after") if call.size > 1 else ("before", "after"):
            afresh()
            assert trace(act, kill_at=number, when=when).killed  # type: ignore[arg-type]
            state = slots.state()
            assert told(state) in (told(old), told(new)), (number, when, call.name)
            open_brain(layout.root)
            seen.add(state.change)
            if state.change == old.change:  # it can be done to its end
                act()
                assert told(slots.state()) == told(new)
            assert not [n for n in os.listdir(layout.root / "model") if n.startswith(".staging")] or (
                state.change == new.change
            )
    assert seen == {old.change, new.change}
