"""Claims about the path tracker and the pilot: they follow, they know when nothing is left, "stop" needs no model."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.codec import CURVATURE_KNOTS_M
from continuonbrain.policy.pilot import Pilot, means_stop
from continuonbrain.policy.tracker import Odometry, Path, PathTracker, Pose
from continuonbrain.robot.sim.instructions import BY_PHRASING
from continuonbrain.safety.guards import Limits
from continuonbrain.safety.reasons import Reason

DT = 0.05
LIMITS = Limits(throttle_min=-0.5, steering_rate_per_s=10.0, throttle_rate_per_s=5.0)


def chunk(bend: float | tuple[float, ...], speed: float = 1.0, at: float = 0.0) -> ActionChunk:
    curvature = bend if isinstance(bend, tuple) else (bend,) * 8
    return ActionChunk(curvature, (speed, speed), at)


class Car:
    """A noise-free kinematic bicycle that answers at once, except for the calibration's delay."""

    def __init__(self, calibration: Calibration, speed: float = 0.0) -> None:
        self.calibration, self.pose, self.speed, self.yaw_rate = calibration, Pose(), speed, 0.0
        self.pending = [(0.0, 0.0)] * round(calibration.delay_s / DT)

    def step(self, steering: float, throttle: float) -> None:
        self.pending.append((steering, throttle))
        steering, throttle = self.pending.pop(0)
        self.speed = max(
            0.0, self.speed + (3 * self.calibration.throttle_gain * throttle - 1.2 * self.speed) * DT
        )
        bend = self.calibration.curvature(steering)
        self.yaw_rate = bend * self.speed
        self.pose = self.pose.ahead(self.speed * DT, bend)


def drive(
    bend: Callable[[float], float],
    *,
    seconds: float = 6.0,
    every_s: float = 0.1,
    late_s: float = 0.05,
    calibration: Calibration | None = None,
    sensors: bool = True,
    start: Pose | None = None,
    speed: float = 1.0,
    start_speed: float = 1.0,
    settle_s: float = 1.0,
) -> tuple[float, Car, Pilot]:
    """Drive the road whose curvature at arc length s is bend(s), decided `every_s` and answered `late_s` later.

    Returns the largest distance from the road after `settle_s`, the car and its pilot. Each chunk is the
    road from the car's nearest point on it, plus what leads back onto it.
    """
    calibration = calibration or Calibration()
    road = [Pose()]
    for i in range(1200):
        road.append(road[-1].ahead(0.01, bend(i * 0.01)))
    xs, ys = np.array([p.x for p in road]), np.array([p.y for p in road])
    car, pilot = Car(calibration, start_speed), Pilot(calibration=calibration, limits=LIMITS)
    car.pose = start or Pose()
    waiting: list[tuple[float, ActionChunk]] = []
    worst = 0.0
    for tick in range(round(seconds / DT)):
        now = tick * DT
        pilot.observe(
            now_s=now,
            speed_mps=car.speed if sensors else None,
            yaw_rate_rps=car.yaw_rate if sensors else None,
        )
        while waiting and waiting[0][0] <= now + 1e-9:
            pilot.accept(waiting.pop(0)[1])
        squared = (xs - car.pose.x) ** 2 + (ys - car.pose.y) ** 2
        at = int(squared.argmin())
        if tick % round(every_s / DT) == 0:
            # Pure pursuit back to the road, as the ideal driver's labels do.
            pose, knots, s = car.pose, [], at * 0.01
            for _step in range(61):
                goal = road[min(round((s + 0.6) * 100), len(road) - 1)]
                dx, dy = goal.x - pose.x, goal.y - pose.y
                knots.append(2 * math.sin(math.atan2(dy, dx) - pose.heading) / max(math.hypot(dx, dy), 0.2))
                pose, s = pose.ahead(0.05, knots[-1]), s + 0.05
            values = tuple(knots[round(k / 0.05)] for k in CURVATURE_KNOTS_M)
            waiting.append((now + late_s, chunk(values, speed, now)))
        if now > settle_s:
            worst = max(worst, math.sqrt(float(squared[at])))
        guarded = pilot.tick(now_s=now).guarded
        car.step(guarded.steering, guarded.throttle)
    return worst, car, pilot


ROADS = {
    "straight": lambda s: 0.0,
    "left": lambda s: 0.6,
    "right": lambda s: -0.6,
    "snake": lambda s: 0.6 * math.sin(s),
}


@pytest.mark.parametrize("road", ROADS)
def test_a_fresh_path_is_followed_within_three_centimetres(road: str) -> None:
    worst, car, _ = drive(ROADS[road])
    assert worst < 0.03
    assert car.speed == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("road", ROADS)
def test_a_path_decided_three_quarters_of_a_second_ago_is_still_followed(road: str) -> None:
    """What a Raspberry Pi 5 gives: one decision each 0.75 s, 0.75 s old when it arrives."""
    # Without any path it coasts straight on until the first answer, and needs a moment to come back.
    worst, _, _ = drive(ROADS[road], every_s=0.75, late_s=0.75, settle_s=3.5)
    assert worst < 0.04


def test_control_without_odometry_between_decisions_the_same_chunks_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test above can fail: lay each old path down where the car is now, instead of where it was."""
    monkeypatch.setattr(Odometry, "at", lambda self, when_s: self.pose)
    worst, _, _ = drive(ROADS["snake"], every_s=0.75, late_s=0.75, settle_s=3.5)
    assert worst > 0.15


def test_a_car_beside_the_road_comes_back_to_it() -> None:
    worst, car, _ = drive(ROADS["straight"], start=Pose(0.0, 0.25, 0.2), seconds=5.0)
    assert worst < 0.3
    assert abs(car.pose.y) < 0.02


@pytest.mark.parametrize(
    "calibration",
    [
        Calibration(steering_trim_rad=0.2),
        Calibration(steering_gain=-1.0),
        Calibration(steering_gain=0.6, throttle_gain=0.6, delay_s=0.15),
    ],
)
def test_a_known_calibration_makes_another_servo_drive_the_same(calibration: Calibration) -> None:
    worst, car, _ = drive(ROADS["snake"], calibration=calibration)
    assert worst < 0.04
    assert car.speed == pytest.approx(1.0, abs=0.05)


def test_without_sensors_the_commanded_motion_stands_in() -> None:
    calibration = Calibration(delay_s=0.0)
    worst, car, pilot = drive(ROADS["snake"], calibration=calibration, sensors=False, start_speed=0.0)
    assert worst < 0.04
    assert math.hypot(car.pose.x - pilot.odometry.pose.x, car.pose.y - pilot.odometry.pose.y) < 0.15


# --------------------------------------------------------------------------------------- odometry


def test_odometry_with_sensors_is_the_path_that_was_driven() -> None:
    odometry = Odometry(Calibration())
    for tick in range(101):
        odometry.update(now_s=tick * DT, speed_mps=1.0, yaw_rate_rps=0.5, commanded=(0.0, 0.0))
    # 5 s at 1 m/s on a circle of 2 m radius.
    assert odometry.pose.x == pytest.approx(2 * math.sin(2.5), abs=2e-3)
    assert odometry.pose.y == pytest.approx(2 * (1 - math.cos(2.5)), abs=2e-3)
    assert odometry.curvature == pytest.approx(0.5)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_odometry_without_sensors_follows_the_commands(missing: float | None) -> None:
    odometry = Odometry(Calibration())
    for tick in range(200):
        odometry.update(now_s=tick * DT, speed_mps=missing, yaw_rate_rps=missing, commanded=(0.5, 0.4))
    assert odometry.speed_mps == pytest.approx(1.0, abs=0.01)
    assert odometry.curvature == pytest.approx(math.tan(0.2) / 0.26)
    assert all(math.isfinite(v) for v in (odometry.pose.x, odometry.pose.y, odometry.pose.heading))


def test_a_wheel_sensor_that_has_died_at_zero_is_not_believed_against_an_open_throttle() -> None:
    odometry = Odometry(Calibration())
    for tick in range(200):
        odometry.update(now_s=tick * DT, speed_mps=0.0, yaw_rate_rps=0.0, commanded=(0.0, 0.4))
    assert odometry.speed_mps == pytest.approx(1.0, abs=0.01)
    # The first turn of a wheel, and it is believed again.
    odometry.update(now_s=200 * DT, speed_mps=0.3, yaw_rate_rps=0.0, commanded=(0.0, 0.4))
    assert odometry.speed_mps == 0.3


def test_a_car_that_drives_off_or_stands_is_believed_to_stand() -> None:
    odometry = Odometry(Calibration())
    for tick in range(200):  # braked, or never told to drive
        odometry.update(now_s=tick * DT, speed_mps=0.0, yaw_rate_rps=0.0, commanded=(0.0, -0.2 * (tick % 2)))
        assert odometry.speed_mps == 0.0
    for tick in range(200, 206):  # full throttle, and it takes its time
        odometry.update(now_s=tick * DT, speed_mps=0.0, yaw_rate_rps=0.0, commanded=(0.0, 1.0))
        assert odometry.speed_mps == 0.0


@pytest.mark.parametrize("dies_at", [0, 100])
def test_a_car_whose_wheel_sensor_dies_drives_no_faster_than_it_is_asked(dies_at: int) -> None:
    odometry, tracker = Odometry(Calibration()), PathTracker(Calibration())
    true_mps = fastest = throttle = 0.0
    for tick in range(300):
        measured = true_mps if tick < dies_at else 0.0
        odometry.update(now_s=tick * DT, speed_mps=measured, yaw_rate_rps=0.0, commanded=(0.0, throttle))
        tracker.follow(ActionChunk((0.0,) * 8, (1.0, 1.0), tick * DT, "", 5.0), odometry.pose)
        command = tracker.command(now_s=tick * DT, odometry=odometry)
        assert command is not None
        throttle = command[1]
        true_mps = max(0.0, true_mps + (3.0 * throttle - 1.2 * true_mps) * DT)
        fastest = max(fastest, true_mps)
    assert fastest < 1.5
    assert true_mps == pytest.approx(1.0, abs=0.05)


def test_odometry_remembers_where_the_car_was_and_admits_what_it_forgot() -> None:
    odometry = Odometry(Calibration())
    assert odometry.at(0.0) is None
    for tick in range(300):
        odometry.update(now_s=tick * DT, speed_mps=1.0, yaw_rate_rps=0.0, commanded=(0.0, 0.0))
    then = odometry.at(12.52)
    assert then is not None
    assert then.x == pytest.approx(12.5)
    assert odometry.at(1.0) is None


def test_a_clock_that_leaps_moves_the_car_by_half_a_second_at_most() -> None:
    odometry = Odometry(Calibration())
    odometry.update(now_s=0.0, speed_mps=1.0, yaw_rate_rps=0.0, commanded=(0.0, 0.0))
    odometry.update(now_s=1e9, speed_mps=1.0, yaw_rate_rps=0.0, commanded=(0.0, 0.0))
    assert odometry.pose.x == pytest.approx(0.5)
    odometry.update(now_s=0.0, speed_mps=1.0, yaw_rate_rps=0.0, commanded=(0.0, 0.0))
    assert odometry.pose.x == pytest.approx(0.5)


# ------------------------------------------------------------------------------- end of the path


def test_no_path_is_no_command() -> None:
    assert PathTracker(Calibration()).command(now_s=0.0, odometry=Odometry(Calibration())) is None


def test_a_path_is_laid_as_its_bends_say_to_the_bit() -> None:
    bends = (0.3, -0.2, 0.9, 1.1, -1.3, 0.0, 0.7, -0.4)
    pose = Pose(1.5, -2.0, 0.7)
    path = Path(chunk(bends), pose)
    assert path.curvature == pytest.approx(np.interp(np.arange(61) * 0.05, CURVATURE_KNOTS_M, bends).tolist())
    assert (path.curvature[0], path.curvature[-1]) == (bends[0], bends[-1])
    for i, bend in enumerate(path.curvature):
        assert (path.x[i], path.y[i], path.heading[i]) == (pose.x, pose.y, pose.heading)
        pose = pose.ahead(0.05, bend)


def test_a_path_is_as_long_as_its_last_knot_and_never_goes_back() -> None:
    path = Path(chunk(0.0), Pose())
    assert path.x[-1] == pytest.approx(3.0)
    assert path.nearest(Pose(1.0)) == 20
    assert path.nearest(Pose(0.0)) == 20
    assert not path.exhausted
    path.nearest(Pose(2.0))
    path.nearest(Pose(2.9))
    assert path.exhausted


def test_at_the_end_of_the_path_the_guard_stops_the_car() -> None:
    calibration = Calibration()
    # A timeout that is far away: it is the path's end that has to stop the car here.
    car, pilot = Car(calibration, 1.0), Pilot(calibration=calibration, limits=Limits(chunk_timeout_s=60.0))
    pilot.observe(now_s=0.0, speed_mps=1.0, yaw_rate_rps=0.0)
    assert pilot.accept(chunk(0.0))
    reasons: tuple[str, ...] = ()
    for tick in range(300):
        now = tick * DT
        pilot.observe(now_s=now, speed_mps=car.speed, yaw_rate_rps=car.yaw_rate)
        tick_result = pilot.tick(now_s=now)
        reasons = tick_result.guarded.reasons
        car.step(tick_result.guarded.steering, tick_result.guarded.throttle)
    assert tick_result.proposed is None
    assert tick_result.guarded.stopped
    assert Reason.NO_PATH in reasons
    assert car.speed < 0.01
    assert 2.7 < car.pose.x < 4.0  # it rolled out: drag alone takes v / 1.2 metres


def test_an_old_path_stops_the_car() -> None:
    pilot = Pilot(calibration=Calibration(), limits=Limits(chunk_timeout_s=1.0))
    pilot.observe(now_s=0.0, speed_mps=0.2, yaw_rate_rps=0.0)
    pilot.accept(chunk(0.0))
    for tick in range(40):
        pilot.observe(now_s=tick * DT, speed_mps=0.2, yaw_rate_rps=0.0)
        guarded = pilot.tick(now_s=tick * DT).guarded
    assert guarded.stopped
    assert Reason.STALE_PATH in guarded.reasons


def test_only_newer_chunks_with_a_known_pose_are_accepted() -> None:
    pilot = Pilot(calibration=Calibration(), limits=LIMITS)
    assert not pilot.accept(chunk(0.0, at=0.0))  # nothing observed yet
    for tick in range(200):
        pilot.observe(now_s=tick * DT, speed_mps=1.0, yaw_rate_rps=0.0)
    assert pilot.accept(chunk(0.0, at=9.0))
    assert not pilot.accept(chunk(0.0, at=9.0))
    assert not pilot.accept(chunk(0.0, at=8.0))
    assert pilot.accept(chunk(0.0, at=9.5))
    fresh = Pilot(calibration=Calibration(), limits=LIMITS)
    for tick in range(200):
        fresh.observe(now_s=tick * DT, speed_mps=1.0, yaw_rate_rps=0.0)
    assert not fresh.accept(chunk(0.0, at=1.0))  # older than the poses that are known


# ------------------------------------------------------------------------------------------- stop


def test_stop_brings_a_car_to_rest_although_no_model_ever_answered() -> None:
    calibration = Calibration()
    car, pilot = Car(calibration, 1.5), Pilot(calibration=calibration, limits=LIMITS)
    pilot.instruct("please stop")
    for tick in range(120):
        pilot.observe(now_s=tick * DT, speed_mps=car.speed, yaw_rate_rps=car.yaw_rate)
        guarded = pilot.tick(now_s=tick * DT).guarded
        assert guarded.stopped
        assert Reason.INSTRUCTION_STOP in guarded.reasons
        car.step(guarded.steering, guarded.throttle)
    assert car.speed < 0.01


def test_stop_wins_over_a_model_that_wants_to_drive_and_keeps_the_car_on_its_path() -> None:
    calibration = Calibration()
    car, pilot = Car(calibration, 1.0), Pilot(calibration=calibration, limits=LIMITS)
    pilot.observe(now_s=0.0, speed_mps=1.0, yaw_rate_rps=0.0)
    pilot.accept(chunk(0.6, speed=1.0))
    pilot.instruct("stop")
    for tick in range(1, 60):
        pilot.observe(now_s=tick * DT, speed_mps=car.speed, yaw_rate_rps=car.yaw_rate)
        guarded = pilot.tick(now_s=tick * DT).guarded
        if tick == 8:
            assert guarded.throttle < 0  # it brakes, it does not only coast
            assert guarded.steering > 0.2  # along the bend
        car.step(guarded.steering, guarded.throttle)
    assert car.speed < 0.02
    assert car.pose.x < 0.7
    assert guarded.stopped
    pilot.instruct("drive")
    pilot.accept(chunk(0.0, at=59 * DT))
    pilot.observe(now_s=60 * DT, speed_mps=0.0, yaw_rate_rps=0.0)
    assert pilot.tick(now_s=60 * DT).guarded.throttle > 0


def test_stop_may_be_left_to_the_model_for_a_measurement() -> None:
    pilot = Pilot(calibration=Calibration(), limits=LIMITS, stop_without_model=False)
    pilot.observe(now_s=0.0, speed_mps=0.5, yaw_rate_rps=0.0)
    pilot.accept(chunk(0.0))
    pilot.instruct("stop")
    pilot.tick(now_s=0.0)
    pilot.observe(now_s=DT, speed_mps=0.5, yaw_rate_rps=0.0)
    assert pilot.tick(now_s=DT).guarded.throttle > 0


def test_every_phrasing_of_stop_means_stop_and_no_other_does() -> None:
    for phrase, instruction in BY_PHRASING.items():
        assert means_stop(phrase) == (instruction.name == "stop"), phrase


@pytest.mark.parametrize("text", ["STOP", "Stop!", "don't stop", "whoa!!", "drive,stop", "  halt"])
def test_stop_in_any_spelling_wins(text: str) -> None:
    assert means_stop(text)


@pytest.mark.parametrize("text", ["", "nonstop driving", "stopper", "🚗", "keep left"])
def test_words_that_only_contain_stop_do_not(text: str) -> None:
    assert not means_stop(text)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats()),
            st.one_of(st.none(), st.floats()),
            st.floats(-1.8, 1.8),
            st.floats(0, 2),
        ),
        max_size=20,
    )
)
def test_whatever_the_sensors_say_only_finite_commands_inside_bounds_go_out(
    ticks: list[tuple[float | None, float | None, float, float]],
) -> None:
    pilot = Pilot(calibration=Calibration(), limits=LIMITS)
    for tick, (speed, rate, bend, wanted) in enumerate(ticks):
        now = tick * DT
        pilot.observe(now_s=now, speed_mps=speed, yaw_rate_rps=rate)
        pilot.accept(chunk(bend, wanted, now))
        guarded = pilot.tick(now_s=now).guarded
        assert -1 <= guarded.steering <= 1
        assert -0.5 <= guarded.throttle <= 1


def test_teleoperation_passes_the_guard_and_a_silent_operator_stops_the_car() -> None:
    pilot = Pilot(calibration=Calibration(), limits=LIMITS)
    for tick in range(10):
        alive = pilot.teleoperate((0.3, 0.4), now_s=tick * DT, age_s=0.0)
    assert (alive.guarded.steering, alive.guarded.throttle) == (0.3, 0.4)
    gone = pilot.teleoperate((0.3, 0.4), now_s=10 * DT, age_s=0.6)
    assert gone.guarded.stopped
    assert Reason.DEADMAN in gone.guarded.reasons


def test_recalibrating_reaches_tracker_and_odometry() -> None:
    pilot = Pilot(calibration=Calibration(), limits=LIMITS)
    other = Calibration(steering_gain=-1.0)
    pilot.recalibrate(other)
    assert pilot.tracker.calibration is other
    assert pilot.odometry.calibration is other
