"""Claims about the shadow: it says how far a person is from the policy, and touches nothing that drives."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from continuonbrain.loops.policy_client import Answer
from continuonbrain.loops.shadow import Shadow, action_surprise
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.response import Response
from continuonbrain.safety.guards import Guarded, Limits
from tests.loops.fast_rig import PERIOD_S, Rig, rig

COMMAND = st.tuples(st.floats(-1, 1), st.floats(-1, 1))


def teleoperated(command: tuple[float, float], *, answers: bool = True) -> Rig:
    r = rig()
    # The body's gyro says "straight on" whatever is commanded: the tracker would learn from it.
    r.loop.pilot.tracker.correction = Response(most_gain=(1.0, 1.0), most_offset_rad=0.0)
    r.loop.teleop = lambda: (command, 0.0)
    r.loop.set_mode("teleop")
    r.loop.record("lessons", True)
    if not answers:
        r.paths.dies_at_s = 0.0
    return r


def surprises(r: Rig) -> list[float | None]:
    return [s.surprise for m in r.episodes for s in m.steps]


@given(COMMAND, COMMAND)
def test_the_distance_of_two_commands_is_a_metric_of_steering_and_half_of_throttle(
    a: tuple[float, float], b: tuple[float, float]
) -> None:
    assert action_surprise(a, a) == 0.0
    assert action_surprise(a, b) == action_surprise(b, a)
    assert 0.0 <= action_surprise(a, b) <= math.sqrt(5) + 1e-12


def test_one_is_the_steering_from_straight_to_full_lock() -> None:
    assert action_surprise((1.0, 0.2), (0.0, 0.2)) == 1.0
    assert action_surprise((0.0, 1.0), (0.0, 0.0)) == 0.5


def test_a_person_who_drives_as_the_policy_would_surprises_nobody_and_one_who_steers_away_does() -> None:
    # The stub's path is straight on at 1 m/s, and the body says that it drives at 1 m/s.
    straight, away = teleoperated((0.0, 0.4)), teleoperated((0.5, 0.4))
    straight.run(40)
    away.run(40)
    calm, astonished = surprises(straight)[10:], surprises(away)[10:]
    assert max(s for s in calm if s is not None) < 1e-3
    assert None not in calm
    assert all(s == pytest.approx(0.5, abs=1e-3) for s in astonished)


def test_it_is_written_as_text_and_read_as_a_number() -> None:
    r = teleoperated((0.5, 0.4))
    r.run(20)
    step = r.episodes[0].steps[-1]
    assert step.to_json()["step_metadata"]["surprise"] == "0.5000"
    assert replace(step, extra={}).to_json()["step_metadata"]["surprise"] == ""
    assert replace(step, extra={"surprise": "nan"}).surprise is None
    assert replace(step, extra={"surprise": "-1"}).surprise is None
    assert replace(step, extra={"surprise": "much"}).surprise is None


def test_without_a_fresh_path_there_is_no_surprise() -> None:
    r = teleoperated((0.5, 0.4))
    r.paths.dies_at_s = 100.0 + 20 * PERIOD_S
    r.run(60)
    found = surprises(r)
    assert found[15] is not None
    assert found[30] is not None  # half a second old: followed
    assert set(found[-15:]) == {None}  # older than the rig's second
    assert set(surprises_of_nobody()) == {None}


def surprises_of_nobody() -> list[float | None]:
    r = teleoperated((0.5, 0.4), answers=False)
    r.run(10)
    return surprises(r)


def test_the_autopilot_surprises_nobody() -> None:
    r = rig()
    r.run(30)
    assert set(surprises(r)) == {None}


def test_a_person_whom_the_guard_stops_is_not_compared() -> None:
    r = teleoperated((0.5, 0.4))
    r.run(40, lambda tick: r.loop.emergency_stop() if tick.number == 20 else None)
    found = [tick.surprise for tick in r.ticks]
    assert found[20] is not None
    assert set(found[21:]) == {None}
    assert surprises(r) == found[:21]


def test_a_decision_on_what_was_told_before_is_no_prediction_of_what_is_told_now() -> None:
    r = teleoperated((0.5, 0.4))
    r.run(30, lambda tick: r.loop.instruct("keep left") if tick.number == 20 else None)
    found = surprises(r)
    assert found[20] is not None
    assert found[21] is None  # the answer on the frame of tick 20, under "drive"
    assert found[28] is not None


@settings(max_examples=30, deadline=None)
@given(
    st.lists(COMMAND, min_size=30, max_size=30),
    st.lists(st.floats(-1.8, 1.8), min_size=30, max_size=30),
)
def test_what_is_sent_does_not_depend_on_what_the_policy_would_do(
    commands: list[tuple[float, float]], bends: list[float]
) -> None:
    def drive(*, shadowed: bool) -> tuple[list[Guarded], object, object]:
        pilot = Pilot(calibration=Calibration(), limits=Limits())
        shadow = Shadow(pilot)
        sent = []
        for tick, (command, bend) in enumerate(zip(commands, bends, strict=True)):
            now = 100.0 + tick * PERIOD_S
            pilot.observe(now_s=now, speed_mps=1.0, yaw_rate_rps=0.1)
            sent.append(pilot.teleoperate(command, now_s=now, age_s=0.0).guarded)
            if shadowed:
                chunk = ActionChunk((bend,) * 8, (1.0, 1.0), now)
                answer = Answer(chunk, Calibration(steering_trim_rad=0.2))
                shadow.surprise([answer], sent[-1], now_s=now)
        assert shadow.faults == 0
        return sent, pilot.odometry.pose, (pilot.tracker.path, pilot.tracker.calibration)

    assert drive(shadowed=True) == drive(shadowed=False)


def test_the_loop_sends_the_same_with_a_policy_beside_it_and_without() -> None:
    with_policy, without = teleoperated((0.7, 0.6)), teleoperated((0.7, 0.6), answers=False)
    with_policy.run(40)
    without.run(40)
    assert with_policy.body.sent == without.body.sent
    assert any(s is not None for s in surprises(with_policy))


def test_a_shadow_that_fails_is_counted_and_a_person_drives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    r = teleoperated((0.5, 0.4))

    def broken(*_args: object, **_named: object) -> None:
        raise ZeroDivisionError

    assert r.loop._shadow is not None
    monkeypatch.setattr(r.loop._shadow._tracker, "follow", broken)
    r.run(20)
    assert r.loop._shadow.faults > 10
    assert set(surprises(r)) == {None}
    assert r.body.sent[-1] == (0.5, 0.4)
