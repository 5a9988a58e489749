"""Who waits for somebody in this network namespace, whatever it was written in: the kernel's own list of sockets.

Columns of `/proc/net/tcp` and its like: proc(5). An address is hex digits of 32-bit words in the machine's byte order.
"""

from __future__ import annotations

import ipaddress
import sys
import threading
from pathlib import Path

_TABLES = ("tcp", "tcp6", "udp", "udp6")
_WAITS = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
"""TCP_LISTEN; and TCP_CLOSE, which a UDP socket has that takes datagrams from anybody."""
_WORD = 8
_EVERY_S = 0.2
"""A look costs some milliseconds, of which `wire.py` has to make up in the same process."""


def waiting(kind: str, table: str, *, local: bool) -> set[str]:
    """The sockets of a table that wait for somebody, in words; but for those on loopback where `local`."""
    found = set()
    for line in table.splitlines()[1:]:
        _, own, _, state, *_ = line.split()
        if state != _WAITS[kind]:
            continue
        digits, port = own.split(":")
        words = [digits[i : i + _WORD] for i in range(0, len(digits), _WORD)]
        address = ipaddress.ip_address(b"".join(int(w, 16).to_bytes(4, sys.byteorder) for w in words))
        address = getattr(address, "ipv4_mapped", None) or address
        if not (local and address.is_loopback):
            found.add(f"{kind} waits on {address} port {int(port, 16)}")
    return found


class Listeners:
    """Looks at the namespace's sockets all the time. One that is there for less than `_EVERY_S` may be
    missed."""

    def __init__(self) -> None:
        self.local = False
        self._seen: set[str] = set()
        self._end, self._looking = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._end.wait(_EVERY_S):
            with self._looking:
                for kind in _TABLES:
                    table = Path("/proc/net", kind)
                    if table.exists():  # without IPv6 there are two
                        self._seen |= waiting(kind, table.read_text(), local=self.local)

    def taken(self) -> list[str]:
        """What was seen since the last call. A look that has begun ends first: what it saw belongs to this call."""
        with self._looking:
            found, self._seen = self._seen, set()
        return sorted(found)

    def close(self) -> None:
        """Stop. Raises RuntimeError if it had stopped by itself: nothing was looked at then."""
        if not self._thread.is_alive():
            raise RuntimeError("the sockets were not looked at to the end")
        self._end.set()
        self._thread.join()
