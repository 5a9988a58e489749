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
from continuonbrain.service.view import ViewHub, _Watcher
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
