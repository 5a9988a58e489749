"""Opening the service: a Unix socket that the group may use (0660), TCP only when asked: on loopback, or on an address
of the LAN behind a pairing code."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops import notify
from continuonbrain.loops.base_watch import MOVED, BaseWatch
from continuonbrain.loops.wire import listen_unix
from continuonbrain.service.access import Pairing
from continuonbrain.service.addresses import reachable
from continuonbrain.service.app import create_app
from continuonbrain.service.door import names_of_this_machine

_MODE = 0o660
_BACKLOG = 64
_LONGEST_MESSAGE = 4096
"""Of a WebSocket, bytes: a driver's are far shorter."""
_MOST_IDLE, _NEW_S = 64, 1.0
_DESCRIPTORS = 8192
"""As many connections as come between two looks at the idle ones."""
_END_S = 2
"""For answers under way."""


def serve(
    brain: BrainRoot,
    *,
    tcp_port: int | None = None,
    listen: str | None = None,
    on_ready: Callable[[list[str]], None] = lambda _: None,
    on_code: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until another base drives (exit code `base_watch.MOVED`). listen: an address of
    this machine, instead of loopback. on_ready gets the addresses, on_code every pairing code; it is also in
    `run/pairing_code`, which only this user reads.

    Raises:
        WireError: another service holds the socket, or it cannot be made.
        BrainError: the TCP port is taken, or the address is none of this machine.
    """
    path = brain.layout.service_socket
    path.parent.mkdir(parents=True, exist_ok=True)
    sockets = [listen_unix(path, _MODE, backlog=_BACKLOG)]
    addresses = [str(path)]
    inode = os.lstat(path).st_ino
    code_path = brain.layout.pairing_code_path
    code_path.unlink(missing_ok=True)
    try:
        if tcp_port is not None or listen is not None:
            tcp = _tcp(listen or "127.0.0.1", tcp_port or 0)
            sockets.append(tcp)
            addresses += reachable(listen, tcp.getsockname()[1])
        if listen is None:
            app = create_app(brain)
        else:

            def told(code: str) -> None:
                _keep_code(code_path, code)
                on_code(code)

            app = create_app(brain, hosts=names_of_this_machine(), pairing=Pairing(told))
        config = uvicorn.Config(
            app,
            http=H11Protocol,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_END_S,
            lifespan="off",
            server_header=False,
            proxy_headers=False,  # an address is the peer's, not what the peer says
            ws="websockets-sansio",
            ws_max_size=_LONGEST_MESSAGE,
            ws_max_queue=8,
            ws_ping_interval=5.0,
            ws_ping_timeout=5.0,
            ws_per_message_deflate=False,  # pictures are packed already
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        # uvicorn raises the signal anew when it has shut down: by default that would end us before the socket is gone.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        _more_descriptors()
        server = _Server(config)
        server.on_ready, server.on_end = lambda: on_ready(addresses), app.state.feed.close
        server.base = BaseWatch(brain.layout)
        server.run(sockets=sockets)
        if server.base.moved():
            raise SystemExit(MOVED)
    finally:
        code_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if os.lstat(path).st_ino == inode:
                path.unlink()
        for sock in sockets:
            sock.close()


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(0)


class _Server(uvicorn.Server):
    base: BaseWatch
    on_ready: Callable[[], None]
    on_end: Callable[[], None]

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._pulse = notify.Pulse()
        self._idle_since: dict[H11Protocol, float] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._pulse.beat()
        self.on_ready()

    async def on_tick(self, counter: int) -> bool:
        self._pulse.beat()  # ten times a second while the event loop turns
        self._shed()
        self.should_exit = self.should_exit or self.base.moved()
        return await super().on_tick(counter)

    def _shed(self) -> None:
        """Close connections over which nothing is asked, or not to its end, where there are too many: they would take
        every descriptor, and the stop button with them."""
        now = time.monotonic()
        idle = [c for c in self.server_state.connections if isinstance(c, H11Protocol) and _is_idle(c)]
        self._idle_since = {c: self._idle_since.get(c, now) for c in idle}
        oldest = sorted(idle, key=self._idle_since.__getitem__)
        for connection in oldest[: max(0, len(idle) - _MOST_IDLE)]:
            if now - self._idle_since[connection] > _NEW_S:  # who has just come is about to ask
                connection.transport.abort()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notify.stopping()
        self.on_end()  # listeners of events never leave by themselves
        await super().shutdown(sockets)


def _is_idle(connection: H11Protocol) -> bool:
    cycle = getattr(connection, "cycle", None)  # none before the first request
    return cycle is None or bool(cycle.response_complete) or bool(cycle.more_body)


def _more_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _tcp(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise BrainError(
            f"port {port} of {address} cannot be used: {error.strerror or error}",
            remedy="choose another with --tcp, or an address of this machine with --listen (0.0.0.0: all of them)",
        ) from error
    sock.listen(_BACKLOG)
    return sock


def _keep_code(path: Path, code: str) -> None:
    """Where `continuonbrain run` reads it. Never in a log."""
    path.unlink(missing_ok=True)
    with (
        contextlib.suppress(OSError),
        open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file,
    ):
        file.write(f"{code}\n")
