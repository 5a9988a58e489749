"""Opening the service: a Unix socket that the group may use (0660), loopback TCP only when asked."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable

import uvicorn

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops import notify
from continuonbrain.loops.wire import listen_unix
from continuonbrain.service.app import create_app

_MODE = 0o660
_BACKLOG = 64
_LOOPBACK_NAMES = ("127.0.0.1", "localhost")
_END_S = 2
"""For answers under way."""


def serve(
    brain: BrainRoot, *, tcp_port: int | None = None, on_ready: Callable[[list[str]], None] = lambda _: None
) -> None:
    """Serve until SIGTERM or SIGINT. on_ready gets the addresses.

    Raises:
        WireError: another service holds the socket, or it cannot be made.
        BrainError: the TCP port is taken.
    """
    path = brain.layout.service_socket
    path.parent.mkdir(parents=True, exist_ok=True)
    sockets = [listen_unix(path, _MODE, backlog=_BACKLOG)]
    addresses = [str(path)]
    inode = os.lstat(path).st_ino
    try:
        if tcp_port is not None:
            tcp = _loopback(tcp_port)
            sockets.append(tcp)
            addresses.append(f"http://127.0.0.1:{tcp.getsockname()[1]}")
        app = create_app(brain, hosts=_LOOPBACK_NAMES if tcp_port is not None else None)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_END_S,
            lifespan="off",
            server_header=False,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        # uvicorn raises the signal anew when it has shut down: by default that would end us before the socket is gone.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        server = _Server(config)
        server.on_ready, server.on_end = lambda: on_ready(addresses), app.state.feed.close
        server.run(sockets=sockets)
    finally:
        with contextlib.suppress(OSError):
            if os.lstat(path).st_ino == inode:
                path.unlink()
        for sock in sockets:
            sock.close()


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(0)


class _Server(uvicorn.Server):
    on_ready: Callable[[], None]
    on_end: Callable[[], None]

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._pulse = notify.Pulse()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._pulse.beat()
        self.on_ready()

    async def on_tick(self, counter: int) -> bool:
        self._pulse.beat()  # ten times a second while the event loop turns
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notify.stopping()
        self.on_end()  # listeners of events never leave by themselves
        await super().shutdown(sockets)


def _loopback(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError as error:
        sock.close()
        raise BrainError(
            f"port {port} of this machine cannot be used: {error.strerror}",
            remedy="choose another with --tcp",
        ) from error
    sock.listen(_BACKLOG)
    return sock
