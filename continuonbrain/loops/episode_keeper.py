"""Episodes behind the control loop: opened, cut and closed on a thread, so that no tick waits for a disk.

`EpisodeRecorder` never blocks on `append`, but opening one creates folders and closing one syncs. Here steps go
into a queue; the thread opens an episode at the first step, cuts it when the instruction or who drives changes, when
it is long enough or when asked to (`cut`), and hands steps on.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from continuonbrain.errors import BrainError
from continuonbrain.loops.recording import Kind
from continuonbrain.rlds.step import Step

log = logging.getLogger(__name__)

_LONGEST_BACKLOG = 1200
_RETRY_S = 1.0
_CLOSE_TIMEOUT_S = 30.0


class Recorder(Protocol):
    """What is needed of `rlds.recorder.EpisodeRecorder`."""

    @property
    def dropped(self) -> int: ...

    @property
    def fault(self) -> str: ...

    @property
    def path(self) -> Path: ...

    def append(self, step: Step) -> bool: ...

    def count_dropped(self, steps: int) -> None: ...

    def close(self) -> Path: ...


class EpisodeKeeper:
    """One stream of steps into as many episodes as it takes.

    Args:
        open_recorder: makes the recorder of an episode with this instruction, driven by this source
            (`Step.source`), as this kind; called on the thread, when the robot may long be driven otherwise.
        steps_per_episode: longer drives are cut.
    """

    def __init__(
        self, open_recorder: Callable[[str, str, Kind], Recorder], *, steps_per_episode: int = 600
    ) -> None:
        self._open_recorder = open_recorder
        self._steps_per_episode = steps_per_episode
        self._queue: queue.SimpleQueue[tuple[Step, Kind, int] | bool] = queue.SimpleQueue()
        self._recorder: Recorder | None = None
        self._instruction = self._source = ""
        self._kind: Kind = ""
        self._steps = 0
        self._retry_s = 0.0
        self._closed = False
        self._dropped_at_queue = 0
        self._dropped_unopened = 0
        self._dropped_closed = 0
        self._unmarked_at_queue = 0
        self._told = 0
        """Of the steps dropped here, those that a recorder was told of and counts itself."""
        self._untold = 0
        self.recorded = 0
        """Steps handed over to a recorder."""
        self.fault = ""
        """The last disk error in words, "" when there was none."""
        self.episodes: list[str] = []
        """Folder names of the episodes that are closed."""
        self._thread = threading.Thread(target=self._run, name="episode-keeper", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Steps that were not kept."""
        open_one = self._recorder
        here = self._dropped_at_queue + self._dropped_unopened - self._told
        return here + self._dropped_closed + (0 if open_one is None else open_one.dropped)

    @property
    def now(self) -> tuple[str, int]:
        """Folder name and steps of the episode that is open, ("", 0) when none is."""
        open_one = self._recorder
        return ("", 0) if open_one is None else (open_one.path.name, self._steps)

    def append(self, step: Step, kind: Kind = "") -> bool:
        """Hand a step over, driven as `kind`; microseconds. False when it was dropped: the disk is far behind, or it is
        closed."""
        if self._closed or self._queue.qsize() >= _LONGEST_BACKLOG:
            self._dropped_at_queue += 1
            self._unmarked_at_queue += 1
            return False
        self._queue.put((step, kind, self._unmarked_at_queue))
        self._unmarked_at_queue = 0
        return True

    def lose(self, why: Exception) -> None:
        """Count a step that could not even be made, so that the next one says so."""
        self._dropped_at_queue += 1
        self._unmarked_at_queue += 1
        self._note(f"a step could not be recorded: {why}")

    def cut(self) -> None:
        """End the episode; the next step begins another."""
        self._queue.put(True)

    def close(self) -> None:
        """Write what is queued and close the episode."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(False)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self.fault = f"the disk did not answer for {_CLOSE_TIMEOUT_S:.0f} s"
            log.error("episodes: %s", self.fault)

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if not isinstance(item, bool):
                self._take(*item)
                continue
            if not item:
                self._untold += self._unmarked_at_queue  # no step comes any more that could say so
            self._close_episode()
            if not item:
                return

    def _take(self, step: Step, kind: Kind, dropped_before: int) -> None:
        self._untold += dropped_before
        full = self._steps >= self._steps_per_episode
        another = (step.instruction, step.source, kind) != (self._instruction, self._source, self._kind)
        if self._recorder is not None and (full or another):
            self._close_episode()
        if self._recorder is None and not self._open_episode(step.instruction, step.source, kind):
            self._dropped_unopened += 1
            self._untold += 1
            return
        assert self._recorder is not None
        self._tell(self._recorder)
        if self._recorder.append(step):
            self.recorded += 1
            self._steps += 1

    def _tell(self, recorder: Recorder) -> None:
        """Have the recorder count and mark what was dropped before it got anything."""
        if self._untold:
            recorder.count_dropped(self._untold)
            self._told += self._untold
            self._untold = 0

    def _open_episode(self, instruction: str, source: str, kind: Kind) -> bool:
        if time.monotonic() < self._retry_s:
            return False
        try:
            self._recorder = self._open_recorder(instruction, source, kind)
        except (OSError, BrainError) as error:
            # A full disk: the robot drives on, and the next second tries again.
            self._retry_s = time.monotonic() + _RETRY_S
            self._note(f"cannot open an episode: {error}")
            return False
        self._instruction, self._source, self._kind, self._steps = instruction, source, kind, 0
        return True

    def _close_episode(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        self._tell(recorder)
        self.episodes.append(recorder.close().name)
        self._dropped_closed += recorder.dropped
        if recorder.fault:
            self._note(recorder.fault)

    def _note(self, fault: str) -> None:
        if fault != self.fault:
            log.error("episodes: %s", fault)
        self.fault = fault
