"""Where the car will be: what is predicted is where a simulated car then is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.codec import CURVATURE_KNOTS_M
from continuonbrain.policy.lookahead import way_along_path, way_of_command
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.response import Response
from continuonbrain.policy.tracker import Odometry, PathTracker
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.shifts import SHIFTS
from continuonbrain.robot.sim.track import TrackSet
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.counterfactual import calibration_of

LIMITS = Limits(throttle_min=-0.5, steering_rate_per_s=10.0, throttle_rate_per_s=5.0)


@pytest.mark.parametrize(
    ("shift", "known"), [("none", True), ("trim", True), ("reverse", True), ("trim", False)]
)
def test_a_second_later_the_car_is_where_it_was_expected(shift: str, known: bool) -> None:
    world = SHIFTS[shift]
    fleet = Fleet(TrackSet([7], world), [0], seed=1)
    fleet.place(speed_mps=0.9)
    calibration = calibration_of(world) if known else Calibration()
    pilot = Pilot(calibration=calibration, limits=LIMITS)
    response = Response()
    rng = np.random.default_rng(0)
    ways, places, sent = [], [], (0.0, 0.0)
    bends = tuple(0.5 * math.sin(3 * d) for d in CURVATURE_KNOTS_M)
    for tick in range(90):
        now = tick * 0.05
        speed, yaw = (float(v[0]) for v in fleet.measured())
        pilot.observe(now_s=now, speed_mps=speed, yaw_rate_rps=yaw)
        response.update(
            now_s=now, steering=sent[0], speed_mps=speed, yaw_rate_rps=yaw, calibration=calibration
        )
        if tick % 10 == 0:
            pilot.accept(ActionChunk(bends, (0.9, 0.9), now))
        ways.append(way_along_path(pilot.tracker, pilot.odometry, response, now_s=now, speed_limit_mps=None))
        places.append((float(fleet.x[0]), float(fleet.y[0]), float(fleet.heading[0])))
        sent = pilot.tick(now_s=now).guarded[:2]
        fleet.step(sent[0] + rng.normal(0, 0.02), sent[1])
    errors = []
    for tick in range(40, 70):  # a path of 3 m at 0.9 m/s, renewed every half second
        if tick % 10 != 0:
            continue
        x, y, heading = places[tick]
        later = places[tick + 20]
        dx, dy = later[0] - x, later[1] - y
        ahead = math.cos(heading) * dx + math.sin(heading) * dy
        left = math.cos(heading) * dy - math.sin(heading) * dx
        errors.append(math.hypot(ahead - ways[tick][-1][0], left - ways[tick][-1][1]))
    assert max(errors) < 0.22, errors


def test_a_held_command_goes_round_in_its_circle() -> None:
    odometry, known = Odometry(Calibration()), Calibration()
    for tick in range(10):
        odometry.update(now_s=tick * 0.05, speed_mps=1.0, yaw_rate_rps=0.0, commanded=(0.0, 0.4))
    straight = way_of_command((0.0, 0.4), odometry, Response(), known)
    left = way_of_command((0.8, 0.4), odometry, Response(), known)
    right = way_of_command((-0.8, 0.4), odometry, Response(), known)
    assert straight[-1] == pytest.approx((1.0, 0.0), abs=0.02)
    assert left[-1][1] == pytest.approx(-right[-1][1])
    assert left[-1][1] > 0.3
    mirrored = Response(gain=-1.0)
    assert way_of_command((0.8, 0.4), odometry, mirrored, known)[-1][1] == pytest.approx(
        right[-1][1], abs=1e-6
    )


def test_without_a_path_the_car_rolls_to_a_stop() -> None:
    odometry = Odometry(Calibration())
    odometry.update(now_s=0.0, speed_mps=1.0, yaw_rate_rps=0.0, commanded=(0.0, 0.0))
    way = way_along_path(PathTracker(Calibration()), odometry, Response(), now_s=0.0, speed_limit_mps=None)
    assert len(way) == 10
    assert 0.1 < way[-1][0] < 0.4
    assert way[-1] == pytest.approx(way[-2], abs=0.01)


def test_a_reversed_servo_is_noticed_within_a_second() -> None:
    response, known = Response(), Calibration()
    fleet = Fleet(TrackSet([7], SHIFTS["reverse"]), [0], seed=1)
    fleet.place(speed_mps=1.0)
    steering = 0.0
    for tick in range(20):
        speed, yaw = (float(v[0]) for v in fleet.measured())
        response.update(
            now_s=tick * 0.05, steering=steering, speed_mps=speed, yaw_rate_rps=yaw, calibration=known
        )
        steering = 0.4 * math.sin(tick * 0.6)
        fleet.step(steering, 0.4)
    assert response.gain < -0.3
    assert abs(response.offset_rad) < 0.1


def test_without_sensors_the_calibration_is_believed() -> None:
    response = Response()
    for tick in range(50):
        response.update(
            now_s=tick * 0.05, steering=0.5, speed_mps=None, yaw_rate_rps=None, calibration=Calibration()
        )
        response.update(
            now_s=tick * 0.05, steering=0.5, speed_mps=0.0, yaw_rate_rps=5.0, calibration=Calibration()
        )
        response.update(
            now_s=tick * 0.05,
            steering=0.5,
            speed_mps=math.nan,
            yaw_rate_rps=math.nan,
            calibration=Calibration(),
        )
    assert (response.gain, response.offset_rad) == (1.0, 0.0)
    assert response.curvature(0.7) == pytest.approx(0.7)
