"""The brain's events for any number of listeners, each at its own pace.

Listeners pull: one that reads slowly, or not at all, holds a place in a list and nothing else.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator
from pathlib import Path

from continuonbrain.storage.event_log import Event, EventLog

_POLL_S = 0.1


class Feed:
    """What the log in `folder` keeps, in memory; read again when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._log = EventLog(folder)
        self._events: list[Event] = []
        self._mark: tuple[int, int, int] | None = None
        self._lock = asyncio.Lock()

    async def last(self) -> int:
        """Number of the newest event, 0 before the first."""
        await self._refresh()
        return self._events[-1].sequence if self._events else 0

    async def follow(self, after: int) -> AsyncIterator[Event]:
        """Events behind a number, without end; what is not kept any more is left out (`Event.sequence` shows it)."""
        while True:
            await self._refresh()
            start = bisect_right(self._events, after, key=lambda e: e.sequence)
            for event in self._events[start:]:
                after = event.sequence
                yield event
            if start == len(self._events):
                await asyncio.sleep(_POLL_S)

    async def _refresh(self) -> None:
        async with self._lock:
            mark = self._log.mark()
            if mark != self._mark:
                self._events = await asyncio.to_thread(self._log.after, 0)
                self._mark = mark
