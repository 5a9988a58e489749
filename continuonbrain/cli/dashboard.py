"""Where the dashboard of a running brain is, for who starts it."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import sys
import time
from dataclasses import dataclass

from continuonbrain.errors import BrainError, installing
from continuonbrain.service.addresses import reachable
from continuonbrain.storage.layout import BrainLayout

USUAL_PORT = 8080
_ASK_EVERY_S = 0.5
_ASK_FOR_S = 0.1
_NEEDED = ("fastapi", "uvicorn", "websockets")


@dataclass(slots=True)
class Dashboard:
    """listen: an address of the LAN, None for loopback."""

    layout: BrainLayout
    port: int
    listen: str | None = None
    _asked_s: float = -1e9
    _answers: bool = False
    _told: str = ""

    @classmethod
    def of(cls, layout: BrainLayout, *, port: int | None, listen: str | None) -> Dashboard | None:
        """On `port`, or the usual one, or any where that is taken. None where the packages of a service are missing,
        which is told. `BrainError` when `port` is taken, or `listen` is none of this machine's."""
        if any(importlib.util.find_spec(name) is None for name in _NEEDED):
            told = f"no dashboard: {installing('serve')}"
            if port is not None or listen is not None:
                raise BrainError("the dashboard's packages are not installed", remedy=installing("serve"))
            print(told, file=sys.stderr)
            return None
        host = listen or "127.0.0.1"
        if port is not None:
            return cls(layout, _bound(host, port), listen)
        try:
            return cls(layout, _bound(host, USUAL_PORT), listen)
        except BrainError:
            return cls(layout, _bound(host, 0), listen)

    @property
    def addresses(self) -> list[str]:
        """For a browser: any of them."""
        return reachable(self.listen, self.port)

    @property
    def address(self) -> str:
        """The one to tell first."""
        return self.addresses[0]

    @property
    def code(self) -> str:
        """The pairing code of now; "" where none is asked for, or none is there yet."""
        if self.listen is None:
            return ""
        with contextlib.suppress(OSError):
            return self.layout.pairing_code_path.read_text().strip()
        return ""

    def in_words(self) -> str:
        """One line for a screen that only its owner sees."""
        line = f"dashboard: {' or '.join(self.addresses)}"
        if self.listen is None:
            return line
        if not sys.stderr.isatty():  # a log is no place for it
            return f"{line}, pairing code in {self.layout.pairing_code_path}"
        return f"{line}, pairing code {self.code}" if self.code else line

    def news(self) -> str:
        """The line, once it answers, and again when there is another code; "" otherwise. Cheap to ask often."""
        now = time.monotonic()
        if now - self._asked_s < _ASK_EVERY_S:
            return ""
        self._asked_s = now
        self._answers = self._answers or self._listens()
        line = self.in_words()
        if not self._answers or line == self._told:
            return ""
        self._told = line
        return line

    def _listens(self) -> bool:
        host = self.listen if self.listen not in (None, "0.0.0.0", "::") else "127.0.0.1"
        try:
            socket.create_connection((host, self.port), _ASK_FOR_S).close()
        except OSError:
            return False
        return True


def _bound(host: str, port: int) -> int:
    """`port` of `host`, or any for 0: one that can be had now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BrainError(
                f"port {port} of {host} cannot be used: {error.strerror or error}",
                remedy="choose another with --port, or an address of this machine with --listen (0.0.0.0: all of them)",
            ) from error
        found: int = probe.getsockname()[1]
    return found
