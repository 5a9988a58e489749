"""What the wheels answer: learned from motion, and not from what no wheel can do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.policy.calibration import WHEELBASE_M, Calibration
from continuonbrain.policy.response import Response, slow_response
from continuonbrain.robot.protocol import CONTROL_DT_S


def drive(response: Response, ticks: int, *, wheel_rad: float, speed_mps: float = 1.0) -> None:
    """A constant command under wheels that stand at `wheel_rad`."""
    yaw_rate = speed_mps * math.tan(wheel_rad) / WHEELBASE_M
    for tick in range(ticks):
        response.update(
            now_s=tick * CONTROL_DT_S,
            steering=0.3,
            speed_mps=speed_mps,
            yaw_rate_rps=yaw_rate,
            calibration=Calibration(),
        )


def test_a_car_that_is_turned_by_hand_teaches_nothing() -> None:
    response = Response()
    drive(response, 60, wheel_rad=1.2)
    assert (response.gain, response.offset_rad) == (1.0, 0.0)
    drive(response, 60, wheel_rad=0.5)  # a servo's own doing is learned
    assert (response.gain, response.offset_rad) != (1.0, 0.0)


@given(
    st.lists(
        st.tuples(
            st.floats(-1, 1),
            st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
            st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
        ),
        max_size=60,
    )
)
def test_whatever_is_measured_the_trackers_correction_stays_within_its_bounds(
    ticks: list[tuple[float, float | None, float | None]],
) -> None:
    response = slow_response()
    for number, (steering, speed, yaw_rate) in enumerate(ticks):
        response.update(
            now_s=number * CONTROL_DT_S,
            steering=steering,
            speed_mps=speed,
            yaw_rate_rps=yaw_rate,
            calibration=Calibration(),
        )
        assert 0.7 <= response.gain <= 1.4
        assert abs(response.offset_rad) <= 0.12
        assert math.isfinite(response.expected_for(1.8))


@given(st.floats(0.7, 1.4), st.floats(-0.12, 0.12), st.floats(-1.5, 1.5))
def test_what_is_asked_for_by_it_is_what_is_driven(gain: float, offset: float, curvature: float) -> None:
    response = slow_response()
    response.gain, response.offset_rad = gain, offset
    assert response.curvature(response.expected_for(curvature)) == pytest.approx(curvature, abs=1e-6)


@pytest.mark.parametrize(("gain", "trim"), [(1.0, 0.1), (0.8, 0.0), (1.2, -0.08), (0.75, 0.1)])
def test_a_servo_that_was_bent_since_is_learned_within_seconds(gain: float, trim: float) -> None:
    response, known = slow_response(), Calibration()
    rng = np.random.default_rng(0)
    commands = [0.0] * 5
    for tick in range(200):
        steering = 0.5 * math.sin(tick / 9)
        commands.append(steering)
        wheel = gain * math.atan(
            WHEELBASE_M * known.curvature(commands[-1 - round(known.delay_s / CONTROL_DT_S)])
        )
        wheel += trim + rng.normal(0, 0.01)
        response.update(
            now_s=tick * CONTROL_DT_S,
            steering=steering,
            speed_mps=1.0,
            yaw_rate_rps=math.tan(wheel) / WHEELBASE_M,
            calibration=known,
        )
    assert response.gain == pytest.approx(gain, abs=0.08)
    assert response.offset_rad == pytest.approx(trim, abs=0.02)
