"""Whether the base that this process opened still drives. One that has opened another ends, and is started anew.

A process holds its base, its adapters' store and what it has computed with them; the safest way to another base is
another process. So each of them looks once a second, ends in good order (the control process stops its robot first)
and leaves with `MOVED`, upon which the supervisor, or systemd by `Restart=on-failure`, starts it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from continuonbrain.errors import BrainError
from continuonbrain.storage.base_slots import BaseSlotError, BaseSlots
from continuonbrain.storage.layout import BrainLayout

MOVED = 75
"""EX_TEMPFAIL of sysexits.h: try again."""
_EVERY_S = 1.0


class BaseMoved(BrainError):
    """Another base drives than the one that was opened. Nothing was changed."""


class BaseWatch:
    """Looks at most once a second; costs a look at a file's times then."""

    def __init__(self, layout: BrainLayout, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout, self._clock = layout, clock
        self._slots = BaseSlots(layout)
        self._next_s = -1e9
        self._mark: tuple[int, int, int] | None = None
        self._moved = False

    def moved(self) -> bool:
        """Whether another base drives now. What cannot be read moves nobody: the next start tells of it."""
        now = self._clock()
        if self._moved or now < self._next_s:
            return self._moved
        self._next_s = now + _EVERY_S
        try:
            stat = self._layout.base_slot_path.stat()
            mark = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        except FileNotFoundError:
            mark = (0, 0, 0)
        except OSError:
            return False
        if mark != self._mark:
            try:
                self._moved = self._slots.state().current != self._layout.base_slot
            except BaseSlotError:
                return False
            self._mark = mark
        return self._moved


def refuse_if_moved(layout: BrainLayout) -> None:
    """For whoever is about to change a store: raises BaseMoved when it is that of a base that does not drive."""
    drives = BaseSlots(layout).state().current
    if drives != layout.base_slot:
        raise BaseMoved(
            f"another base drives now ({drives or 'the one of config.json'}): nothing is changed on the one before",
            remedy="try again",
        )
