"""What stops the robot in the fast loop, and what lets it drive again; every late tick here is meant."""

from __future__ import annotations

import gc
import math

import pytest

from continuonbrain.loops.fast import LoopTick
from continuonbrain.loops.policy_client import Answer
from tests.loops.fast_rig import PERIOD_S, rig


def test_the_third_late_tick_in_a_row_is_a_safe_stop_with_a_reason() -> None:
    r = rig(look_s=lambda tick: 0.12 if 20 <= tick < 25 else 0.001)
    report = r.run(40)
    stopped = [t.number for t in r.ticks if t.number > 5 and t.guarded.stopped]
    # Ticks 21 to 25 start late; the third of them is 23.
    assert stopped == [23, 24, 25]
    assert all(t.guarded.reasons == ("clock",) and t.guarded.throttle == 0.0 for t in r.ticks[23:26])
    assert report.overrun_stops == 3
    assert not r.ticks[30].guarded.stopped


@pytest.mark.parametrize("fault", ["the camera is gone", "old", "small"])
def test_a_robot_that_cannot_be_looked_at_is_stopped_and_drives_again_when_it_can(fault: str) -> None:
    r = rig(broken=lambda tick: fault if 20 <= tick < 24 else "")
    report = r.run(40)
    assert report.sensor_faults == 4
    for tick in r.ticks[20:24]:
        assert tick.guarded.reasons == ("sensor_fault",)
        assert r.body.sent[tick.number][1] == 0.0
        assert tick.fault
    assert not r.ticks[26].guarded.stopped
    assert r.body.sent[39][1] > 0.0


@pytest.mark.parametrize("speed_mps", [1.0, None, math.nan])
def test_a_car_that_moves_before_a_picture_that_never_changes_is_stopped_until_it_does(
    speed_mps: float | None,
) -> None:
    r = rig(broken=lambda tick: "frozen" if 20 <= tick < 60 else "")
    r.body.speed_mps = speed_mps
    r.run(80)
    stopped = [t.number for t in r.ticks if "sensor_fault" in t.guarded.reasons]
    assert stopped[0] in (30, 31)  # half a second is ten ticks, or eleven where it is rounded
    assert stopped == list(range(stopped[0], 60))
    assert all(r.body.sent[number][1] == 0.0 for number in stopped)
    assert "same picture" in r.ticks[40].fault
    assert r.body.sent[79][1] > 0.0


def test_a_car_that_stands_before_a_picture_that_never_changes_may_drive_off() -> None:
    r = rig(broken=lambda tick: "frozen at rest" if tick < 60 else "")
    report = r.run(80)
    assert report.sensor_faults == 0
    assert r.body.sent[79][1] > 0.0


def test_a_body_that_must_stand_is_stopped_with_its_reason_in_every_step_and_parked_it_tells() -> None:
    r = rig()

    def battery(tick: LoopTick) -> None:
        r.loop.hold("the battery is at 4%" if 19 <= tick.number < 29 else "")
        if tick.number == 24:
            r.loop.set_mode("park")
        elif tick.number == 26:
            r.loop.set_mode("autopilot")

    report = r.run(50, battery)
    held = [t for t in r.ticks if 20 <= t.number < 30]
    assert all(t.fault == "the battery is at 4%" and t.guarded.throttle == 0.0 for t in held)
    assert all(t.guarded.reasons == ("low_battery",) for t in held if t.mode != "park")
    assert r.ticks[19].guarded.throttle > 0.0
    assert r.ticks[49].guarded.throttle > 0.0
    assert report.sensor_faults == 0
    steps = {step.tick: step for episode in r.episodes for step in episode.steps}
    assert steps[20].reasons == ("low_battery",)  # what ended the drive
    assert not {21, 22, 23} & set(steps)
    assert steps[20].command[1] == 0.0


def test_a_path_from_before_a_long_blindness_is_forgotten() -> None:
    r = rig(broken=lambda tick: "blind" if 20 <= tick < 40 else "")
    r.paths.dies_at_s = 100.0 + 20 * PERIOD_S
    r.run(45)
    assert {reason for t in r.ticks[40:] for reason in t.guarded.reasons} == {"no_path"}


def test_without_fresh_paths_the_robot_stops_within_the_chunk_timeout() -> None:
    r = rig()
    r.paths.dies_at_s = 102.0
    r.run(100)
    last_moving = max(t.now_s for t in r.ticks if t.guarded.throttle != 0.0)
    assert 102.0 < last_moving <= 102.0 + 1.0 + PERIOD_S
    assert "stale_path" in r.ticks[-1].guarded.reasons


def test_nan_from_a_remote_control_is_a_stop_and_is_recorded_as_no_proposal() -> None:
    r = rig()
    odd = range(10, 15)  # of a lesson that goes on: by itself it is none
    r.loop.teleop = lambda: ((math.nan if r.loop.ticks in odd else 0.1, 0.4), 0.0)
    r.loop.set_mode("teleop")
    r.loop.record("lessons", True)
    r.run(20)
    assert all(r.body.sent[tick][1] == 0.0 for tick in odd)
    steps = [s for m in r.episodes for s in m.steps]
    assert [s.tick for s in steps if s.proposed is None] == list(odd)
    assert all("not_finite" in steps[tick].reasons for tick in odd)


def test_stop_is_obeyed_although_no_decision_ever_comes() -> None:
    r = rig()
    r.loop.instruct("please stop")
    r.paths.dies_at_s = 0.0
    r.run(10)
    assert all(sent == (0.0, 0.0) for sent in r.body.sent)
    assert "instruction_stop" in r.ticks[-1].guarded.reasons


def test_whatever_ends_the_loop_the_robot_is_stopped_and_the_collector_is_back() -> None:
    r = rig()

    def fail(tick: LoopTick) -> None:
        assert not gc.isenabled()
        if tick.number == 3:
            raise RuntimeError("a defect of ours")

    with pytest.raises(RuntimeError, match="a defect of ours"):
        r.run(10, fail)
    assert r.body.stops == 1
    assert gc.isenabled()


def test_actuators_that_raise_are_counted_and_the_loop_lives_on() -> None:
    r = rig()

    def refuse(_steering: float, _throttle: float) -> None:
        raise OSError("i2c")

    r.body.act = refuse  # type: ignore[method-assign]
    report = r.run(10)
    assert report.actuator_faults == 10
    assert report.ticks == 10
    assert {tick.fault for tick in r.ticks} == {"OSError: i2c"}


def test_a_decision_from_before_a_blindness_is_not_followed_after_it() -> None:
    r = rig(broken=lambda tick: "blind" if 20 <= tick < 40 else "")
    late: list[Answer] = []
    poll = r.paths.poll

    def slow_poll() -> list[Answer]:
        answers = poll()
        if r.loop.ticks == 19:
            late.extend(answers)
            return []
        if r.loop.ticks == 42:
            return late
        return answers if r.loop.ticks < 19 else []

    r.paths.poll = slow_poll  # type: ignore[method-assign]
    r.run(48)
    assert late
    assert all(t.guarded.throttle == 0.0 for t in r.ticks[40:])
    assert r.loop.pilot.tracker.path is None


@pytest.mark.parametrize("periods", [1.2, 1.5, 1.99, 2.1])
def test_a_loop_that_is_never_done_in_time_stands(periods: float) -> None:
    r = rig(look_s=lambda tick: periods * PERIOD_S if tick >= 20 else 0.002)
    report = r.run(60)
    assert report.overrun_stops > 30
    assert r.body.sent[-1][1] == 0.0


def test_one_long_tick_now_and_then_stops_nobody() -> None:
    r = rig(look_s=lambda tick: 1.5 * PERIOD_S if tick % 4 == 0 else 0.002)
    assert r.run(80).overrun_stops == 0


def test_after_a_body_that_refused_the_throttle_comes_up_from_rest() -> None:
    r = rig()
    act, refusing = r.body.act, [False]

    def refuse(steering: float, throttle: float) -> None:
        if refusing[0]:
            raise OSError("arming")
        act(steering, throttle)

    r.body.act = refuse  # type: ignore[method-assign]
    r.run(30)
    assert r.body.sent[-1][1] > 0.2
    refusing[0] = True
    r.run(10)
    refusing[0] = False
    before = len(r.body.sent)
    r.run(3)
    assert r.body.sent[before][1] <= 0.11


def test_what_a_body_refused_is_not_believed_to_drive_it() -> None:
    """Of a robot without a speed sensor: what it took is all that is known of how it moves."""
    r = rig()
    r.body.speed_mps = None
    r.run(30)

    def refuse(_steering: float, _throttle: float) -> None:
        raise OSError("arming")

    r.body.act = refuse  # type: ignore[method-assign]
    r.run(1)
    assert r.ticks[-1].guarded.throttle > 0.3
    before = r.loop.pilot.odometry.speed_mps
    assert before > 0.3
    r.run(1)
    assert r.loop.pilot.odometry.speed_mps < before
