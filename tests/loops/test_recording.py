"""What of a drive is recorded, and as what: by the rule, in the loop, and in what a control process tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.brain_root import open_brain
from continuonbrain.loops.control_process import ControlOptions, ControlProcess
from continuonbrain.loops.drive_session import DriveError, command_control, read_status
from continuonbrain.loops.loop_tick import MODES, Mode
from continuonbrain.loops.recording import HANDS_OFF_S, PARTS, Attended, Recording, kind_of
from continuonbrain.rlds.examples import make_step_example
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


MOST_OFF = round(HANDS_OFF_S * 20)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 2 * MOST_OFF)), max_size=4))
def test_an_episode_is_what_somebody_drove_without_a_gap(turns: list[tuple[int, int]]) -> None:
    attended, episodes, tick = Attended(), [[]], 0
    driven: set[int] = set()
    for on, off in turns:
        for is_on in [True] * on + [False] * off:
            driven |= {tick} if is_on else set()
            kept, ended = attended.take(make_step_example(tick, size=(1, 1)), driven=is_on)
            episodes[-1] += [s.tick for s in kept]
            episodes += [[]] if ended else []
            tick += 1
    assert driven == {t for e in episodes for t in e} & driven
    for ticks in filter(None, episodes):
        assert ticks == list(range(ticks[0], ticks[-1] + 1))
        assert {ticks[0], ticks[-1]} <= driven
    gaps = [b[0] - a[-1] for a, b in pairwise(episodes) if a and b]
    assert all(gap > MOST_OFF for gap in gaps)


def hands(off: range, away: range = range(0)) -> Rig:
    """A person whose hand is off in some ticks; the body is astray in others."""
    r = rig()
    r.loop.teleop = lambda: ((0.3, 0.4), 9.0 if r.loop.ticks in off else 0.0)
    r.loop.set_mode("teleop")
    r.loop.record("lessons", True)
    r.run(200, lambda tick: r.loop.astray(tick.number + 1 in away))
    return r


def ticks_of(r: Rig) -> list[list[int]]:
    return [[s.tick for s in m.steps] for m in r.episodes]


def test_a_hand_that_is_off_for_a_moment_is_part_of_the_lesson() -> None:
    r = hands(range(50, 50 + MOST_OFF))
    assert ticks_of(r) == [list(range(200))]
    assert {"deadman"} == {reason for s in r.episodes[0].steps[50 : 50 + MOST_OFF] for reason in s.reasons}


def test_a_hand_that_stays_off_ends_the_lesson_where_it_was_taken_off() -> None:
    assert ticks_of(hands(range(50, 150))) == [list(range(50)), list(range(150, 200))]
    assert ticks_of(hands(range(50, 200))) == [list(range(50))]
    assert ticks_of(hands(range(200))) == []


def test_where_the_simulator_puts_the_car_back_another_lesson_begins() -> None:
    assert ticks_of(hands(range(0), range(60, 80))) == [list(range(60)), list(range(80, 200))]


def test_an_emergency_stop_is_no_part_of_a_lesson() -> None:
    r = held_by_hand()
    r.loop.record("lessons", True)

    def stop(tick: Any) -> None:
        if tick.number == 20:
            r.loop.emergency_stop()

    r.run(120, stop)
    assert ticks_of(r) == [list(range(21))]


HOLDS = ["low_battery", "sensor_fault", "clock"]


def held_from(what: str, tick: int) -> tuple[Rig, Callable[[Any], None]]:
    """Something holds the robot from a tick on: its battery, its camera, or that it is late. With what is done at every
    tick."""
    r = rig(
        broken=lambda look: "gone" if what == "sensor_fault" and look >= tick else "",
        look_s=lambda look: 0.06 if what == "clock" and look >= tick - 3 else 0.002,
    )

    def hold(done: int) -> None:
        r.loop.hold("the battery is at 4%" if what == "low_battery" and done >= tick - 1 else "")

    hold(-1)
    return r, lambda done: hold(done.number)


@pytest.mark.parametrize("what", HOLDS)
def test_a_robot_that_is_held_teaches_nothing_with_no_hand_at_the_wheel(what: str) -> None:
    r, hold = held_from(what, 0)
    r.loop.teleop = lambda: ((0.0, 0.0), 9.0)
    r.loop.set_mode("teleop")
    r.loop.record("lessons", True)
    assert r.run(100, hold).recorded_steps == 0
    assert {reason for tick in r.ticks[10:] for reason in tick.guarded.reasons} == {what}
    assert r.loop.recorded_as() == "lesson"
    assert r.loop.recording_waits()


@pytest.mark.parametrize("what", HOLDS)
def test_a_lesson_ends_where_the_robot_is_held(what: str) -> None:
    r, hold = held_from(what, 60)
    r.loop.teleop = lambda: ((0.3, 0.4), 0.0)
    r.loop.set_mode("teleop")
    r.loop.record("lessons", True)
    r.run(200, hold)
    ((*ticks,),) = ticks_of(r)
    last = ticks[-1]
    assert ticks == list(range(last + 1))
    assert 56 <= last < 62
    assert r.episodes[0].steps[-1].reasons == ()


@pytest.mark.parametrize("what", HOLDS)
def test_assisted_with_nobody_there_records_nothing_also_where_the_robot_is_held(what: str) -> None:
    r, hold = held_from(what, 50)
    r.loop.set_mode("assisted")
    assert r.run(150, hold).recorded_steps == 0


def policy_stopped(what: str, ticks: range) -> Rig:
    """On autopilot; something holds the robot in these ticks. 300 are run."""
    r = rig(broken=lambda look: "gone" if what == "sensor_fault" and look in ticks else "")
    if what == "stale_path":
        r.paths.dies_at_s = r.time.now_s + ticks.start / 20

    def hold(done: Any) -> None:
        now = done.number + 1
        if what == "emergency_stop" and now in (ticks.start, ticks.stop):
            r.loop.emergency_stop() if now == ticks.start else r.loop.release()
        elif what == "low_battery":
            r.loop.hold("the battery is at 4%" if now in ticks else "")
        elif what == "instruction_stop" and now in (ticks.start, ticks.stop):
            r.body.speed_mps = 0.0 if now == ticks.start else 1.0
            r.loop.instruct("stop" if now == ticks.start else "drive")

    r.run(300, hold)
    return r


AUTOPILOT_HOLDS = ["emergency_stop", "low_battery", "sensor_fault", "stale_path", "instruction_stop"]


@pytest.mark.parametrize("what", AUTOPILOT_HOLDS)
def test_a_robot_that_is_held_on_autopilot_is_not_recorded_for_as_long_as_it_stands(what: str) -> None:
    r = policy_stopped(what, range(100, 1000))
    ticks = [tick for episode in ticks_of(r) for tick in episode]  # another instruction is another episode
    stands = max(tick.number for tick in r.ticks if not tick.guarded.stopped) + 1
    assert stands < 150
    assert ticks == list(range(ticks[0], stands + 1))  # the drive ends with what ended it
    assert what in r.episodes[-1].steps[-1].reasons
    assert r.loop.recorded_as() == "drive"
    assert r.loop.recording_waits()


@pytest.mark.parametrize("what", AUTOPILOT_HOLDS[:3])
def test_where_a_held_robot_drives_on_another_drive_begins(what: str) -> None:
    first, second = ticks_of(policy_stopped(what, range(100, 200)))
    assert 100 <= first[-1] <= 102
    assert 200 <= second[0] <= 203
    assert second == list(range(second[0], 300))


def test_a_moment_in_which_the_policy_is_stopped_is_part_of_its_drive() -> None:
    (ticks,) = ticks_of(policy_stopped("sensor_fault", range(100, 100 + MOST_OFF)))
    assert ticks == list(range(ticks[0], 300))


def test_a_stop_of_a_robot_that_drives_is_evidence_and_one_of_a_robot_that_stands_is_none() -> None:
    r = rig()

    def stop(tick: Any) -> None:
        if tick.number == 50:
            r.loop.set_mode("park")
            r.loop.emergency_stop()
        elif tick.number == 60:
            r.loop.set_mode("autopilot")

    r.run(150, stop)
    assert ticks_of(r)[0][-1] == 50
    assert not any("emergency_stop" in step.reasons for m in r.episodes for step in m.steps)
    r = policy_stopped("emergency_stop", range(100, 1000))
    assert [s.tick for m in r.episodes for s in m.steps if "emergency_stop" in s.reasons] == [100]


def test_assisted_with_nobody_at_the_wheel_records_nothing() -> None:
    r = rig()
    r.loop.set_mode("assisted")
    assert r.run(100).recorded_steps == 0
    assert r.loop.recorded_as() == "drive"
    assert r.loop.recording_waits()


def test_the_status_says_that_a_lesson_waits_for_a_hand() -> None:
    waits: dict[int, bool] = {}
    r = rig()
    r.loop.teleop = lambda: ((0.3, 0.4), 9.0 if 50 <= r.loop.ticks < 150 else 0.0)
    r.loop.set_mode("teleop")
    r.loop.record("lessons", True)
    r.run(200, lambda tick: waits.update({tick.number: r.loop.recording_waits()}))
    assert [t for t in waits if waits[t]] == list(range(50 + MOST_OFF, 150))


def test_a_car_that_is_put_back_is_told_and_is_another_lesson(layout: BrainLayout) -> None:
    process = ControlProcess(open_brain(layout.root), ControlOptions())
    loop, told = process._loop, set()
    try:
        assert process._change_mode("teleop") == ""
        loop.record("lessons", True)
        loop.teleop = lambda: ((1.0, 1.0), 0.0)
        loop.hz = 100.0

        def look(tick: Any) -> None:
            process._on_tick(tick)
            told.add(process._snapshot.gauges()["astray"])

        end: list[int] = []

        def over() -> bool:
            robot = process._body.robot
            if not end and robot.off_road and not robot.astray:
                end.append(loop.ticks + 5)
            return loop.ticks >= (end or [2000])[0]

        loop.run(over, look)
    finally:
        process._client.close()
        process._reflexes.close()
        loop.close()
    assert told == {"", "it left the road: it is put back"}
    found = [list(open_episode(p)) for p in list_episodes(layout.episodes_dir)]
    first, second = sorted(found, key=lambda steps: steps[0].tick)
    assert second[0].tick - first[-1].tick == 21
    assert len(second) == 5


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
        told = wait_for(session, lambda s: s["recording"]["lessons"])["recording"]
        assert (told["on"], told["as"], told["waits"], told["steps"]) == (True, "lesson", True, 0)

        def driven(status: dict[str, Any]) -> bool:
            command_control(layout, {"type": "teleop", "steering": 0.1, "throttle": 0.1})
            return bool(status["recording"]["steps"] > 3)

        told = wait_for(session, driven)["recording"]
        assert (told["on"], told["as"], told["waits"]) == (True, "lesson", False)
        command_control(layout, {"type": "mode", "mode": "park"})
        told = wait_for(session, lambda s: s["mode"] == "park")["recording"]
        assert (told["on"], told["lessons"]) == (False, True)  # it stands: nothing is recorded
        session.stop()
    told = read_status(layout)["recording"]
    assert (told["on"], told["as"]) == (False, "")
    roles = [open_episode(p).metadata.control_role for p in list_episodes(layout.episodes_dir)]
    assert sorted(roles) == ["autonomous", "human_teleop"]
