"""A person's commands while they drive: from the control socket, or from a remote control of the body's own.

The newer one counts. How old it may be is the guard's business (`guards.deadman_s`): whoever lets go, or goes out of
reach, has a car that stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from continuonbrain.loops.loop_tick import Teleop


class RemoteControl:
    """Call it for the latest (steering, throttle), each in [-1, 1], and its age in seconds.

    own: the body's own remote control; None where it has none.
    """

    def __init__(self, own: Teleop | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._own = own
        self._clock = clock
        self._command = (0.0, 0.0)
        self._taken_s = -inf

    def take(self, header: Mapping[str, Any]) -> str:
        """A message {"steering": S, "throttle": T}; what is wrong with it, "" when nothing is."""
        pair = []
        for name in ("steering", "throttle"):
            value = header.get(name)
            # A comparison that NaN fails, too.
            if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
                return f"{name} = {value!r} is not a number in [-1, 1]"
            pair.append(float(value))
        self._command, self._taken_s = (pair[0], pair[1]), self._clock()
        return ""

    def let_go(self) -> None:
        """Nobody drives by the socket any more."""
        self._taken_s = -inf

    def __call__(self) -> tuple[tuple[float, float], float]:
        age_s = self._clock() - self._taken_s
        if self._own is not None:
            command, own_age_s = self._own()
            if own_age_s <= age_s:
                return command, own_age_s
        return self._command, age_s
