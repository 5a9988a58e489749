"""How the service is opened: what keeps a peer that has gone from being taken for one that is there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import uvicorn

from continuonbrain.brain_root import open_brain
from continuonbrain.service import server, view
from continuonbrain.service.view import NewestTick, ViewHub, _Watcher
from continuonbrain.storage.layout import init_brain_root


def test_websockets_are_pinged_and_messages_are_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[uvicorn.Config] = []

    class Caught(Exception):
        pass

    def config(*given: Any, **more: Any) -> uvicorn.Config:
        found.append(uvicorn.Config(*given, **more))
        raise Caught

    monkeypatch.setattr(server, "uvicorn", SimpleNamespace(Config=config, Server=uvicorn.Server))
    brain = open_brain(init_brain_root(tmp_path / "b", "sim-donkey").root)
    with pytest.raises(Caught):
        server.serve(brain, tcp_port=0)
    (one,) = found
    assert one.ws_ping_interval is not None
    assert one.ws_ping_timeout is not None
    assert one.ws_ping_interval + one.ws_ping_timeout <= 10.0  # a phone that is out of reach
    assert one.ws_max_size <= 4096


def test_a_tick_is_told_while_it_is_now() -> None:
    now = 50.0
    newest = NewestTick(lambda: now)
    assert newest.now() == {}
    drives = {"tick": 113, "mode": "autopilot", "phase": "drive"}
    newest.take(drives)
    now = 50.9
    assert newest.now() == drives
    now = 51.1
    assert newest.now() == {}  # its process hangs
    newest.take(drives)
    assert newest.now() == {}  # its loop hangs, and the thread beside it does not
    newest.take({**drives, "tick": 114})
    assert newest.now()["tick"] == 114
    taught = {"tick": 114, "mode": "teach", "phase": "teach"}
    now = 55.0
    newest.take(taught)  # no tick is counted in a lesson
    assert newest.now() == taught
    newest.take({})
    assert newest.now() == {}


def test_a_watcher_is_not_told_again_and_again_what_was(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []

    async def takes(data: Any) -> None:
        told.append(data)

    async def watched() -> None:
        hub = ViewHub(tmp_path / "view.sock")
        hub.tick.take({"tick": 1, "mode": "autopilot"})
        socket: Any = SimpleNamespace(send_bytes=takes, send_json=takes)
        watcher = _Watcher(socket)
        showing = asyncio.create_task(watcher.show(hub, 20))
        await asyncio.sleep(1.8)
        watcher.gone.set()
        await showing

    asyncio.run(watched())
    assert told[0] == {"type": "tick", "tick": 1, "mode": "autopilot"}
    assert told[-1] == {"type": "tick"}


def test_a_watcher_that_answers_nothing_loses_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "_UNANSWERED_S", 0.2)
    sent: list[bytes] = []

    async def takes(data: Any) -> None:
        if isinstance(data, bytes):
            sent.append(data)

    async def watched() -> None:
        hub: Any = ViewHub(tmp_path / "view.sock")
        socket: Any = SimpleNamespace(send_bytes=takes, send_json=takes)
        watcher = _Watcher(socket)

        async def frames() -> None:
            while True:
                hub.newest, hub.frames = b"jpeg", hub.frames + 1
                await asyncio.sleep(0.01)

        coming = asyncio.create_task(frames())
        async with asyncio.timeout(5):
            await watcher.show(hub, 20)
        coming.cancel()

    asyncio.run(watched())
    assert len(sent) == 2  # no more than two are under way
