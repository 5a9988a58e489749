"""A person with a browser: cookie, token, sockets, and a hand that repeats the service's clock."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.drive_session import read_status


class Person:
    """A browser: its cookie, its token, its sockets."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.http = httpx.Client(base_url=address, timeout=10)
        self.session = self.http.get("/v1/session").json()
        self.http.headers["x-csrf"] = self.session["csrf"]

    @property
    def cookie(self) -> str:
        return "; ".join(f"{c.name}={c.value}" for c in self.http.cookies.jar)

    def socket(self, path: str, **headers: str) -> ClientConnection:
        given = {"Cookie": self.cookie, **headers}
        url = self.address.replace("http", "ws", 1) + path
        return connect(
            url,
            origin=given.pop("Origin", self.address),
            additional_headers=given,
            compression=None,
            proxy=None,
        )

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)


def says(t: float, **more: Any) -> str:
    return json.dumps({"t": t, "steering": 0.2, "throttle": 0.3, "active": True, "assist": False} | more)


class Hand:
    """What drives through a socket: it repeats the clock of the newest ack, as the page does."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._echo = socket, dict[str, float]()

    def says(self, **more: Any) -> None:
        self._socket.send(says(**({"t": now_ms()} | self._echo | more)))

    def hears(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self._socket.recv(2))
        if told["type"] == "ack":
            self._echo = {"clock": told["clock"], "heard": now_ms()}
        return told


def ends(socket: ClientConnection) -> bool:
    """Whether the other side closes it, after a few messages at most."""
    try:
        for _ in range(20):
            socket.recv(2)
    except ConnectionClosed:
        return True
    return False


def now_ms() -> float:
    return time.monotonic() * 1000


@contextmanager
def control(brain: BrainRoot, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "continuonbrain.loops.control_process", "--park", *arguments]
    process = subprocess.Popen([*command, "--root", str(brain.layout.root)], stderr=subprocess.PIPE)
    try:
        until(lambda: read_status(brain.layout).get("tick", 0) > 3, 30)
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)


def until(true: Callable[[], Any], timeout_s: float = 5.0) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
    return found
