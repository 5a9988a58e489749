"""A person's commands while they drive: from the control socket, or from a remote control of the body's own.

The newer one counts. How old it may be is the guard's business (`guards.deadman_s`), unless the sender promised to come
again sooner: whoever lets go, goes out of reach or whose connection ends, has a car that stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Literal

from continuonbrain.loops.loop_tick import Teleop

Hand = Literal["drives", "watches", "gone"]
"""Of a person: on the wheel; there, but not on it; not there."""

_LONGEST_S = 10.0
_HELD_S = 0.25
"""A remote control of the body's own whose command is younger is held."""


class RemoteControl:
    """Call it for the latest (steering, throttle), each in [-1, 1], and its age in seconds.

    own: the body's own remote control; None where it has none.
    """

    def __init__(self, own: Teleop | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._own = own
        self._clock = clock
        self._alive: Callable[[], bool] = lambda: True
        self._command = (0.0, 0.0)
        self._active = True
        self._for_s = inf
        self._taken_s = -inf

    def take(self, header: Mapping[str, Any], alive: Callable[[], bool] = lambda: True) -> str:
        """A message {"steering": S, "throttle": T}; what is wrong with it, "" when nothing is.

        It may say "active": false (the person is there and does not hold the wheel), "for_s": seconds within which the
        next one comes, and "sent_s": when it was sent, monotonic seconds of this machine, so that what waited somewhere
        is as old as it is. alive: whether the sender's connection still stands.
        """
        pair = []
        for name in ("steering", "throttle"):
            value = header.get(name)
            # A comparison that NaN fails, too.
            if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
                return f"{name} = {value!r} is not a number in [-1, 1]"
            pair.append(float(value))
        active, for_s = header.get("active", True), header.get("for_s", _LONGEST_S)
        if not isinstance(active, bool):
            return f"active = {active!r} is neither true nor false"
        if isinstance(for_s, bool) or not isinstance(for_s, int | float) or not 0 < for_s <= _LONGEST_S:
            return f"for_s = {for_s!r} is not a number of seconds in (0, {_LONGEST_S:g}]"
        now = self._clock()
        sent_s = header.get("sent_s", now)
        if isinstance(sent_s, bool) or not isinstance(sent_s, int | float) or not sent_s <= now:
            return f"sent_s = {sent_s!r} is no time that has been"
        self._command, self._active, self._for_s = (pair[0], pair[1]), active, float(for_s)
        self._alive, self._taken_s = alive, float(sent_s)
        return ""

    def let_go(self) -> None:
        """Nobody drives by the socket any more."""
        self._taken_s = -inf

    def hand(self) -> Hand:
        """Where the person is. A held remote control of the body's own drives, whatever the socket says."""
        if self._own is not None and self._own()[1] <= _HELD_S:
            return "drives"
        if not self._is_there():
            return "gone"
        return "drives" if self._active else "watches"

    def __call__(self) -> tuple[tuple[float, float], float]:
        age_s = self._clock() - self._taken_s if self._active and self._is_there() else inf
        if self._own is not None:
            command, own_age_s = self._own()
            if own_age_s <= age_s:
                return command, own_age_s
        return self._command, age_s

    def _is_there(self) -> bool:
        if self._clock() - self._taken_s > self._for_s or not self._alive():
            self._taken_s = -inf  # a clock or a peer that comes back is no hand on the wheel
        return self._taken_s > -inf
