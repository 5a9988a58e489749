"""What a robot is to the rest of the brain: something that can be looked at, acted on and stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from continuonbrain.errors import BrainError

CONTROL_DT_S = 0.05
"""Control period in seconds (20 Hz), the rate of donkeycar's own loop."""

FRAME_SHAPE = (120, 160, 3)
"""Camera frame: height, width, RGB; uint8."""

Frame = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at the world.

    frame: RGB uint8 `[120, 160, 3]`. speed_mps and yaw_rate_rps are measured (wheel encoder, gyro), None on a
    robot that does not measure them. monotonic_s is the time of the exposure on the monotonic clock.
    state_monotonic_s is the time of the two measurements where the robot knows it apart; None says that they were
    taken at the exposure, as a simulator does.
    """

    frame: Frame
    speed_mps: float | None
    yaw_rate_rps: float | None
    monotonic_s: float
    state_monotonic_s: float | None = None


class RobotFault(BrainError):
    """A part of the robot does not answer, or answers what cannot be. The message names the part."""


class Robot(Protocol):
    """The body. Methods raise `RobotFault` when the hardware does not answer."""

    def observe(self) -> Observation:
        """Newest frame and state; never blocks for longer than one control period."""

    def act(self, steering: float, throttle: float) -> None:
        """Send one guarded action, both in [-1, 1]; positive steering turns left."""

    def stop(self) -> None:
        """Throttle off now; must work in any state."""

    def close(self) -> None:
        """Stop and release the hardware."""
