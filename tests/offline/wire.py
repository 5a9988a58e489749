"""A network namespace without a way out, and everything that is sent in it, also by native code.

Every address there is its own: packets to anybody go over its loopback interface, where they are seen, and are answered
by a refusal. A route that is merely missing would make an attempt end in silence. What this does not see: a name that
the C library asks a service of this machine for over a Unix socket (nss-resolve); the hook sees that where Python asks.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import shutil
import socket
import struct
import subprocess
import threading
import time

_ALL, _IPV4, _IPV6 = 0x0003, 0x0800, 0x86DD
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_OUTGOING = 4
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
_UNREACHABLE = {_ICMP: 3, _ICMP6: 1}
_NAMES = 53
_UDP_HEADER, _DNS_HEADER = 8, 12
_FIRST_BYTES = 400


def way_in() -> list[str] | None:
    """The words before a command line that make it run in a namespace of its own; None where that is not to be had."""
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("ip") is None:
        return None
    words = [unshare, "--net"] if os.geteuid() == 0 else [unshare, "--net", "--map-root-user"]
    trial = subprocess.run(
        [*words, "ip", "link", "set", "lo", "up"], capture_output=True, check=False, timeout=30
    )
    return words if trial.returncode == 0 else None


def close_in() -> None:
    """In the namespace: every address is its own."""
    for words in (
        "link set lo up",
        "route add local 0.0.0.0/0 dev lo",
        "-6 route add local ::/0 dev lo",
    ):
        done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
        if done.returncode and "-6" not in words:  # a machine without IPv6 has no way out over it either
            raise OSError(f"ip {words}: {done.stderr}")


class Wire:
    """What goes over the namespace's loopback interface and is not between its own loopback addresses."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.1)
        self._seen: list[str] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                data, (_, protocol, kind, *_more) = self._socket.recvfrom(_FIRST_BYTES)
            except TimeoutError:
                if self._end.is_set():
                    return
                continue
            if kind == _OUTGOING and (found := told(protocol, data)):
                self._seen.append(found)

    def taken(self) -> list[str]:
        """What was seen since the last call."""
        found, self._seen = self._seen, []
        return found

    def close(self) -> int:
        """Stop; how many packets were missed because they came too fast."""
        self._end.set()
        self._thread.join()
        missed: int = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]
        self._socket.close()
        return missed


def told(protocol: int, data: bytes) -> str:
    """A packet in words; "" for one that stays on this machine, and for this kernel's answer that nobody is there. A
    question for a name never stays, whoever is asked."""
    if protocol == _IPV4:
        start = (data[0] & 15) * 4
        kind, source, target = data[9], data[12:16], data[16:20]
    elif protocol == _IPV6:
        start, kind, source, target = 40, data[6], data[8:24], data[24:40]
    else:
        return f"protocol {protocol:#06x}"
    if data[start] == _UNREACHABLE.get(kind):
        return ""
    ports = struct.unpack("!HH", data[start : start + 4]) if kind in (_UDP, _TCP) else (0, 0)
    ends = [ipaddress.ip_address(source), ipaddress.ip_address(target)]
    if all(end.is_loopback for end in ends) and _NAMES not in ports:
        return ""
    if kind == _UDP and ports[1] == _NAMES:
        return f"asks for the name {_name(data[start + _UDP_HEADER + _DNS_HEADER :])}"
    return f"protocol {kind} from {ends[0]} port {ports[0]} to {ends[1]} port {ports[1]}"


def _name(question: bytes) -> str:
    """RFC 1035, section 4.1.2."""
    parts = []
    while question and 0 < question[0] < 64:
        parts.append(question[1 : question[0] + 1].decode(errors="replace"))
        question = question[question[0] + 1 :]
    return ".".join(parts)


def connect_natively(address: str, port: int) -> None:
    """Connect as native code does: Python's hooks hear nothing of it. For the trial of the trial."""
    libc = ctypes.CDLL(None, use_errno=True)
    opened = libc.socket(int(socket.AF_INET), int(socket.SOCK_STREAM), 0)
    where = struct.pack("=H", int(socket.AF_INET)) + struct.pack("!H", port) + socket.inet_aton(address)
    libc.connect(opened, where + bytes(8), 16)
    libc.close(opened)


def listen_natively(address: str, seconds: float) -> None:
    """Wait for somebody as native code does. For the trial of the trial."""
    libc = ctypes.CDLL(None, use_errno=True)
    opened = libc.socket(int(socket.AF_INET), int(socket.SOCK_STREAM), 0)
    where = struct.pack("=H", int(socket.AF_INET)) + struct.pack("!H", 0) + socket.inet_aton(address)
    if libc.bind(opened, where + bytes(8), 16) or libc.listen(opened, 1):
        raise RuntimeError(f"errno {ctypes.get_errno()}")
    time.sleep(seconds)
    libc.close(opened)
