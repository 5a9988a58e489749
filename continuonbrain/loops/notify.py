"""Telling systemd how a process is: ready, alive, ending. Does nothing where systemd did not ask.

The protocol is a datagram of `NAME=value` lines to the Unix socket that $NOTIFY_SOCKET names; a leading "@" means
Linux's abstract namespace (sd_notify(3), unix(7)). A service with `WatchdogSec=` that has not said WATCHDOG=1 for so
long is killed and started again (systemd.service(5)); $WATCHDOG_USEC tells it how long (sd_watchdog_enabled(3)).

Nothing here raises or blocks: a robot drives on when nobody listens. A message that systemd has no room for is lost,
and the next one is as good.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"

_LONGEST_STATUS = 200
_EVERY_S = 1.0
_BEATS_A_WATCHDOG = 4
"""So many chances before systemd loses patience; its manual asks for two."""


def ready() -> bool:
    """The process does its work from now on. True when systemd was told."""
    return _send("READY=1")


def status(text: str) -> bool:
    """One line that `systemctl status` shows. True when systemd was told."""
    return _send("STATUS=" + " ".join(text.split())[:_LONGEST_STATUS])


def watchdog() -> bool:
    """The process is alive. Call it only where the work itself has gone on. True when systemd was told."""
    return _send("WATCHDOG=1")


def stopping() -> bool:
    """The process ends by itself, or because it was told to. True when systemd was told."""
    return _send("STOPPING=1")


class Pulse:
    """Signs of life for a loop to give as often as it likes: the first says "ready", later ones go out at intervals.

    clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._every_s = _interval_s()
        self._ready = False
        self._next_s = clock()

    def beat(self) -> None:
        """The loop has gone round. Costs a look at the clock, and a datagram at most once a second."""
        now = self._clock()
        if now < self._next_s:
            return
        self._next_s = now + self._every_s
        # Until systemd has taken it: a start that it never hears of would be undone when its patience ends.
        self._ready = self._ready or ready()
        watchdog()


def _interval_s() -> float:
    try:
        patience_s = int(os.environ[WATCHDOG_VARIABLE]) / 1e6
    except (KeyError, ValueError):
        return _EVERY_S
    return min(_EVERY_S, patience_s / _BEATS_A_WATCHDOG) if patience_s > 0 else _EVERY_S


def _send(message: str) -> bool:
    name = os.environ.get(SOCKET_VARIABLE, "")
    if not name.startswith(("/", "@")):  # unset, or a kind of address that is none of ours (vsock)
        return False
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto(message.encode(errors="replace"), address)
    except (OSError, ValueError):  # nobody listens, no room, or an address that cannot be one
        return False
    return True
