"""A standing connection to the control process for what cannot wait: commands of a person who drives.

Nothing here waits for an answer. When the connection ends, the control process lets go of the wheel by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from math import inf
from pathlib import Path

from continuonbrain.loops.wire import WireError, encode
from continuonbrain.loops.wire_stream import RECEIVE_BYTES, MessageReader

_MAX_BACKLOG = 8 * 1024
"""Bytes that the control process has not taken: it hangs."""


class ControlLine:
    """Commands to `control.sock`. Use `send` and `problem`, then `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self.problem = ""
        """Why the last command did not arrive, or was refused; "" when nothing is known against it."""
        self.answered_s = -inf
        """When the newest command to drive that was answered was sent, monotonic seconds. What arrives is not what is
        heard: a control process that hangs takes commands for seconds."""
        self._unanswered: deque[float] = deque()

    async def drive(
        self, steering: float, throttle: float, *, active: bool, for_s: float, sent_s: float
    ) -> None:
        """A command that was given at `sent_s` (monotonic), good for `for_s` from then."""
        await self._send(
            {
                "type": "teleop",
                "steering": steering,
                "throttle": throttle,
                "active": active,
                "for_s": for_s,
                "sent_s": sent_s,
            },
            drives=True,
        )

    async def let_go(self) -> None:
        """Nobody drives any more."""
        if self._writer is not None:
            await self._send({"type": "let_go"})

    def close(self) -> None:
        """End the connection, at once."""
        if self._listener is not None:
            self._listener.cancel()
        if self._writer is not None:
            self._writer.transport.abort() if self._backlog() else self._writer.close()
        self._writer = self._listener = None

    async def _send(self, command: dict[str, object], *, drives: bool = False) -> None:
        try:
            if self._writer is None:
                reader, self._writer = await asyncio.open_unix_connection(self._path)
                self._unanswered = deque()
                self._listener = asyncio.create_task(self._listen(reader, self._unanswered))
                self.problem = ""
            if self._backlog() > _MAX_BACKLOG:
                raise OSError("it takes no commands")
            self._writer.write(encode(command))
            self._unanswered.append(time.monotonic() if drives else -inf)
        except (OSError, WireError) as error:
            self.close()
            self.problem = f"the control process does not answer: {error}"

    def _backlog(self) -> int:
        return 0 if self._writer is None else self._writer.transport.get_write_buffer_size()

    async def _listen(self, reader: asyncio.StreamReader, unanswered: deque[float]) -> None:
        messages = MessageReader()
        with contextlib.suppress(OSError, WireError):
            while data := await reader.read(RECEIVE_BYTES):
                for header, _ in messages.feed(data):
                    if unanswered:  # answers come in the order of what was sent
                        self.answered_s = max(self.answered_s, unanswered.popleft())
                    self.problem = "" if header.get("ok") is True else str(header.get("detail", "refused"))
        self.problem = "the control process has gone"
        self._listener = None
        self.close()
