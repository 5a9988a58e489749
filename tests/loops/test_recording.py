"""What of a drive is recorded, and as what: by the rule, in the loop, and in what a control process tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.loops.drive_session import DriveError, command_control, read_status
from continuonbrain.loops.loop_tick import MODES, Mode
from continuonbrain.loops.recording import PARTS, Recording, kind_of
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from tests.loops.fast_rig import Rig, rig
from tests.loops.test_drive_session import stub_session, wait_for


@pytest.fixture
def layout(tmp_path: Path) -> BrainLayout:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    config = json.loads(layout.config_path.read_text())
    config["guards"]["chunk_timeout_s"] = 1.0
    config["heads"]["safety"]["enabled"] = False  # the stub drives straight on, wherever that leads
    layout.config_path.write_text(json.dumps(config))
    return layout


SWITCHES = st.lists(st.tuples(st.sampled_from(PARTS), st.booleans()))


@pytest.mark.parametrize(
    ("mode", "by", "kind"),
    [
        ("teleop", "teleop", "lesson"),
        ("assisted", "teleop", "correction"),
        ("assisted", "autopilot", "drive"),
        ("autopilot", "autopilot", "drive"),
        ("park", "park", ""),
    ],
)
def test_who_drives_in_which_mode_says_what_it_is(mode: Mode, by: Mode, kind: str) -> None:
    assert kind_of(mode, by) == kind


@given(SWITCHES, st.sampled_from(MODES), st.sampled_from(("autopilot", "teleop", "park")), st.booleans())
def test_a_lesson_is_recorded_when_the_last_word_on_lessons_was_on_and_never_otherwise(
    said: list[tuple[Any, bool]], mode: Mode, by: Mode, able: bool
) -> None:
    rule, kind = Recording(able=able), kind_of(mode, by)
    for part, on in said:
        rule.switch(part, on)
    lessons = [on for part, on in said if part == "lessons"]
    drives = [on for part, on in said if part == "drives"]
    wanted = (lessons or [False])[-1] if kind == "lesson" else (drives or [True])[-1]
    assert rule.takes(kind) == (able and kind != "" and wanted)


def held_by_hand() -> Rig:
    r = rig()
    r.loop.teleop = lambda: ((0.3, 0.4), 0.0)
    r.loop.set_mode("teleop")
    return r


def test_who_tries_the_wheel_teaches_nothing() -> None:
    r = held_by_hand()
    report = r.run(40)
    assert r.body.sent[15] == pytest.approx((0.3, 0.4))
    assert report.recorded_steps == 0
    assert r.episodes == []
    assert r.paths.kept == []


def test_a_lesson_is_what_was_driven_while_it_was_switched_on() -> None:
    r = held_by_hand()
    at = {10: True, 30: False}

    def switch(tick: Any) -> None:
        if tick.number in at:
            r.loop.record("lessons", at[tick.number])

    r.run(50, switch)
    assert [[s.tick for s in m.steps] for m in r.episodes] == [list(range(11, 31))]


def test_the_autopilot_is_recorded_as_ever_and_lessons_do_not_change_that() -> None:
    r = rig()
    r.run(30, lambda tick: r.loop.record("lessons", False) if tick.number == 10 else None)
    assert sum(len(m.steps) for m in r.episodes) >= 27  # all but what came before the first path
    assert len(r.episodes) == 1
    r = rig()
    r.loop.record("drives", False)
    assert r.run(30).recorded_steps == 0


def test_the_status_says_what_is_recorded_and_as_what(layout: BrainLayout) -> None:
    with stub_session(layout) as session:
        told = wait_for(session, lambda s: s["recording"]["steps"] > 3)["recording"]
        assert (told["on"], told["as"], told["lessons"], told["drives"]) == (True, "drive", False, True)
        command_control(layout, {"type": "mode", "mode": "teleop"})
        told = wait_for(session, lambda s: s["mode"] == "teleop" and not s["recording"]["episode"])[
            "recording"
        ]
        assert (told["on"], told["as"]) == (False, "")
        for what in ("everything", None, True):
            with pytest.raises(DriveError, match="is none of lessons, drives"):
                command_control(layout, {"type": "record", "on": True, "what": what})
        command_control(layout, {"type": "record", "on": True, "what": "lessons"})
        told = wait_for(session, lambda s: s["recording"]["steps"] > 3)["recording"]
        assert (told["on"], told["as"]) == (True, "lesson")
        command_control(layout, {"type": "mode", "mode": "park"})
        told = wait_for(session, lambda s: s["mode"] == "park")["recording"]
        assert (told["on"], told["lessons"]) == (False, True)  # it stands: nothing is recorded
        session.stop()
    told = read_status(layout)["recording"]
    assert (told["on"], told["as"]) == (False, "")
    roles = [open_episode(p).metadata.control_role for p in list_episodes(layout.episodes_dir)]
    assert sorted(roles) == ["autonomous", "human_teleop"]
