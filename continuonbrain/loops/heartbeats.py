"""Signs of life of child processes, as systemd takes them: a datagram socket, and how long each may be silent.

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

from continuonbrain.loops.notify import SOCKET_VARIABLE, WATCHDOG_VARIABLE

_LARGEST = 4096
PATIENCE_S = {"control": 10, "policy": 60, "sidecar": 900, "service": 60}
"""By process: of `continuonbrain run` and of systemd's units alike. A change of adapter takes the policy seconds; the
sidecar's longest time between two looks is a step of a large model, or modules that come from a cold card."""


class Heartbeat:
    """One child's. It may be silent for as long as it likes until it has said that it is ready.

    patience_s: silence after that which means that it hangs.
    """

    def __init__(self, name: str, patience_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s, self._clock = patience_s, clock
        self._address = f"continuonbrain-{os.getpid()}-{name}-{secrets.token_hex(4)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind("\0" + self._address)
        self._socket.setblocking(False)
        self._ready = self._ending = False
        self._heard_s = clock()

    @property
    def environment(self) -> dict[str, str]:
        """What the child needs to tell."""
        return {
            SOCKET_VARIABLE: "@" + self._address,
            WATCHDOG_VARIABLE: str(int(self._patience_s * 1e6)),
        }

    def begin(self) -> None:
        """A new process starts; what an earlier one said means nothing now."""
        self._drain()
        self._ready = self._ending = False
        self._heard_s = self._clock()

    def silent_s(self) -> float | None:
        """For how long it has been silent although it should not be, beyond its patience; None while all is well."""
        self._drain()
        silent_s = self._clock() - self._heard_s
        return silent_s if self._ready and not self._ending and silent_s > self._patience_s else None

    def close(self) -> None:
        """Nobody listens any more."""
        self._socket.close()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            while data := self._socket.recv(_LARGEST):
                self._heard_s = self._clock()
                lines = data.split(b"\n")
                self._ready |= b"READY=1" in lines
                self._ending |= b"STOPPING=1" in lines
