"""What a throttle below zero does, by the kind of ESC. Pure; times are given.

Many ESCs of cars take the first pulse below neutral after driving forward for the brake. Only the second one, after a
while at neutral, is reverse (makers call that "forward/reverse with brake", and the way there a double click):

    forward --below 0--> braking --held--> resting --held--> reverse
       ^                    |                 |                 |
       +----- above 0, or let go too early ---+----- above 0 ---+

The brake is never stronger than what was commanded, so that guards hold for it, too. Whether the ESC really went into
reverse nobody tells: one that finds its motor still turning may brake a second time, and the car stays at rest.
"""

from __future__ import annotations

from math import isfinite
from typing import Literal, Protocol

from continuonbrain.config import ThrottleConfig

DEAD_BAND_US = 40.0
"""Pulses nearer to stopped_us than this may be neutral to an ESC: no tap that it is sure to see."""


class Reverse(Protocol):
    """The throttle that is sent for the one that is wanted."""

    def step(self, throttle: float, now_s: float) -> float:
        """Both in [-1, 1], times monotonic, seconds. What is no number is given back as it is."""

    def reset(self) -> None:
        """The ESC may have forgotten where it was."""


class NoReverse:
    """The car never goes back."""

    def step(self, throttle: float, now_s: float) -> float:
        """See `Reverse.step`."""
        return 0.0 if throttle < 0 and isfinite(throttle) else throttle

    def reset(self) -> None:
        """Nothing to forget."""


class DirectReverse:
    """The ESC goes back as it goes forward."""

    def step(self, throttle: float, now_s: float) -> float:
        """See `Reverse.step`."""
        return throttle

    def reset(self) -> None:
        """Nothing to forget."""


class DoubleTapReverse:
    """The ESC brakes first.

    hold_s: how long brake and neutral are held, seconds. least: a throttle that is nearer to zero than this is sent as
    zero, since the ESC might not see it.
    """

    def __init__(self, hold_s: float, least: float) -> None:
        self._hold_s, self._least = hold_s, least
        self._state: Literal["forward", "braking", "resting", "reverse"] = "forward"
        self._since_s = 0.0

    def step(self, throttle: float, now_s: float) -> float:
        """See `Reverse.step`."""
        if not isfinite(throttle):
            return throttle
        held = now_s - self._since_s >= self._hold_s
        if throttle > 0:
            self._state = "forward"
            return throttle
        if throttle > -self._least:
            if self._state == "braking":
                self._enter("resting" if held else "forward", now_s)
            return 0.0
        if self._state == "forward":
            self._enter("braking", now_s)
        elif self._state == "braking" and held:
            self._enter("resting", now_s)
        elif self._state == "resting" and held:
            self._enter("reverse", now_s)
        return 0.0 if self._state == "resting" else throttle

    def reset(self) -> None:
        """See `Reverse.reset`."""
        self._state = "forward"

    def _enter(self, state: Literal["forward", "braking", "resting", "reverse"], now_s: float) -> None:
        self._state, self._since_s = state, now_s


def reverse_of(config: ThrottleConfig) -> Reverse:
    """As `donkey.throttle.reverse` says."""
    if config.reverse == "none":
        return NoReverse()
    if config.reverse == "direct":
        return DirectReverse()
    return DoubleTapReverse(config.tap_s, min(1.0, DEAD_BAND_US / abs(config.reverse_us - config.stopped_us)))
