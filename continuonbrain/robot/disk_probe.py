"""Free space of a disk, and whether that number is alive.

The free space of an idle machine may stay the same for hours, so its standing still proves nothing. Where it has not
moved for `quiet_s` the probe moves it: it reserves a little space in a file without a name, looks again, and gives it
back. Nothing but the file system's own bookkeeping is written, every ten minutes at most. What it cannot see: a card
that acknowledges writes and loses them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from continuonbrain.robot.readings import Clock

StatVfs = Callable[[Path], os.statvfs_result]

_TRIAL_BYTES = 2**20
_TRIES = 3
"""Somebody else may give back as much at the same moment."""
_AGAIN_S = 60.0


class DiskProbe:
    """Free space at `path`. quiet_s: how long the number may stand still before it is tried, seconds."""

    def __init__(
        self, path: Path, *, clock: Clock, statvfs: StatVfs = os.statvfs, quiet_s: float = 600.0
    ) -> None:
        self._path, self._clock, self._statvfs, self._quiet_s = path, clock, statvfs, quiet_s
        self._free: int | None = None
        self._due_s = 0.0
        self._moves = 0
        self._refused: OSError | None = None

    def take(self) -> tuple[float, float]:
        """Free MiB, and how often the number was seen to move. `OSError` where nothing can be written or read."""
        status = self._statvfs(self._path)
        if status.f_flag & os.ST_RDONLY:
            # A kernel that found the file system damaged mounts it read-only and still tells its free space.
            raise OSError(f"{self._path} is on a disk that is mounted read-only")
        now_s = self._clock()
        # f_bavail, not f_bfree: what root keeps back is not ours to fill.
        free = status.f_bavail
        if free != self._free and self._refused is None:
            self._moved(free, now_s)
        elif now_s >= self._due_s and free * status.f_frsize > 2 * _TRIAL_BYTES:
            self._due_s = now_s + _AGAIN_S
            try:
                moves, self._refused = self._can_be_moved(), None
            except OSError as error:
                self._refused = error
            else:
                if moves:
                    self._moved(free, now_s)
        if self._refused is not None:
            # Until a trial succeeds: others may still write, and a gate must not open between two trials.
            raise OSError(f"nothing can be reserved in {self._path}: {self._refused}")
        return free * status.f_frsize / 2**20, float(self._moves)

    def _moved(self, free: int, now_s: float) -> None:
        self._free, self._due_s = free, now_s + self._quiet_s
        self._moves += 1

    def _can_be_moved(self) -> bool:
        """Whether reserved space is missing from what is free. Raises `OSError` when none can be reserved."""
        for _ in range(_TRIES):
            before = self._statvfs(self._path).f_bavail
            with tempfile.TemporaryFile(dir=self._path) as file:
                os.posix_fallocate(file.fileno(), 0, _TRIAL_BYTES)
                if self._statvfs(self._path).f_bavail != before:
                    return True
        return False
