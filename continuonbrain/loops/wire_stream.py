"""The wire without waiting: an incremental reader, and a server that one thread polls.

`wire.receive` waits for a whole message. A control tick and a process that serves several peers cannot: they
take the bytes that are there (`MessageReader`), and leave what does not fit in a buffer (`WireServer`).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from continuonbrain.loops import wire
from continuonbrain.loops.wire import Closing, WireError, encode, listen_unix, shortened

RECEIVE_BYTES = 256 * 1024
"""One recv: a whole request with its frame (57,600 bytes) and some."""
_MAX_PENDING_BYTES = 1024 * 1024


class MessageReader:
    """Cuts a stream of bytes into the messages of `wire`."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[dict[str, object], bytes]]:
        """Add received bytes; returns the messages that they complete. `WireError`: close the connection."""
        buffer = self._buffer
        buffer += data
        messages: list[tuple[dict[str, object], bytes]] = []
        prefix = wire.PREFIX  # the format has one owner; this is its other reader
        while len(buffer) >= prefix.size:
            magic, header_length, body_length = prefix.unpack_from(buffer)
            if magic != wire.MAGIC:
                raise WireError(
                    f"wire: message starts with {magic!r}, expected {wire.MAGIC!r}",
                    remedy="restart all processes of the brain, so that they run the same version",
                )
            if header_length > wire.MAX_HEADER_BYTES or body_length > wire.MAX_BODY_BYTES:
                raise WireError(
                    f"wire: header of {header_length} or body of {body_length} bytes is too large"
                )
            end = prefix.size + header_length + body_length
            if len(buffer) < end:
                break
            header_end = prefix.size + header_length
            header = wire.load_json(bytes(buffer[prefix.size : header_end]), "header")
            messages.append((header, bytes(buffer[header_end:end])))
            del buffer[:end]
        return messages


class Peer:
    """Somebody connected to a `WireServer`."""

    __slots__ = ("open", "pending", "reader", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = MessageReader()
        self.pending = bytearray()
        self.open = True


class Message(NamedTuple):
    """One message and who sent it."""

    peer: Peer
    header: dict[str, object]
    body: bytes


class WireServer(Closing):
    """Listens on a Unix socket for one thread: `wait` returns messages, `reply` never blocks.

    A peer whose bytes make no sense, or who does not read its answers, is dropped.
    Raises (on construction): `WireError`, see `listen_unix`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server = listen_unix(path)
        self._server.setblocking(False)
        self._inode = os.lstat(path).st_ino
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self.refused = 0
        """Peers dropped for what they sent, or for not reading."""

    def wait(self, timeout_s: float) -> list[Message]:
        """Messages that have arrived, after at most `timeout_s` (0 only looks)."""
        messages: list[Message] = []
        for key, events in self._selector.select(timeout_s):
            peer = key.data
            if peer is None:
                self._accept()
                continue
            if events & selectors.EVENT_WRITE:
                self._flush(peer)
            if events & selectors.EVENT_READ and peer.open:
                messages += self._read(peer)
        return messages

    def reply(self, peer: Peer, header: Mapping[str, object], body: bytes = b"") -> None:
        """Answer; what does not fit now is sent by a later `wait`. A peer that has gone is no error, and a long text is
        cut short."""
        if peer.open:
            peer.pending += encode(shortened(header), body)
            self._flush(peer)

    def acknowledge(self, peer: Peer, *, ok: bool, detail: str = "") -> None:
        """The answer that `wire.post_notice` waits for."""
        self.reply(peer, {"type": "ack", "ok": ok, "detail": detail})

    def drop(self, peer: Peer) -> None:
        """Disconnect a peer."""
        if peer.open:
            peer.open = False
            self._selector.unregister(peer.sock)
            peer.sock.close()

    def close(self) -> None:
        """Disconnect everyone and remove the socket file if it is still ours."""
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self.drop(key.data)
        self._selector.close()
        # Unlink before closing: while we listen, nobody else can have taken the path over.
        with contextlib.suppress(OSError):
            if os.lstat(self._path).st_ino == self._inode:
                self._path.unlink()
        self._server.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._server.accept()
        except OSError:  # gone again, or we are out of descriptors
            return
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, Peer(sock))

    def _read(self, peer: Peer) -> list[Message]:
        try:
            data = peer.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.drop(peer)
            return []
        try:
            return [Message(peer, header, body) for header, body in peer.reader.feed(data)]
        except WireError:
            self.refused += 1
            self.drop(peer)
            return []

    def _flush(self, peer: Peer) -> None:
        try:
            while peer.pending:
                sent = peer.sock.send(peer.pending, socket.MSG_NOSIGNAL)
                del peer.pending[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.drop(peer)
            return
        if len(peer.pending) > _MAX_PENDING_BYTES:
            self.refused += 1
            self.drop(peer)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.pending else 0)
        if self._selector.get_key(peer.sock).events != wanted:
            self._selector.modify(peer.sock, wanted, peer)
