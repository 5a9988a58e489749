"""What the robot sees, for whoever watches: `run/view.sock`, from a thread of its own.

A watcher sends {"type": "view", "fps": N} once and gets messages of `wire`: header {"type": "frame" or "tick",
"exposed_unix_ms", "tick": {...}}, body a JPEG (empty where there is no newer frame). The tick thread only hands over a
reference; nothing is encoded while nobody watches, and each frame once, for all. One that has not taken its last
message yet is left out, so it sees the newest when it is ready, and nothing queues up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from continuonbrain.loops.slack import Slack
from continuonbrain.loops.wire_stream import Peer, WireServer
from continuonbrain.rlds.step import Frame
from continuonbrain.rlds.writer import encode_jpeg

log = logging.getLogger(__name__)

VIEW_SOCKET_NAME = "view.sock"
MAX_FPS = 20
_IDLE_S, _LONGEST_TICK_S = 0.25, 0.05
_EARLY_S = 0.01
"""Ticks are not quite equal: a frame that comes so much before its watcher's time is due, too."""
_TELL_S = 0.1
"""A tick is told at least so often, also where the camera gives nothing."""
_QUALITY = 75


Newest = tuple[Frame, float]


class _Watcher:
    __slots__ = ("period_s", "sent_s", "shown")

    def __init__(self, fps: float) -> None:
        self.period_s, self.sent_s = 1 / min(fps, MAX_FPS), 0.0
        self.shown: Newest | None = None

    def wants(self, newest: Newest | None, now_s: float) -> bool:
        """Whether a message is due: a new frame at its rate, else a tick now and then."""
        since_s = now_s - self.sent_s
        return since_s + _EARLY_S >= (
            self.period_s if newest is not self.shown else max(self.period_s, _TELL_S)
        )


class ViewServer:
    """Serves the newest frame. tell: what is said beside it; called on this thread, must only read. slack: of the loop
    that shows the frames.

    Raises (on construction): `WireError`, see `listen_unix`.
    """

    def __init__(self, path: Path, tell: Callable[[], dict[str, Any]], slack: Slack | None = None) -> None:
        self._server = WireServer(path)
        self._slack = slack or Slack()
        self._tell = tell
        self._newest: Newest | None = None
        self._encoded: tuple[Newest, bytes] | None = None
        self._watchers: dict[Peer, _Watcher] = {}
        self._done = threading.Event()
        self._fault = ""
        self.encoded = 0
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)
        self._thread.start()

    def show(self, frame: Frame, exposed_s: float) -> None:
        """Hand over a frame (uint8 `[H, W, 3]`, not written to any more) and its monotonic time."""
        self._newest = frame, exposed_s

    def close(self) -> None:
        """End the thread and disconnect everyone."""
        self._done.set()
        self._thread.join(2.0)
        self._server.close()

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                if self._watchers:  # right after a tick there is a new frame, and time
                    self._slack.wait(_LONGEST_TICK_S)
                self._listen(0.0 if self._watchers else _IDLE_S)
                self._serve()
            except Exception as error:  # nobody's view may end a drive
                if str(error) != self._fault:
                    log.error("view: %s: %s", type(error).__name__, error)
                self._fault = str(error)
                self._done.wait(_IDLE_S)

    def _listen(self, timeout_s: float) -> None:
        for message in self._server.wait(timeout_s):
            fps = message.header.get("fps", MAX_FPS)
            number = isinstance(fps, int | float) and not isinstance(fps, bool)
            if message.header.get("type") == "view" and number and float(str(fps)) >= 1:
                self._watchers[message.peer] = _Watcher(float(str(fps)))
            else:
                self._server.drop(message.peer)
        for peer in [p for p in self._watchers if not p.open]:
            del self._watchers[peer]

    def _serve(self) -> None:
        newest, now = self._newest, time.monotonic()
        ready = [(p, w) for p, w in self._watchers.items() if not p.pending and w.wants(newest, now)]
        if not ready:
            return
        told = self._tell()
        for peer, watcher in ready:
            header: dict[str, object] = {"type": "tick", "tick": told}
            body = b""
            if newest is not None and newest is not watcher.shown:
                body = self._jpeg(newest)
                header["type"] = "frame"
                header["exposed_unix_ms"] = round((time.time() - time.monotonic() + newest[1]) * 1000, 3)
            watcher.shown, watcher.sent_s = newest, now
            self._server.reply(peer, header, body)

    def _jpeg(self, newest: Newest) -> bytes:
        if self._encoded is None or self._encoded[0] is not newest:
            self._encoded = newest, encode_jpeg(newest[0], quality=_QUALITY)
            self.encoded += 1
        return self._encoded[1]
