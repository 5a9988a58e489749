"""Who drives, and how old what they say is. Pure: times are given or come from a clock.

One session holds the wheel; the others watch. It lets go when its drive socket closes, when it says so, and when no
socket came within a few seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

SILENT_S = 0.15
"""After so long without a message the wheel is let go. With a tick of the control loop it stays below 250 ms."""
LATE_S = 0.2
"""A message that was under way for so much longer than the quickest is too old to drive by."""
MAX_MESSAGE = 512
_GRACE_S = 5.0
_DRIFT = 1e-4
"""Of two quartz clocks, in seconds a second, at most."""


class Wheel:
    """The lease. Holders are names of sessions."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holder: str | None = None
        self._socket = False
        self._until_s = -inf
        self.turn = 0
        """Another whenever the wheel was given back: what an earlier turn's socket still says drives nobody."""

    def holder(self) -> str | None:
        """Who drives; None when nobody does."""
        if self._holder is not None and not self._socket and self._clock() > self._until_s:
            self.give(self._holder)
        return self._holder

    def seen_by(self, who: str) -> Literal["me", "other", "none"]:
        """Who drives, as `who` sees it."""
        holder = self.holder()
        return "none" if holder is None else "me" if holder == who else "other"

    def take(self, who: str) -> bool:
        """Whether `who` drives from now on: nobody else does."""
        if self.holder() not in (None, who):
            return False
        self._holder, self._until_s = who, self._clock() + _GRACE_S
        return True

    def give(self, who: str) -> None:
        """`who` drives no more."""
        if self._holder == who:
            self._holder, self._socket = None, False
            self.turn += 1

    def is_turn(self, turn: int) -> bool:
        """Whether the wheel is still held as it was in `turn`."""
        return self.turn == turn and self._holder is not None

    def open_socket(self, who: str) -> str:
        """The holder's drive socket stands; why not, "" when it does."""
        if self.holder() != who:
            return "somebody else drives" if self.holder() else "take the wheel first: POST /v1/driver"
        if self._socket:
            return "this session drives already, in another window"
        self._socket = True
        return ""

    def close_socket(self, turn: int) -> None:
        """The drive socket that `open_socket` let in in `turn` has closed: the lease ends with it."""
        if self._holder is not None and self.turn == turn:
            self.give(self._holder)


@dataclass(frozen=True, slots=True)
class Driven:
    """A message of a driver. t: their clock, ms; steering and throttle in [-1, 1]; active: they hold the wheel."""

    t: float
    steering: float
    throttle: float
    active: bool


def read_message(text: str) -> Driven:
    """A driver's message. `ValueError` with words for anything but finite numbers in range."""
    if len(text) > MAX_MESSAGE:
        raise ValueError(f"a message of more than {MAX_MESSAGE} characters")
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("a message that is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("a message is a JSON object")
    numbers = []
    for name, most in (("t", 1e15), ("steering", 1.0), ("throttle", 1.0)):
        number = value.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= most:
            raise ValueError(f"{name} = {number!r:.40} is not a number in [-{most:g}, {most:g}]")
        numbers.append(float(number))
    for name in ("active", "assist"):
        if not isinstance(value.get(name, False), bool):
            raise ValueError(f"{name} is neither true nor false")
    t, steering, throttle = numbers
    return Driven(t, steering, throttle, value.get("active", False))


class Lateness:
    """How much longer than the quickest a message was under way, by the sender's own clock: what a network held
    back is old, although it arrives now. The quickest is that of the whole connection, so that one that stays slow
    stays refused; it follows as clocks may drift apart."""

    def __init__(self) -> None:
        self._quickest = inf
        self._seen_s = 0.0

    def of(self, sent_ms: float, *, now_s: float) -> float:
        """Seconds, >= 0."""
        took = now_s - sent_ms / 1000
        drifted = self._quickest + _DRIFT * max(0.0, now_s - self._seen_s)
        self._quickest, self._seen_s = min(took, drifted), now_s
        late = took - self._quickest
        return late if isfinite(late) else inf


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
