"""What the robot sees, to every browser that watches: one connection to `run/view.sock`, and a newest frame that each
watcher takes when it is ready. At most two frames are under way to one: whoever is slow gets fewer, never older."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, WebSocket, WebSocketDisconnect
from starlette.types import Scope

from continuonbrain.loops.view import MAX_FPS
from continuonbrain.loops.wire import WireError, encode
from continuonbrain.loops.wire_stream import RECEIVE_BYTES, MessageReader
from continuonbrain.service.door import session_of
from continuonbrain.service.drive import who_is
from continuonbrain.service.wheel import Wheel

MOST_WATCHERS = 8
_MOST_OF_ONE = 3
_IN_FLIGHT = 2
_TICK_S = 0.1
_RETRY_S = 0.5
_NOW_S = 1.0
"""A tick that is older is not what the robot does now: its process hangs, and the car has stopped or is alone."""
_UNANSWERED_S = 10.0
_MAX_ACK = 64


class NewestTick:
    """What the robot said last, while that is now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tick: dict[str, Any] = {}
        self._came_s = clock()

    def take(self, tick: dict[str, Any]) -> None:
        """It has said something. A loop that hangs is told on by the thread beside it, always with the same number;
        while a simulated robot is taught no tick is counted."""
        if tick.get("tick") != self._tick.get("tick") or tick.get("phase") == "teach":
            self._came_s = self._clock()
        self._tick = tick

    def now(self) -> dict[str, Any]:
        """{} when it is too old to be told."""
        return self._tick if self._clock() - self._came_s <= _NOW_S else {}


class ViewHub:
    """The newest frame and tick, while somebody watches."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self.watchers = 0
        self._by: Counter[str] = Counter()
        self.frames = 0
        """Frames so far; the newest has this number."""
        self.newest = b""
        self.tick = NewestTick()
        self.turn = 0
        """Another when all who watch, listen to events or are being answered are sent away."""

    def while_let_in(self, scope: Scope) -> Callable[[], bool]:
        """Whether whoever asks now may still hear: who was let in not any more once everybody has to pair anew; over
        the Unix socket nobody has to."""
        turn, let_in = self.turn, session_of(scope) is not None
        return lambda: not let_in or self.turn == turn

    def full(self, who: str, *, drives: bool) -> str:
        """Why `who` may not watch, too; "" when they may. Nobody takes all places, and who drives has one."""
        if self._by[who] >= _MOST_OF_ONE:
            return f"this session watches {_MOST_OF_ONE} times already"
        if self.watchers >= MOST_WATCHERS and not (drives and self._by[who] == 0):
            return f"{MOST_WATCHERS} watch already"
        return ""

    @contextlib.asynccontextmanager
    async def watching(self, who: str = "") -> Any:
        """While inside, frames come to `who`."""
        self.watchers += 1
        self._by[who] += 1
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        try:
            yield self
        finally:
            self.watchers -= 1
            self._by[who] -= 1
            if self.watchers == 0 and self._reader is not None:
                self._reader.cancel()
                self._reader = None

    async def wait(self, timeout_s: float) -> None:
        """Until something new is there, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait()

    async def _read(self) -> None:
        while True:
            with contextlib.suppress(OSError, WireError):
                await self._read_once()
            self.tick.take({})
            await self._tell()
            await asyncio.sleep(_RETRY_S)

    async def _read_once(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            messages = MessageReader()
            writer.write(encode({"type": "view", "fps": MAX_FPS}))
            while data := await reader.read(RECEIVE_BYTES):
                for header, body in messages.feed(data):
                    tick, exposed = header.get("tick"), header.get("exposed_unix_ms")
                    if isinstance(tick, dict):
                        self.tick.take(tick)
                    if body and isinstance(exposed, int | float):
                        self.newest, self.frames = struct.pack("<d", exposed) + body, self.frames + 1
                await self._tell()
        finally:
            writer.close()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class _Watcher:
    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self.sent = self.acked = 0
        self.progress_s = time.monotonic()
        self.gone = asyncio.Event()

    async def listen(self) -> None:
        """Take acknowledgements until the socket ends, or says what is none."""
        try:
            while True:
                text = await self._socket.receive_text()
                said = json.loads(text) if len(text) <= _MAX_ACK else None
                if not isinstance(said, dict) or "ack" not in said:
                    await self._socket.close(1008, 'a watcher says {"ack": n} and no more')
                    return
                self.acked = min(self.sent, self.acked + 1)
                self.progress_s = time.monotonic()
        except (WebSocketDisconnect, RuntimeError, ValueError, KeyError, RecursionError):
            return
        finally:
            self.gone.set()

    async def show(self, hub: ViewHub, fps: int) -> None:
        """Frames and ticks, as fast as they are taken."""
        seen, frame_s, tick_s, turn = -1, 0.0, 0.0, hub.turn
        while not self.gone.is_set() and hub.turn == turn:
            now = time.monotonic()
            if now - tick_s >= _TICK_S:
                tick_s = now
                await self._socket.send_json({"type": "tick", **hub.tick.now()})
            behind = self.sent - self.acked >= _IN_FLIGHT
            if behind and now - self.progress_s > _UNANSWERED_S:
                return
            # A little early counts: two clocks of the same rate must not halve it.
            if hub.newest and hub.frames != seen and not behind and now - frame_s >= 0.7 / fps:
                seen, frame_s = hub.frames, now
                self.sent += 1
                if self.sent - self.acked == 1:
                    self.progress_s = now
                await self._socket.send_bytes(hub.newest)
            await hub.wait(min(_TICK_S, 1 / fps))


def add_view_route(app: FastAPI, hub: ViewHub, wheel: Wheel) -> None:
    """WebSocket `/v1/view?fps=N`: binary messages of 8 bytes (float64, little endian: wall time of the exposure in ms)
    and a JPEG; the client answers each with {"ack": n}. Between them {"type": "tick", ...} ten times a second, with
    nothing in it while no control process is heard."""

    @app.websocket("/v1/view")
    async def view(socket: WebSocket, fps: Annotated[int, Query(ge=1, le=MAX_FPS)] = MAX_FPS) -> None:
        await socket.accept()
        who = who_is(socket.scope)
        if why := hub.full(who, drives=wheel.seen_by(who) == "me"):
            await socket.close(1013, why)
            return
        watcher = _Watcher(socket)
        listener = asyncio.create_task(watcher.listen())
        try:
            async with hub.watching(who):
                await watcher.show(hub, fps)
            await socket.close(1000)
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass
        finally:
            listener.cancel()
