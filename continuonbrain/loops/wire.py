"""The wire between our processes: framed messages and notices over Unix sockets.

A message is

    4 bytes  b"CBW" and the version (1)
    u32      length of the header, bytes (at most 64 KiB)
    u32      length of the body, bytes (at most 1 MiB, e.g. one 160 x 120 x 3 frame)
    header   one JSON object, UTF-8, finite numbers only, integers within +-2**63
    body     raw bytes

in network byte order. Never pickle: a socket is a place where somebody else's bytes come in. Whatever is
wrong with them raises a `WireError`, and the caller closes the connection.

Notices are newline-delimited JSON objects with a sequence number (`NoticeBoard`, `subscribe`), because
there every subscriber only listens. The board never waits for anyone: who does not read is dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import TracebackType

from continuonbrain.errors import BrainError

MAGIC = b"CBW\x01"
MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 1024 * 1024
MAX_NOTICE_BYTES = 64 * 1024
_MAX_INTEGER = 2**63

_PREFIX = struct.Struct("!4sII")
# sun_path holds 108 bytes including the closing zero.
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


def encode(header: Mapping[str, object], body: bytes = b"") -> bytes:
    """Return the bytes of one message.

    Raises:
        WireError: the header is not JSON with finite numbers, or header or body are too large.
    """
    raw = _dump(header, "header", MAX_HEADER_BYTES)
    if len(body) > MAX_BODY_BYTES:
        raise WireError(f"wire: body of {len(body)} bytes is larger than {MAX_BODY_BYTES}")
    return b"".join((_PREFIX.pack(MAGIC, len(raw), len(body)), raw, body))


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
    prefix = _receive_exactly(sock, _PREFIX.size, deadline, already=0)
    magic, header_length, body_length = _PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise WireError(
            f"wire: message starts with {magic!r}, expected {MAGIC!r}",
            remedy="restart all processes of the brain, so that they run the same version",
        )
    if header_length > MAX_HEADER_BYTES:
        raise WireError(f"wire: header of {header_length} bytes is larger than {MAX_HEADER_BYTES}")
    if body_length > MAX_BODY_BYTES:
        raise WireError(f"wire: body of {body_length} bytes is larger than {MAX_BODY_BYTES}")
    raw = _receive_exactly(sock, header_length, deadline, already=_PREFIX.size)
    body = _receive_exactly(sock, body_length, deadline, already=_PREFIX.size + header_length)
    return _load(raw, "header"), body


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


def _dump(value: Mapping[str, object], what: str, limit: int) -> bytes:
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


def _load(raw: bytes, what: str) -> dict[str, object]:
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
                    remedy="start the other process, or wait until it is up",
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


# --- notices: one publisher, any number of listeners ----------------------------------------------------


class _Subscriber:
    __slots__ = ("pending", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pending = bytearray()


class NoticeBoard:
    """Publishes events to everyone connected to a Unix socket, waiting for nobody.

    There is no thread: `publish` and `service` accept whoever has connected since and send what fits. A
    publisher that is silent for long should call `service` now and then. Each subscriber first gets
    `{"kind": "hello", "sequence": n}` with the number of the last event before it, so a gap can be seen.
    A subscriber that leaves more than `max_pending_bytes` unread is dropped. Thread-safe.

    Raises (on construction): `WireError`, see `listen_unix`.
    """

    def __init__(self, path: Path, *, mode: int = 0o660, max_pending_bytes: int = 256 * 1024) -> None:
        self._path = path
        self._max_pending = max_pending_bytes
        self._server = listen_unix(path, mode, backlog=64)
        self._server.setblocking(False)
        self._inode = os.lstat(path).st_ino
        self._subscribers: list[_Subscriber] = []
        self._sequence = 0
        self._dropped = 0
        self._lock = threading.Lock()

    @property
    def sequence(self) -> int:
        """Number of the last event; 0 before the first."""
        return self._sequence

    @property
    def subscribers(self) -> int:
        return len(self._subscribers)

    @property
    def dropped(self) -> int:
        """How many subscribers were dropped because they did not read."""
        return self._dropped

    def publish(self, event: Mapping[str, object]) -> int:
        """Send `event` (any JSON object) to all; returns its sequence number, which is added to it.

        Raises:
            WireError: the event is not JSON with finite numbers or is larger than 64 KiB. Never because
                of a subscriber.
        """
        if event.get("kind") == "hello":
            raise WireError('wire: an event of kind "hello" is the greeting', remedy="choose another kind")
        with self._lock:
            self._accept()
            line = _dump({**event, "sequence": self._sequence + 1}, "event", MAX_NOTICE_BYTES) + b"\n"
            self._sequence += 1
            for subscriber in self._subscribers:
                subscriber.pending += line
            self._flush()
            return self._sequence

    def service(self) -> None:
        """Accept who is waiting, send what is left, forget who has gone. Returns at once."""
        with self._lock:
            self._accept()
            self._flush()

    def close(self) -> None:
        """Disconnect everyone and remove the socket file if it is still ours."""
        with self._lock:
            for subscriber in self._subscribers:
                subscriber.sock.close()
            self._subscribers.clear()
            # Unlink before closing: while we listen, nobody else can have taken the path over.
            with contextlib.suppress(OSError):
                if os.lstat(self._path).st_ino == self._inode:
                    self._path.unlink()
            self._server.close()

    def __enter__(self) -> NoticeBoard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:  # nobody waits (or has gone again, or we are out of descriptors)
                return
            sock.setblocking(False)
            subscriber = _Subscriber(sock)
            subscriber.pending += _dump(
                {"kind": "hello", "sequence": self._sequence}, "event", MAX_NOTICE_BYTES
            )
            subscriber.pending += b"\n"
            self._subscribers.append(subscriber)

    def _flush(self) -> None:
        kept: list[_Subscriber] = []
        for subscriber in self._subscribers:
            if not self._send_pending(subscriber):
                subscriber.sock.close()
            elif len(subscriber.pending) > self._max_pending:
                self._dropped += 1
                subscriber.sock.close()
            else:
                kept.append(subscriber)
        self._subscribers = kept

    @staticmethod
    def _send_pending(subscriber: _Subscriber) -> bool:
        """Send what fits without waiting; False when the subscriber has gone."""
        try:
            # A subscriber has nothing to say; an empty read means that it closed.
            if not subscriber.sock.recv(4096):
                return False
        except BlockingIOError:
            pass
        except OSError:
            return False
        try:
            while subscriber.pending:
                sent = subscriber.sock.send(subscriber.pending, socket.MSG_NOSIGNAL)
                del subscriber.pending[:sent]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


class Subscription:
    """One listener on a `NoticeBoard`. Use as a context manager; not thread-safe."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self.sequence = 0
        """Number of the last event seen."""
        self.missed = 0
        """How many events were lost between two seen ones."""

    def poll(self, timeout_s: float = 0.0) -> dict[str, object] | None:
        """The next event, or None when none comes in time (0 only looks). The greeting is swallowed.

        Raises:
            WireClosed: the board has gone, or dropped this subscriber for not reading. Subscribe again.
            WireError: what came is not a notice.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            event = self._next_line()
            if event is not None:
                number = event.get("sequence")
                if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                    raise WireError(f"wire: notice with sequence {number!r}")
                greeting = event.get("kind") == "hello"
                if not greeting:
                    self.missed += max(0, number - self.sequence - 1)
                self.sequence = number
                if greeting:
                    continue
                return event
            if len(self._buffer) > MAX_NOTICE_BYTES:
                raise WireError(f"wire: notice longer than {MAX_NOTICE_BYTES} bytes")
            try:
                self._sock.settimeout(max(0.0, deadline - time.monotonic()))
                data = self._sock.recv(65536)
            except (TimeoutError, BlockingIOError):
                return None
            except OSError as error:
                raise WireClosed(f"wire: notices ended: {error.strerror or error}") from error
            if not data:
                raise WireClosed("wire: the notice board closed the connection", remedy="subscribe again")
            self._buffer += data

    def __iter__(self) -> Iterator[dict[str, object]]:
        """Events for as long as the board lives; ends when it closes."""
        while True:
            try:
                event = self.poll(1.0)
            except WireClosed:
                return
            if event is not None:
                yield event

    def fileno(self) -> int:
        """For `select`, so that a loop can wait for several things."""
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _next_line(self) -> dict[str, object] | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return _load(line, "notice")


def subscribe(path: Path, timeout_s: float = 5.0) -> Subscription:
    """Listen to the board at `path`. Raises `WireTimeout` or `WireError`, see `connect_unix`."""
    return Subscription(connect_unix(path, timeout_s))


# --- one notice with an answer (sidecar -> policy process) -----------------------------------------------


@dataclass(frozen=True, slots=True)
class NoticeAnswer:
    """What came of a notice. listening: somebody holds the socket. answered: and replied in time."""

    listening: bool
    answered: bool
    ok: bool
    detail: str


def post_notice(path: Path, event: Mapping[str, object], *, timeout_s: float = 5.0) -> bool:
    """Hand `event` to the process listening at `path`; True when it answers that it was taken.

    Sends `{"type": "notice", "event": event}` and waits for the answer of `answer_notice`. False means
    that nobody listens, that the answer was no, or that none came in time. It may then have been taken
    all the same, so what it asks for must be harmless to repeat.

    Raises:
        WireError: `event` itself cannot be sent (not JSON, too large), or the path is unusable.
    """
    return ask_notice(path, event, timeout_s=timeout_s).ok


def ask_notice(path: Path, event: Mapping[str, object], *, timeout_s: float = 5.0) -> NoticeAnswer:
    """As `post_notice`, but tells apart: nobody listens, no answer, a refusal with its reason, taken."""
    data = {"type": "notice", "event": dict(event)}
    encode(data)  # a mistake of the caller's is an error, not a "no"
    deadline = time.monotonic() + timeout_s
    try:
        sock = connect_unix(path, timeout_s)
    except WireTimeout as error:
        # A full backlog is somebody who does not accept, not nobody.
        return NoticeAnswer(isinstance(error.__cause__, BlockingIOError), False, False, error.message)
    with contextlib.closing(sock):
        try:
            send(sock, data, timeout_s=max(0.001, deadline - time.monotonic()))
            answer, _ = receive(sock, max(0.001, deadline - time.monotonic()))
        except WireError as error:
            return NoticeAnswer(True, False, False, error.message)
    ok = answer.get("type") == "ack" and answer.get("ok") is True
    return NoticeAnswer(True, True, ok, str(answer.get("detail", "")))


def answer_notice(sock: socket.socket, *, ok: bool, detail: str = "", timeout_s: float = 1.0) -> None:
    """Answer a notice received on `sock`. Raises what `send` raises."""
    send(sock, {"type": "ack", "ok": ok, "detail": detail}, timeout_s=timeout_s)
