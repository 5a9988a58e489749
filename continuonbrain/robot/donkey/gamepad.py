"""A person's gamepad through the kernel's event interface (Documentation/input/event-codes.rst).

The car moves while the dead-man button is held. What the pad does not say counts as let go: a pad that vanished, one
that reported nothing for a while (out of reach: the kernel notices that only seconds later), one whose events were
lost (SYN_DROPPED), and one that has come back, until the button is pressed anew.

So it is where nobody listened for more than a hiccup (`absence.py`): the loop that obeys the pad hung, or the thread
that reads it, or the whole process. Who held on all the while has not seen what happened. What was pressed meanwhile
waits in the kernel and is read late: it stops the car, and else does nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Literal, Protocol

from continuonbrain.config import GamepadConfig
from continuonbrain.robot.donkey.absence import Absence

log = logging.getLogger(__name__)

EV_SYN, EV_KEY, EV_ABS, SYN_DROPPED = 0, 1, 3, 3
"""Of linux/input-event-codes.h."""

_POLL_S = 0.05
_BACKOFF_S = (0.5, 4.0)
_DEAD_ZONE = 0.06
_QUEUED_S = 0.25
"""In this time after a gap the queue of the kernel is read, some looks of 64 events each."""

Press = Literal["stop", "mode"]


class Pad(Protocol):
    """One connected pad. Methods raise OSError when it has gone."""

    def read(self, timeout_s: float) -> Sequence[tuple[int, int, int]]:
        """Events as (type, code, value), oldest first; none when none came in this time."""

    def range_of(self, axis: int) -> tuple[int, int]:
        """Smallest and largest value of an axis."""

    def close(self) -> None: ...


class Codes(Protocol):
    """The numbers of the configured axes and buttons."""

    @property
    def steering(self) -> int: ...
    @property
    def throttle(self) -> int: ...
    @property
    def deadman(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def mode(self) -> int: ...


class PadState:
    """What the pad's events say. Pure; times are given.

    Axes are scaled to [-1, 1] by the ranges (smallest, largest) of steering and throttle; positive steering is left and
    positive throttle forward, i.e. both are the negative of what a stick reports.
    """

    def __init__(self, codes: Codes, ranges: tuple[tuple[int, int], tuple[int, int]], quiet_s: float) -> None:
        for low, high in ranges:
            if not low < high:
                raise OSError(f"an axis of the gamepad has the range {low} to {high}")
        self._codes, self._ranges, self._quiet_s = codes, ranges, quiet_s
        self._steering = self._throttle = 0.0
        self._held = False
        self._event_s = self._deaf_until_s = -inf
        self._looks = Absence()

    def looked(self, now_s: float) -> None:
        """Events are read now; to be told before they are taken."""
        if self._looks.is_over(now_s):
            self.let_go(now_s)

    def let_go(self, now_s: float) -> None:
        """Nobody listened: whoever holds it presses anew, and not at once, as what was pressed meanwhile is queued."""
        self._held, self._deaf_until_s = False, now_s + _QUEUED_S

    def take(self, event: tuple[int, int, int], now_s: float) -> Press | None:
        """One event. Gives the button that was pressed, where it is one that somebody waits for."""
        kind, code, value = event
        codes, is_now = self._codes, now_s >= self._deaf_until_s
        self._event_s = now_s
        if kind == EV_ABS and code == codes.steering:
            self._steering = self._scaled(value, self._ranges[0])
        elif kind == EV_ABS and code == codes.throttle:
            self._throttle = self._scaled(value, self._ranges[1])
        elif kind == EV_KEY and code == codes.deadman:
            if value == 0 or (value == 1 and is_now):  # 2 is one that is held, said again
                self._held = value == 1
        elif kind == EV_KEY and code == codes.stop and value == 1:
            self._held = False
            return "stop"
        elif kind == EV_KEY and code == codes.mode and value == 1 and is_now:
            return "mode"
        elif kind == EV_SYN and code == SYN_DROPPED:
            # Some events are lost, perhaps the one that let go.
            self._held, self._steering, self._throttle = False, 0.0, 0.0
        return None

    def command(self, now_s: float) -> tuple[float, float] | None:
        """(steering, throttle), or None while nobody holds the dead-man button."""
        if now_s - self._event_s > self._quiet_s:
            self._held = False
        return (self._steering, self._throttle) if self._held else None

    def _scaled(self, value: int, bounds: tuple[int, int]) -> float:
        low, high = bounds
        share = 1.0 - 2.0 * (min(high, max(low, value)) - low) / (high - low)
        return 0.0 if abs(share) < _DEAD_ZONE else share


class Gamepad:
    """Reads one pad on a thread of its own, and connects again when it vanishes.

    Calling it gives ((steering, throttle), age in seconds): the shape of a remote control. While nobody holds the
    dead-man button the command is (0, 0), and its age grows.

    Args:
        connect: gives a pad, or raises OSError or BrainError while there is none.
        codes: of the configured axes and buttons.
        on_press: called on the pad's thread.
    """

    def __init__(
        self,
        connect: Callable[[], Pad],
        codes: Codes,
        *,
        quiet_s: float,
        on_press: Callable[[Press], None],
        backoff_s: tuple[float, float] = _BACKOFF_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._codes, self._quiet_s, self._on_press = connect, codes, quiet_s, on_press
        self._backoff_s, self._clock = backoff_s, clock
        self._lock = threading.Lock()
        self._command = (0.0, 0.0)
        self._alive_s = -inf
        self._obeyed, self._must_let_go = Absence(), False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gamepad", daemon=True)
        self.connected = False
        self.problem = ""

    def start(self) -> None:
        """Begin to look for the pad."""
        self._thread.start()

    def __call__(self) -> tuple[tuple[float, float], float]:
        with self._lock:
            self._look_at_the_loop()
            return self._command, self._clock() - self._alive_s

    def ticked(self) -> None:
        """The loop that obeys it lives. To be told at every tick, whoever drives."""
        with self._lock:
            self._look_at_the_loop()

    def _look_at_the_loop(self) -> None:
        if self._obeyed.is_over(self._clock()):
            self._command, self._alive_s, self._must_let_go = (0.0, 0.0), -inf, True

    def close(self) -> None:
        """End the thread; nobody drives any more."""
        self._closing.set()
        self._let_go()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        wait_s = self._backoff_s[0]
        while not self._closing.is_set():
            pad: Pad | None = None
            try:
                pad = self._connect()
                ranges = pad.range_of(self._codes.steering), pad.range_of(self._codes.throttle)
                state = PadState(self._codes, ranges, self._quiet_s)
                self.connected, self.problem, wait_s = True, "", self._backoff_s[0]
                log.info("gamepad: connected")
                while not self._closing.is_set():
                    self._follow(pad, state)
            except Exception as error:  # whatever a driver raises, the person is out of reach
                told = f"{type(error).__name__}: {error}"
                if told != self.problem:
                    log.warning("gamepad: %s", told)
                self.problem = told
            finally:
                self.connected = False
                self._let_go()
                if pad is not None:
                    _close(pad)
            self._closing.wait(wait_s)
            wait_s = min(self._backoff_s[1], wait_s * 2)

    def _follow(self, pad: Pad, state: PadState) -> None:
        events = pad.read(_POLL_S)
        state.looked(self._clock())
        for event in events:
            pressed = state.take(event, self._clock())
            if pressed is not None:
                self._on_press(pressed)
        with self._lock:
            now_s = self._clock()
            if self._must_let_go:
                self._must_let_go = False
                state.let_go(now_s)
            command = state.command(now_s)
            if command is None:
                self._command = (0.0, 0.0)
            else:
                self._command, self._alive_s = command, now_s

    def _let_go(self) -> None:
        """The command rests; its age grows from when somebody last drove."""
        with self._lock:
            self._command = (0.0, 0.0)


def _close(pad: Pad) -> None:
    try:
        pad.close()
    except OSError as error:
        log.warning("gamepad: cannot be closed: %s", error)


def open_gamepad(config: GamepadConfig, on_press: Callable[[Press], None]) -> Gamepad:
    """The gamepad of these settings, not yet started. Raises BrainError when evdev is missing or a name is unknown."""
    from continuonbrain.robot.donkey.evdev_pad import codes_of, connect

    codes = codes_of(config)
    return Gamepad(lambda: connect(config, codes), codes, quiet_s=config.quiet_s, on_press=on_press)
