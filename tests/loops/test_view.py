"""What the robot sees goes to whoever watches, newest first, and costs nothing while nobody does."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from continuonbrain.loops import wire
from continuonbrain.loops.view import ViewServer

FRAME = np.full((120, 160, 3), 90, np.uint8)


@pytest.fixture
def view(tmp_path: Path) -> Iterator[ViewServer]:
    server = ViewServer(tmp_path / "view.sock", lambda: {"tick": 7})
    yield server
    server.close()


def test_frames_are_encoded_only_while_somebody_watches(view: ViewServer, tmp_path: Path) -> None:
    view.show(FRAME, time.monotonic())
    time.sleep(0.3)
    assert view.encoded == 0
    with wire.connect_unix(tmp_path / "view.sock", 2) as sock:
        wire.send(sock, {"type": "view", "fps": 20})
        header, body = wire.receive(sock, 2)
        assert (header["type"], header["tick"]) == ("frame", {"tick": 7})
        assert abs(float(str(header["exposed_unix_ms"])) - time.time() * 1000) < 1000
        assert Image.open(io.BytesIO(body)).size == (160, 120)
        header, body = wire.receive(sock, 2)  # the camera gives nothing new: the tick is told all the same
        assert (header["type"], body) == ("tick", b"")
        assert view.encoded == 1
    time.sleep(0.6)
    view.show(FRAME.copy(), time.monotonic())
    time.sleep(0.3)
    assert view.encoded == 1


def test_a_watcher_that_does_not_read_misses_frames_and_holds_up_nobody(
    view: ViewServer, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    with (
        wire.connect_unix(tmp_path / "view.sock", 2) as lazy,
        wire.connect_unix(tmp_path / "view.sock", 2) as quick,
    ):
        wire.send(lazy, {"type": "view", "fps": 20})
        wire.send(quick, {"type": "view", "fps": 20})
        ages = []
        for number in range(30):
            view.show(np.roll(noise, number, 0), time.monotonic())
            while wire.receive(quick, 2)[0]["type"] != "frame":
                pass
            ages.append(number)
        assert len(ages) == 30
        view.show(FRAME, time.monotonic())  # the newest, however many were missed before it
        time.sleep(0.2)
        assert wire.receive(lazy, 2)[0]["type"] in ("frame", "tick")


def test_a_stranger_is_dropped(view: ViewServer, tmp_path: Path) -> None:
    for header in ({"type": "teleop"}, {"type": "view", "fps": "20"}, {"type": "view", "fps": 0}):
        with wire.connect_unix(tmp_path / "view.sock", 2) as sock:
            wire.send(sock, header)
            with pytest.raises(wire.WireClosed):
                wire.receive(sock, 2)
