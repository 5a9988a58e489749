"""Notices: one publisher, any number of listeners on a Unix socket; and one notice with an answer.

Notices are newline-delimited JSON objects with a sequence number (`NoticeBoard`, `subscribe`): here every
subscriber only listens. The board never waits for anyone: who does not read is dropped.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from continuonbrain.loops.wire import (
    Closing,
    WireClosed,
    WireError,
    WireTimeout,
    connect_unix,
    dump_json,
    encode,
    listen_unix,
    load_json,
    receive,
    send,
    shortened,
)

_CONNECT_S = 0.5
MAX_NOTICE_BYTES = 64 * 1024


class _Subscriber:
    __slots__ = ("pending", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pending = bytearray()


class NoticeBoard(Closing):
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
            line = (
                dump_json({**shortened(event), "sequence": self._sequence + 1}, "event", MAX_NOTICE_BYTES)
                + b"\n"
            )
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

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:  # nobody waits (or has gone again, or we are out of descriptors)
                return
            sock.setblocking(False)
            subscriber = _Subscriber(sock)
            subscriber.pending += dump_json(
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


class Subscription(Closing):
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

    def _next_line(self) -> dict[str, object] | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return load_json(line, "notice")


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
        # Whoever is still coming up reads what drives by itself.
        sock = connect_unix(path, min(timeout_s, _CONNECT_S))
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
