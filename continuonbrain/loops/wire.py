"""The wire between our processes: framed messages over Unix sockets.

A message is

    4 bytes  b"CBW" and the version (1)
    u32      length of the header, bytes (at most 64 KiB)
    u32      length of the body, bytes (at most 1 MiB, e.g. one 160 x 120 x 3 frame)
    header   one JSON object, UTF-8, finite numbers only, integers within +-2**63
    body     raw bytes

in network byte order. Never pickle: a socket is a place where somebody else's bytes come in. Whatever is
wrong with them raises a `WireError`, and the caller closes the connection.

`wire_stream.py` reads and serves the same messages without waiting; `notices.py` tells many listeners at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import struct
import time
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Self

from continuonbrain.errors import BrainError, belongs_to_another

MAGIC = b"CBW\x01"
MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 1024 * 1024
_MAX_INTEGER = 2**63

PREFIX = struct.Struct("!4sII")
# sun_path holds 108 bytes including the closing zero.
_LONGEST_TEXT = 2000
_MAX_SOCKET_PATH_BYTES = 107
_CONNECT_RETRY_S = 0.02
_NOBODY_THERE = (FileNotFoundError, ConnectionRefusedError)


class WireError(BrainError):
    """Bytes or a socket that cannot be used. Close the connection."""


class WireClosed(WireError):
    """The other side has gone."""


class WireTimeout(WireError):
    """Nothing (complete) came in time.

    `received` is how many bytes of the message did come: after 0 the connection can still be used,
    after more it is out of step and must be closed.
    """

    def __init__(self, message: str, *, received: int = 0, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.received = received


# --- messages ------------------------------------------------------------------------------------------


class Closing:
    """A context manager that calls `close` at its end."""

    def close(self) -> None:
        """Give up what is held; called once more it does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def encode(header: Mapping[str, object], body: bytes = b"") -> bytes:
    """Return the bytes of one message.

    Raises:
        WireError: the header is not JSON with finite numbers, or header or body are too large.
    """
    raw = dump_json(header, "header", MAX_HEADER_BYTES)
    if len(body) > MAX_BODY_BYTES:
        raise WireError(f"wire: body of {len(body)} bytes is larger than {MAX_BODY_BYTES}")
    return b"".join((PREFIX.pack(MAGIC, len(raw), len(body)), raw, body))


def send(
    sock: socket.socket, header: Mapping[str, object], body: bytes = b"", *, timeout_s: float | None = None
) -> None:
    """Send one message; `timeout_s` bounds the whole of it (None waits).

    Raises:
        WireError: see `encode`.
        WireTimeout: the other side does not read. The message may be half sent: close the connection.
        WireClosed: the other side has gone.
    """
    data = encode(header, body)
    try:
        # sendall counts its timeout over the whole message, not per call of send(2).
        sock.settimeout(timeout_s)
        sock.sendall(data, socket.MSG_NOSIGNAL)
    except TimeoutError as error:
        raise WireTimeout(f"wire: message of {len(data)} bytes not taken in {timeout_s} s") from error
    except BlockingIOError as error:  # timeout_s = 0
        raise WireTimeout(f"wire: message of {len(data)} bytes not taken at once") from error
    except OSError as error:
        raise WireClosed(f"wire: cannot send: {error.strerror or error}") from error


def receive(sock: socket.socket, timeout_s: float | None = None) -> tuple[dict[str, object], bytes]:
    """Receive one message: (header, body). `timeout_s` bounds the whole of it (None waits).

    Raises:
        WireTimeout: see there for whether the connection can still be used.
        WireClosed: end of the stream, between messages or inside one.
        WireError: not our magic or version, a length beyond its limit, or a header that is not a JSON
            object with finite numbers. Lengths are checked before anything is read into memory.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    prefix = _receive_exactly(sock, PREFIX.size, deadline, already=0)
    magic, header_length, body_length = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise WireError(
            f"wire: message starts with {magic!r}, expected {MAGIC!r}",
            remedy="restart all processes of the brain, so that they run the same version",
        )
    if header_length > MAX_HEADER_BYTES:
        raise WireError(f"wire: header of {header_length} bytes is larger than {MAX_HEADER_BYTES}")
    if body_length > MAX_BODY_BYTES:
        raise WireError(f"wire: body of {body_length} bytes is larger than {MAX_BODY_BYTES}")
    raw = _receive_exactly(sock, header_length, deadline, already=PREFIX.size)
    body = _receive_exactly(sock, body_length, deadline, already=PREFIX.size + header_length)
    return load_json(raw, "header"), body


def _receive_exactly(sock: socket.socket, count: int, deadline: float | None, *, already: int) -> bytes:
    data = bytearray(count)
    view = memoryview(data)
    have = 0
    while have < count:
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            sock.settimeout(left_s)
            got = sock.recv_into(view[have:])
        except (TimeoutError, BlockingIOError) as error:
            raise WireTimeout("wire: no complete message in time", received=already + have) from error
        except OSError as error:
            raise WireClosed(f"wire: cannot receive: {error.strerror or error}") from error
        if got == 0:
            seen = already + have
            where = f"inside a message, after {seen} bytes" if seen else "between messages"
            raise WireClosed(f"wire: the other side closed the connection {where}")
        have += got
    return bytes(data)


def dump_json(value: Mapping[str, object], what: str, limit: int) -> bytes:
    """One JSON object as UTF-8. Raises `WireError`, naming `what`, beyond `limit` bytes or when it is not JSON."""
    if not isinstance(value, Mapping):
        raise WireError(f"wire: {what} must be a mapping, not {type(value).__name__}")
    try:
        raw = json.dumps(dict(value), allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(
            f"wire: {what} is not JSON: {error}", remedy="use strings, finite numbers, bools, lists and dicts"
        ) from error
    if len(raw) > limit:
        raise WireError(f"wire: {what} of {len(raw)} bytes is larger than {limit}")
    return raw


def shortened(header: Mapping[str, object]) -> dict[str, object]:
    """A header whose texts are short enough to send. Reasons quote what a stranger sent, whatever its length."""
    return {
        key: f"{value[:_LONGEST_TEXT]}..." if isinstance(value, str) and len(value) > _LONGEST_TEXT else value
        for key, value in header.items()
    }


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):  # 1e999 is valid JSON and becomes infinity
        raise ValueError(f"{text} is not a finite number")
    return value


def _bounded(text: str) -> int:
    # Beyond 64 bits no field of ours has a meaning, and float() of it raises or int() takes for ever.
    value = int(text) if len(text) <= 20 else None
    if value is None or abs(value) > _MAX_INTEGER:
        raise ValueError(f"an integer of {len(text)} characters is beyond +-2**63")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def load_json(raw: bytes, what: str) -> dict[str, object]:
    """The JSON object in `raw`. Raises `WireError`, naming `what`, for anything but finite and bounded values."""
    try:
        value = json.loads(
            raw.decode("utf-8"), parse_float=_finite, parse_int=_bounded, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:  # ValueError covers bad UTF-8 and bad JSON
        raise WireError(f"wire: {what} is not a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise WireError(f"wire: {what} is a JSON {type(value).__name__}, not an object")
    return value


# --- sockets -------------------------------------------------------------------------------------------


def listen_unix(path: Path, mode: int = 0o660, *, backlog: int = 16) -> socket.socket:
    """Listen on a Unix socket at `path` with file mode `mode`.

    A socket file that a killed process left behind is removed, but only when nobody answers on it. Two
    processes that start at once are kept apart by a lock on `<path>.lock`.

    Raises:
        WireError: somebody else listens there, something that is not a socket is there, the path is too
            long, or the folder is not writable.
    """
    _check_path(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(path.name + ".lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _remove_stale(path)
            # Linux takes the file's mode from the descriptor, so it is never open wider than `mode`.
            os.fchmod(server.fileno(), mode)
            server.bind(str(path))
            os.chmod(path, mode)  # bind applied the umask; this is the mode that was asked for
            server.listen(backlog)
        return server
    except OSError as error:
        server.close()
        if isinstance(error, PermissionError) and (another := belongs_to_another(path)) is not None:
            raise another from error
        raise WireError(
            f"{path}: cannot listen: {error.strerror or error}",
            remedy=f"make {path.parent} writable for this user",
        ) from error
    except BaseException:
        server.close()
        raise


def _remove_stale(path: Path) -> None:
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise WireError(f"{path}: is in the way and is not a socket", remedy="move it away, it is not ours")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except FileNotFoundError:
        return
    except BlockingIOError:
        pass  # a full backlog: somebody is there, only busy
    finally:
        probe.close()
    raise WireError(
        f"{path}: another process already listens here",
        remedy="stop the other continuonbrain process of this brain root first",
    )


def connect_unix(path: Path, timeout_s: float) -> socket.socket:
    """Connect to the socket at `path`, trying again until `timeout_s` is over (0 tries once).

    Trying again covers the ordinary start order, in which the other process is still coming up.

    Raises:
        WireTimeout: nobody listens there (yet).
        WireError: the path cannot be a socket of ours, or access is refused.
    """
    _check_path(path)
    deadline = time.monotonic() + timeout_s
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            sock.connect(str(path))
            sock.setblocking(True)
            return sock
        except (*_NOBODY_THERE, BlockingIOError) as error:
            sock.close()
            left_s = deadline - time.monotonic()
            if left_s <= 0.0:
                raise WireTimeout(
                    f"{path}: nobody answers within {timeout_s:g} s",
                    remedy="wait until it is up, or start it: sudo systemctl start continuonbrain.target on a robot, "
                    "continuonbrain run for a simulated one",
                ) from error
            time.sleep(min(_CONNECT_RETRY_S, left_s))
        except OSError as error:
            sock.close()
            raise WireError(
                f"{path}: cannot connect: {error.strerror or error}",
                remedy="run as the user or group that owns the socket",
            ) from error


def _check_path(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > _MAX_SOCKET_PATH_BYTES:
        raise WireError(
            f"{path}: {size} bytes are too long for a Unix socket (at most {_MAX_SOCKET_PATH_BYTES})",
            remedy="use a brain root with a shorter path",
        )
