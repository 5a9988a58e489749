"""Who drives, and what they say. Pure: times come from a clock that is given.

One session holds the wheel; the others watch. It lets go when its drive socket closes, when it says so, and when no
socket came within a few seconds; then it leaves the others as long, and asking again does not put that off.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal

MAX_MESSAGE = 512
_GRACE_S = 5.0
_CLOCK = 1e15
_GAP_S = 0.5
"""A shorter gap is a hiccup: the car has stopped, and goes on with the hand that is still there."""


class Wheel:
    """The lease. Holders are names of sessions."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holder: str | None = None
        self._socket = False
        self._until_s = -inf
        self._lapsed, self._waits_until_s = "", -inf
        self.turn = 0
        """Another whenever the wheel was given back: what an earlier turn's socket still says drives nobody."""

    def holder(self) -> str | None:
        """Who drives; None when nobody does."""
        if self._holder is not None and not self._socket and self._clock() > self._until_s:
            self._lapsed, self._waits_until_s = self._holder, self._until_s + _GRACE_S
            self.give(self._holder)
        return self._holder

    def seen_by(self, who: str) -> Literal["me", "other", "none"]:
        """Who drives, as `who` sees it."""
        holder = self.holder()
        return "none" if holder is None else "me" if holder == who else "other"

    def take(self, who: str) -> str:
        """`who` drives from now on, and opens a drive socket within a few seconds; why not, "" when they do."""
        holder = self.holder()
        if holder == who:
            return ""  # the time until the socket stays as it was: a lease cannot be held by asking
        if holder is not None:
            return "somebody else drives"
        if self._lapsed == who and (wait_s := self._waits_until_s - self._clock()) > 0:
            return f"the wheel was taken and not used: it is the others' for {wait_s:.0f} s"
        self._holder, self._until_s = who, self._clock() + _GRACE_S
        return ""

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
    """A message of a driver. t: their clock, ms; steering and throttle in [-1, 1]; active: they hold the wheel.

    echo: the newest ack's `clock`, and their own clock when it came, ms; None before the first.
    """

    t: float
    steering: float
    throttle: float
    active: bool
    echo: tuple[float, float] | None = None


class Grip:
    """Whether a hand may drive on after the line was away, or the robot that should have obeyed it. One that held a key
    or a stick all the while has not seen what happened: it lets go first, and takes hold anew."""

    def __init__(self) -> None:
        self._on_s: float | None = None
        self._must_let_go = False

    def may_drive(self, *, active: bool, now_s: float, obeyed_s: float) -> bool:
        """Of a message that came in time. active: the hand is on; obeyed_s: the newest time from which a command is
        known to have been taken by the robot."""
        if not active:
            self._on_s, self._must_let_go = None, False
            return True
        if self._on_s is None:
            self._on_s = now_s
        if now_s - max(self._on_s, obeyed_s) > _GAP_S:
            self._must_let_go = True
        return not self._must_let_go


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
    t, steering, throttle = (
        _number(value, name, most) for name, most in (("t", _CLOCK), ("steering", 1.0), ("throttle", 1.0))
    )
    echo = None
    if "clock" in value or "heard" in value:
        echo = _number(value, "clock", _CLOCK), _number(value, "heard", _CLOCK)
    for name in ("active", "assist"):
        if not isinstance(value.get(name, False), bool):
            raise ValueError(f"{name} is neither true nor false")
    return Driven(t, steering, throttle, value.get("active", False), echo)


def _number(value: dict[str, object], name: str, most: float) -> float:
    number = value.get(name)
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= most:
        raise ValueError(f"{name} = {number!r:.40} is not a number in [-{most:g}, {most:g}]")
    return float(number)


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
