"""Steering and throttle: from [-1, 1] to pulses in the calibrated ranges, and the arming of the ESC. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from continuonbrain.config import SteeringConfig, ThrottleConfig
from continuonbrain.robot.protocol import RobotFault


@dataclass(frozen=True, slots=True)
class PulseMap:
    """Piecewise linear from [-1, 1] to microseconds: -1 -> minus_us, 0 -> rest_us, 1 -> plus_us. Either end may be the
    larger one: that is how an actuator is inverted."""

    name: str
    minus_us: float
    rest_us: float
    plus_us: float

    @property
    def low_us(self) -> float:
        """The shortest pulse of the range."""
        return min(self.minus_us, self.plus_us)

    @property
    def high_us(self) -> float:
        """The longest pulse of the range."""
        return max(self.minus_us, self.plus_us)

    def pulse_us(self, value: float) -> float:
        """The pulse for a command; beyond [-1, 1] the end of the range. Raises `RobotFault` for what is no number."""
        if not isfinite(value):
            raise RobotFault(
                f"{self.name} = {value} is no number", remedy="the sender of this command is broken"
            )
        end_us = self.plus_us if value > 0 else self.minus_us
        pulse_us = self.rest_us + min(1.0, abs(value)) * (end_us - self.rest_us)
        return min(self.high_us, max(self.low_us, pulse_us))


def steering_map(config: SteeringConfig) -> PulseMap:
    """Positive steering turns left."""
    return PulseMap("steering", config.right_us, config.centre_us, config.left_us)


def throttle_map(config: ThrottleConfig) -> PulseMap:
    """Positive throttle drives forward. A car that never goes back has no pulses beyond stopped_us."""
    back_us = config.stopped_us if config.reverse == "none" else config.reverse_us
    return PulseMap("throttle", back_us, config.stopped_us, config.forward_us)


class Arming:
    """Whether the ESC has seen stopped_us for long enough.

    An ESC that gets anything else first does not arm, or takes it for its new neutral. States: cold (it sees no pulses,
    or may have lost its power), arming (stopped_us since some time), armed.
    """

    def __init__(self, arming_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._arming_s, self._clock = arming_s, clock
        self._stopped_since_s: float | None = None
        self._armed = False

    def cold(self) -> None:
        """Pulses ended, or may have: it all begins anew."""
        self._stopped_since_s, self._armed = None, False

    def stopped(self) -> None:
        """stopped_us is being sent, and the chip has confirmed it."""
        if self._stopped_since_s is None:
            self._stopped_since_s = self._clock()

    @property
    def remaining_s(self) -> float:
        """Seconds until it is armed, 0 when it is; all of them while it is cold."""
        if self._armed:
            return 0.0
        if self._stopped_since_s is None:
            return max(self._arming_s, 1e-9)
        left_s = self._arming_s - (self._clock() - self._stopped_since_s)
        self._armed = left_s <= 0
        return max(0.0, left_s)
