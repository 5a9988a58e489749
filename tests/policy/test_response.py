"""What the wheels answer: learned from motion, and not from what no wheel can do."""

from __future__ import annotations

import math

from continuonbrain.policy.calibration import WHEELBASE_M, Calibration
from continuonbrain.policy.response import Response
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
