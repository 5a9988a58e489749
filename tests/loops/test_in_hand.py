"""What a person wants of the robot, by itself and in a control process with a simulated life."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.brain_root import open_brain
from continuonbrain.loops.control_process import ControlOptions, ControlProcess
from continuonbrain.loops.in_hand import InHand
from continuonbrain.loops.loop_tick import MODES, Mode
from continuonbrain.storage.layout import init_brain_root


@given(st.lists(st.sampled_from((*MODES, "takes part", "hands back")), min_size=1), st.booleans())
def test_the_last_word_counts_and_a_life_has_its_way_only_without_one(said: list[Any], drove: bool) -> None:
    hand, alone, wanted = InHand(), True, ""
    for word in said:
        if word == "hands back":
            hand.hand_back()
            alone, wanted = True, ""
        elif word == "takes part":
            hand.take_part(drives=drove)
            wanted = wanted if not alone else "autopilot" if drove else "park"
            alone = False
        else:
            hand.choose(word)
            alone, wanted = False, word
    assert hand.taken is not alone
    for driving in (True, False):
        by_itself = "autopilot" if driving else "park"
        # Where a person has taken part the process asks with driving=True.
        if alone or driving:
            assert hand.mode(driving=driving) == (by_itself if alone else wanted)


@pytest.mark.parametrize(
    ("before", "parked", "taken"),
    [
        ({}, False, False),
        ({"mode": "autopilot", "life": "alone", "held": False}, False, False),
        ({"mode": "teach", "life": "alone", "held": False}, False, False),
        ({"mode": "autopilot", "life": "taken", "held": False}, False, True),
        ({"mode": "stopped", "life": "taken", "held": False, "by_hand": False}, False, True),
        ({"mode": "assisted", "life": "taken", "held": False, "by_hand": True}, True, True),
        ({"mode": "stopped", "life": "taken", "held": False, "by_hand": True}, True, True),
        ({"mode": "teach", "life": "taken", "held": False, "by_hand": True}, True, True),
        ({"mode": "park", "life": "taken", "held": True}, True, True),
        ({"mode": "park", "held": True}, True, True),
    ],
)
def test_what_a_person_had_in_hand_does_nothing_by_itself_after_a_kill(
    before: dict[str, object], parked: bool, taken: bool
) -> None:
    hand = InHand()
    hand.go_on_as(before)
    assert (hand.parked, hand.taken, hand.by_hand) == (parked, taken, None)


@contextmanager
def process_of(tmp_path: Path, *, cycle: bool) -> Iterator[ControlProcess]:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    process = ControlProcess(open_brain(layout.root), ControlOptions(cycle=cycle, record=False))
    try:
        yield process
    finally:
        process._client.close()
        process._reflexes.close()
        process._loop.close()


@pytest.mark.parametrize("phase", ["teach", "park", "drive"])
@pytest.mark.parametrize("mode", MODES)
def test_a_persons_mode_is_the_mode_whatever_a_life_was_at(tmp_path: Path, phase: str, mode: Mode) -> None:
    with process_of(tmp_path, cycle=True) as process:
        assert process._life is not None
        process._life.phase = phase
        assert process._snapshot.take()["life"] == "alone"
        assert process._change_mode(mode) == ""
        assert process.taken
        assert (process._loop.mode, process._snapshot.take()["life"]) == (mode, "taken")
        assert process._hand_back() == ""
        assert not process.taken
        assert (process._loop.mode, process._snapshot.take()["life"]) == ("park", "alone")


def test_a_robot_that_is_handed_back_stands_for_nobodys_stop_and_obeys_nobodys_hand(tmp_path: Path) -> None:
    with process_of(tmp_path, cycle=True) as process:
        assert process._change_mode("teleop") == ""
        assert process._remote.take({"steering": 0.5, "throttle": 0.5}) == ""
        process._loop.emergency_stop()
        assert process._remote.hand() == "drives"
        assert process._hand_back() == ""
        assert not process._loop.pilot.guard.emergency_stopped
        assert process._remote.hand() == "gone"


def test_a_stop_or_a_recording_while_it_is_taught_leaves_it_standing(tmp_path: Path) -> None:
    with process_of(tmp_path, cycle=True) as process:
        assert process._life is not None
        process._life.phase = "teach"
        process._take_part()
        process.enter(driving=True)
        assert (process.taken, process._loop.mode) == (True, "park")


def test_a_robot_that_drives_goes_on_when_a_person_takes_part(tmp_path: Path) -> None:
    with process_of(tmp_path, cycle=True) as process:
        assert process._life is not None
        process._life.phase = "drive"
        process._take_part()
        process.enter(driving=True)
        assert (process.taken, process._loop.mode) == (True, "autopilot")


def test_without_a_simulated_life_there_is_nothing_to_hand_it_back_to(tmp_path: Path) -> None:
    with process_of(tmp_path, cycle=False) as process:
        assert "continuonbrain run" in process._hand_back()
        assert process._snapshot.take()["life"] == ""
