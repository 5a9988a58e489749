"""Signs of life of child processes, as systemd takes them: a datagram socket, and the time that each may take.

The children tell as they would tell systemd (`notify.py`). The socket is in Linux's abstract namespace, so that a full
disk, a read-only one or a long path keeps nobody from being heard.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from continuonbrain.loops.notify import SOCKET_VARIABLE, WATCHDOG_VARIABLE

_LARGEST = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. start_s: until it says that it is ready; silent_s: without a sign of life after that; stop_s: until it
    is gone, once it has said that it ends."""

    start_s: float
    silent_s: float
    stop_s: float


LIMITS = MappingProxyType(
    {
        # It closes recordings that a power cut left open before it is ready.
        "control": Limits(start_s=120, silent_s=10, stop_s=30),
        # Gigabytes from an SD card; a change of adapter takes seconds.
        "policy": Limits(start_s=900, silent_s=60, stop_s=30),
        # Between two looks: a step of a large model, or modules that come from a cold card. At the end: the step under
        # way, then the job is put down so that it goes on later.
        "sidecar": Limits(start_s=300, silent_s=900, stop_s=120),
        "service": Limits(start_s=120, silent_s=60, stop_s=15),
    }
)
"""By process: of `continuonbrain run` and of systemd's units alike."""


class Heartbeat:
    """One child's."""

    def __init__(self, name: str, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._address = f"continuonbrain-{os.getpid()}-{name}-{secrets.token_hex(4)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind("\0" + self._address)
        self._socket.setblocking(False)
        self._begun_s = self._heard_s = clock()
        self._ready_s: float | None = None
        self._ending_s: float | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What the child needs to tell."""
        return {
            SOCKET_VARIABLE: "@" + self._address,
            WATCHDOG_VARIABLE: str(int(self._limits.silent_s * 1e6)),
        }

    def begin(self) -> None:
        """A new process starts; what an earlier one said means nothing now."""
        self._drain()
        self._begun_s = self._heard_s = self._clock()
        self._ready_s = self._ending_s = None

    def overdue(self) -> str:
        """Which limit it has broken, in words; "" while all is well."""
        self._drain()
        now, limits = self._clock(), self._limits
        if self._ending_s is not None:  # whoever ends need not say more
            late = now - self._ending_s > limits.stop_s
            return f"it said that it ends, and did not within {limits.stop_s:g} s" if late else ""
        if self._ready_s is None:
            late = now - self._begun_s > limits.start_s
            return f"it did not say that it is ready within {limits.start_s:g} s" if late else ""
        silent_s = now - self._heard_s
        return f"it gave no sign of life for {silent_s:.0f} s" if silent_s > limits.silent_s else ""

    def worked_s(self) -> float:
        """From when it was ready to its last sign of life; 0 before."""
        return 0.0 if self._ready_s is None else self._heard_s - self._ready_s

    def close(self) -> None:
        """Nobody listens any more."""
        self._socket.close()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            while data := self._socket.recv(_LARGEST):
                self._heard_s = self._clock()
                lines = data.split(b"\n")
                if b"READY=1" in lines and self._ready_s is None:
                    self._ready_s = self._heard_s
                if b"STOPPING=1" in lines and self._ending_s is None:
                    self._ending_s = self._heard_s
