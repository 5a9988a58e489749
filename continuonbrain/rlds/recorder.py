"""Recording while the robot drives: a bounded queue, one thread, and a control loop that never waits.

`append()` puts the step on the queue and returns; JPEG encoding, writing and fsync happen on the recorder's
thread (`writer.py` says in which order, and what survives what). When the disk cannot keep up, whole steps
are dropped, counted, and marked in the next step that is kept (`step_metadata.dropped_before`). When the disk
fails, the fault is named and the loop goes on; writing is tried again with every later step, so that a disk
that has room again is used again.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from continuonbrain.rlds.metadata import EpisodeMetadata
from continuonbrain.rlds.step import DROPPED_BEFORE, Frame, Step
from continuonbrain.rlds.writer import UNDELIVERED_DROPS, EpisodeWriter

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 60.0


class EpisodeRecorder:
    """Records one episode from a control loop.

    Args:
        episodes_dir: the memory's folder; the episode becomes `<episodes_dir>/<id>`.
        metadata: see `EpisodeMetadata`; an empty `episode_id` gets a fresh one.
        sync_interval_s: a power cut costs at most the steps of this many seconds; inf = only at close.
        jpeg_quality: of the frames.
        queue_size: steps that may wait for the disk; beyond it steps are dropped.

    Raises:
        EpisodeError: the episode exists already or its id is not a file name.
        OSError: the folder cannot be created.
    """

    def __init__(
        self,
        episodes_dir: Path,
        *,
        metadata: EpisodeMetadata,
        sync_interval_s: float = 1.0,
        jpeg_quality: int = 90,
        queue_size: int = 128,
    ) -> None:
        if metadata.start_time_unix_ms is None:
            metadata = replace(metadata, start_time_unix_ms=int(time.time() * 1000))
        self._writer = EpisodeWriter(
            episodes_dir, metadata=metadata, jpeg_quality=jpeg_quality, sync_interval_s=sync_interval_s
        )
        self._sync_interval_s = sync_interval_s
        self._queue_size = queue_size
        # SimpleQueue's put is one C call under the interpreter lock: no condition variable to wait for.
        self._queue: queue.SimpleQueue[tuple[Step, int] | None] = queue.SimpleQueue()
        self._dropped_at_queue = 0
        self._dropped_at_disk = 0
        self._unmarked_at_queue = 0
        self._unmarked_at_disk = 0
        self._fault = ""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="episode-recorder", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The episode's folder."""
        return self._writer.path

    @property
    def acknowledged(self) -> int:
        """Steps handed to the kernel by write(): they survive SIGKILL of this process.

        The newest step is always held back (its line must say whether it is the last), so this trails the
        appended steps by at least one until `close()`.
        """
        return self._writer.written

    @property
    def synced(self) -> int:
        """Steps that survive a power cut."""
        return self._writer.synced

    @property
    def dropped(self) -> int:
        """Steps that were not kept, because the queue was full or the disk refused."""
        return self._dropped_at_queue + self._dropped_at_disk

    @property
    def fault(self) -> str:
        """The last disk error in words, "" when there was none."""
        return self._fault

    def append(self, step: Step) -> bool:
        """Hand a step over; microseconds, never blocks, never raises for the disk.

        A frame is copied unless nobody can write to its memory, so that the caller may reuse its buffer.

        Returns:
            False when the step was dropped (the queue is full, or the recorder is closed).
        """
        if self._closing or self._queue.qsize() >= self._queue_size:
            self._dropped_at_queue += 1
            self._unmarked_at_queue += 1
            return False
        if step.frame is not None and not _is_immutable(step.frame):
            step = _with_copied_frame(step)
        self._queue.put((step, self._unmarked_at_queue))
        self._unmarked_at_queue = 0
        return True

    def close(self, *, terminal: bool = False) -> Path:
        """Write what is queued, mark the last step, sync, close the metadata.

        Args:
            terminal: the task ended (RLDS's is_terminal), not only the recording.

        Returns:
            The episode's folder. After a disk error (`fault`) it may still be open on disk;
            `recover_unfinished` closes it truthfully.
        """
        if self._closing:
            return self.path
        self._closing = True
        self._queue.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self._note(f"the disk did not answer for {_CLOSE_TIMEOUT_S:.0f} s", None)
            return self.path
        self._writer.annotate({UNDELIVERED_DROPS: self._unmarked()} if self._unmarked() else {})
        lost = self._writer.held_lost
        try:
            self._writer.close(terminal=terminal, dropped=self.dropped, fault=self._fault)
        except Exception as error:  # whatever a last step is, ending an episode does not end the caller
            self._dropped_at_disk += min(1, self._writer.held_lost - lost)
            self._note("closing the episode", error)
        return self.path

    def count_dropped(self, steps: int) -> None:
        """Count `steps` that were lost on their way here; the next step that is kept says so."""
        self._dropped_at_queue += steps
        self._unmarked_at_queue += steps

    def _unmarked(self) -> int:
        """Drops after the last kept step: no later step could carry them, so the metadata does."""
        return self._unmarked_at_queue + self._unmarked_at_disk

    def _note(self, what: str, error: Exception | None) -> None:
        text = f"{self.path}: {what}" + (f": {type(error).__name__}: {error}" if error is not None else "")
        if text != self._fault:  # a full disk fails twenty times a second: say it once
            log.error("episode recorder: %s", text)
        self._fault = text

    def _run(self) -> None:
        next_sync = time.monotonic() + self._sync_interval_s
        while True:
            wait = None if math.isinf(next_sync) else max(0.0, next_sync - time.monotonic())
            try:
                item = self._queue.get(timeout=wait)
                if item is None:
                    return
                self._take(*item)
            except queue.Empty:
                pass
            if time.monotonic() >= next_sync:
                try:
                    self._writer.sync()
                except OSError as error:
                    self._note("fsync", error)
                next_sync = time.monotonic() + self._sync_interval_s

    def _take(self, step: Step, dropped_at_queue: int) -> None:
        dropped_before = dropped_at_queue + self._unmarked_at_disk
        lost = self._writer.held_lost
        try:
            if dropped_before:
                step = replace(step, extra={**step.extra, DROPPED_BEFORE: str(dropped_before)})
            self._writer.write(step)
        except Exception as error:  # the thread must outlive any one step; the fault says what happened
            # What the held step said was dropped before it is counted already, but not marked any more.
            held_lost = self._writer.held_lost - lost
            self._dropped_at_disk += 1 + min(1, held_lost)
            self._unmarked_at_disk = dropped_before + 1 + held_lost
            self._note("writing a step", error)
        else:
            self._unmarked_at_disk = 0

    def __enter__(self) -> EpisodeRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_immutable(frame: Frame) -> bool:
    """Whether nobody can write to the frame's memory. A view's own flag does not say: its base may be written to."""
    owner: object = frame
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return isinstance(owner, bytes)


def _with_copied_frame(step: Step) -> Step:
    # dataclasses.replace would validate everything a second time, on the control loop's clock.
    copied = object.__new__(Step)
    copied.__dict__.update(step.__dict__)
    assert step.frame is not None
    copied.__dict__["frame"] = step.frame.copy()
    return copied
