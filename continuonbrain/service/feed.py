"""The brain's events for any number of listeners, each at its own pace.

Listeners pull: one that reads slowly, or not at all, holds a place in a list and nothing else.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable
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
        self._begun = 0
        self._closed = False

    def close(self) -> None:
        """Listeners are told no more: the service ends."""
        self._closed = True

    async def last(self) -> int:
        """Number of the newest event, 0 before the first."""
        await self._refresh()
        return self._events[-1].sequence if self._events else 0

    async def kept(self) -> list[Event]:
        """All that the log keeps, oldest first."""
        await self._refresh()
        return self._events

    @property
    def begun(self) -> int:
        """How often the numbers began anew, as of the last `last`."""
        return self._begun

    async def follow(
        self, after: int, begun: int, goes_on: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[Event | None]:
        """Events behind a number, until `close` or while it `goes_on`; what is not kept is left out (`Event.sequence`
        shows it). None: the numbers began anew since `begun` (somebody emptied the folder), and all that is kept
        follows."""
        while not self._closed and goes_on():
            await self._refresh()
            if begun != self._begun:
                begun, after = self._begun, 0
                yield None
            start = bisect_right(self._events, after, key=lambda e: e.sequence)
            for event in self._events[start:]:
                if begun != self._begun or not goes_on():
                    break
                after = event.sequence
                yield event
            else:
                if start == len(self._events):
                    await asyncio.sleep(_POLL_S)

    async def _refresh(self) -> None:
        async with self._lock:
            mark = self._log.mark()
            if mark != self._mark:
                try:
                    events = await asyncio.to_thread(self._log.after, 0)
                except OSError:  # no descriptors left, a disk that does not answer: asked again
                    return
                known = {e.sequence: e for e in self._events}
                if self._events and (
                    not events
                    or events[-1].sequence < self._events[-1].sequence
                    or any(known.get(e.sequence, e) != e for e in events)
                ):
                    self._begun += 1
                self._events, self._mark = events, mark
