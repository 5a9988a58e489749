"""Loaded by every Python process of a command on trial (PYTHONPATH): notes each attempt to reach somebody, and refuses
it.

What a program does with a refusal is its own affair, and it may well be silent about it: so it is written down first.
Allowed are Unix sockets; and numbers of this machine's loopback interface, where OFFLINE_LOCAL says that it is the
command's job. Native code asks nobody here: `wire.py` sees what it sends.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
import traceback
from typing import Any

LOG = os.environ.get("OFFLINE_LOG", "")
LOCAL = os.environ.get("OFFLINE_LOCAL") == "1"
_ADDRESSED = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"}
_NAMED = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
_FAMILIES = {int(socket.AF_UNIX), int(socket.AF_INET), int(socket.AF_INET6)}
_MEASURED = {"socket.gethostname", "socket.getservbyname", "socket.getservbyport"}


def _write(**row: Any) -> None:
    at = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(at, (json.dumps({"pid": os.getpid(), **row}) + "\n").encode())
    finally:
        os.close(at)


def _loopback(host: Any) -> bool:
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _allowed(event: str, args: tuple[Any, ...]) -> bool:
    if event in _MEASURED:
        return True
    if event == "socket.__new__":
        family = args[1]
        return family == -1 or int(family) in _FAMILIES
    if event in _ADDRESSED:
        opened, address = args[0], args[1]
        if opened.family == socket.AF_UNIX or (event == "socket.sendmsg" and address is None):
            return True
        return LOCAL and _loopback(address[0])
    if event in _NAMED:
        host = args[0][0] if event == "socket.getnameinfo" else args[0]
        # Its own name, which torchrun looks up: whether that leaves the machine is seen on the wire.
        return LOCAL and (_loopback(host) or host == socket.gethostname())
    return True


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return
    try:
        allowed = _allowed(event, args)
    except Exception as error:  # a hook that fails must not let anything through
        allowed, args = False, (repr(error), *args)
    if allowed:
        return
    stack = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_stack()[:-1]][-8:]
    _write(event=event, what=repr(args[1:] if event in _ADDRESSED else args), stack=stack)
    raise PermissionError(f"{event}: refused while the commands are on trial")


if LOG:
    _write(event="started", what=" ".join(sys.orig_argv))
    sys.addaudithook(_watch)
