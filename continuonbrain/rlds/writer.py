"""Append-only writing of one episode folder, synchronously. `recorder.py` puts a thread around it.

    <id>/metadata.json            provenance.recording.state is "open" until the episode is closed
    <id>/blobs/000000.tfrecord    one JPEG a record
    <id>/steps/000000.jsonl       one sealed line a step (stepline.py)

The order of system calls is the whole guarantee:

* a frame is written before the line that names it, and both files are appended with write(): once `write()`
  has returned, the line survives SIGKILL of this process, because the kernel holds it;
* `sync()` fsyncs frames, then lines, so that after a power cut no line that was synced lacks its frame;
* a write that fails half way is cut back to the last whole record, so that a full disk leaves no torn middle;
* one step is held back, so that the last line written says is_last and nothing is ever rewritten;
* an exclusive flock on the steps file, taken before the folder has its name, says that a writer lives; the kernel
  drops it when the process dies;
* what no reader would take is refused before anything of it is written, and so never acknowledged.
"""

from __future__ import annotations

import errno
import fcntl
import io
import math
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from PIL import Image

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.limits import (
    MAX_FRAME_BYTES,
    MAX_LINE_BYTES,
    MAX_METADATA_BYTES,
    MAX_STEPS,
    MAX_STEPS_BYTES,
)
from continuonbrain.rlds.metadata import EPISODE_ID, SYNCED_AT_CLOSE, EpisodeMetadata, RecordingState
from continuonbrain.rlds.metadata_seal import metadata_bytes as metadata_bytes
from continuonbrain.rlds.step import Frame, FrameRef, Step
from continuonbrain.rlds.stepline import encode_step_line
from continuonbrain.rlds.tfrecord import FRAMING_BYTES, frame_record
from continuonbrain.storage.durable import sync_directory, write_bytes_durably

METADATA_FILE = "metadata.json"
STEPS_FILE = "steps/000000.jsonl"
BLOB_FILE = "blobs/000000.tfrecord"
UNDELIVERED_DROPS = "undelivered_drops"
"""In the provenance: steps that were lost after the last one that was kept."""
_LONGEST_FAULT = 2000
_ROOM_FOR_CLOSING = 16 << 10
"""Of the metadata's limit: `close` and recovery add their account."""


def encode_jpeg(frame: Frame, *, quality: int) -> bytes:
    """RGB uint8 [H, W, 3] as a JPEG."""
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=quality)
    return out.getvalue()


def new_episode_id() -> str:
    """A name that sorts by time, to the millisecond (the three digits behind the dash), and does not collide."""
    seconds, rest_ns = divmod(time.time_ns(), 10**9)
    second = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))
    return f"{second}-{rest_ns // 10**6:03x}{secrets.randbits(20):05x}"


class EpisodeWriter:
    """Writes one episode; not thread-safe.

    Args:
        episodes_dir: created when absent.
        metadata: of the episode; an empty `episode_id` gets a fresh one.
        jpeg_quality: of frames that come as arrays.
        closed_by: what `close()` writes into the metadata: "recorder" or "import".
        sync_interval_s: how often the caller means to `sync()`, for recovery to know what a power cut may have
            cost; inf = only at close, None = not known.

    Raises:
        EpisodeError: the episode exists already, its id is not a file name, or its metadata are more than readers take.
        OSError: the folder cannot be created.
    """

    def __init__(
        self,
        episodes_dir: Path,
        *,
        metadata: EpisodeMetadata,
        jpeg_quality: int = 90,
        closed_by: str = "recorder",
        sync_interval_s: float | None = None,
    ) -> None:
        episode_id = metadata.episode_id or new_episode_id()
        if not EPISODE_ID.fullmatch(episode_id):
            raise EpisodeError(
                f"{episode_id!r} cannot name a folder",
                field="metadata.episode_id",
                remedy="use letters, digits, '.', '_' and '-'",
            )
        self.metadata = replace(metadata, episode_id=episode_id)
        self.path = episodes_dir / episode_id
        self._quality = jpeg_quality
        interval = SYNCED_AT_CLOSE if sync_interval_s == math.inf else sync_interval_s
        self._state = RecordingState(closed_by=closed_by, sync_interval_s=interval)
        self._held: Step | None = None
        self._held_bytes = 0
        self._lines = 0
        self._synced_lines = 0
        self._frames = 0
        self._first_ns = self._last_ns = 0
        self._torn = ""
        self.held_lost = 0
        """Steps that `write` had taken and that never got their line, with those that they said were dropped before
        them: the caller counts and marks them."""
        opening = replace(self._state, closed_by="").into(self.metadata)
        self._lock_fd = self._create(episodes_dir, self._metadata_text(opening, room=_ROOM_FOR_CLOSING))
        opened = [self._lock_fd]
        try:
            for file in (BLOB_FILE, STEPS_FILE):
                opened.append(os.open(self.path / file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        _, self._blob_fd, self._steps_fd = opened
        self._sizes = {self._blob_fd: 0, self._steps_fd: 0}
        self._unsynced = False
        self._sync_failed = False
        self._closed = False

    def _metadata_text(self, metadata: EpisodeMetadata, *, room: int = 0) -> bytes:
        """`metadata.json`; EpisodeError when it is no JSON, or no reader would take it."""
        file, limit = self.path / METADATA_FILE, MAX_METADATA_BYTES - room
        remedy = "put less into the metadata"
        try:
            data = metadata_bytes(metadata)
        except (TypeError, ValueError, RecursionError) as error:
            text = f"what is in them is no JSON: {error}"
            raise EpisodeError(text, file=file, field="metadata.provenance", remedy=remedy) from error
        if len(data) > limit:
            text = f"{len(data)} bytes are too many, {limit} may be written"
            raise EpisodeError(text, file=file, field="metadata", remedy=remedy)
        return data

    def _create(self, episodes_dir: Path, metadata: bytes) -> int:
        """The folder appears whole: it is built under a hidden name and renamed.

        Returns:
            The descriptor that holds the lock. Nobody else can see the file before it is locked: a recovery in
            another process would close the episode, and a reader's lock would refuse us ours.
        """
        taken = EpisodeError(
            "this episode exists already", file=self.path, remedy="give another episode_id, or none"
        )
        if os.path.lexists(self.path):
            raise taken
        episodes_dir.mkdir(parents=True, exist_ok=True)
        hidden = episodes_dir / f".staging-{secrets.token_hex(4)}-{self.path.name}"
        try:
            for file in (STEPS_FILE, BLOB_FILE):
                (hidden / file).parent.mkdir(parents=True)
                (hidden / file).touch()
                sync_directory((hidden / file).parent)
            write_bytes_durably(hidden / METADATA_FILE, metadata)
            lock_fd = os.open(hidden / STEPS_FILE, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(hidden, self.path)
                sync_directory(episodes_dir)
            except BaseException:
                os.close(lock_fd)
                raise
        except BaseException as error:
            shutil.rmtree(hidden, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise taken from error  # another process was faster with the same id
            raise
        return lock_fd

    @property
    def written(self) -> int:
        """Steps whose line the kernel holds: they survive SIGKILL."""
        return self._lines

    @property
    def synced(self) -> int:
        """Steps that survive a power cut."""
        return self._synced_lines

    def _append(self, fd: int, data: bytes) -> None:
        if self._torn:
            raise OSError(f"{self._torn}: an earlier write failed and could not be undone")
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        except BaseException:
            self._cut_back(fd)
            raise
        self._sizes[fd] += len(data)
        self._unsynced = True

    def _cut_back(self, fd: int) -> None:
        try:
            os.ftruncate(fd, self._sizes[fd])
        except OSError:
            # Appending after half a record would bury it in the middle: from here on, nothing is appended.
            self._torn = str(self.path / (BLOB_FILE if fd == self._blob_fd else STEPS_FILE))

    def write(self, step: Step) -> None:
        """Append `step`'s frame now and its line when the next step (or `close`) comes.

        Raises:
            OSError: the disk refused. Nothing of this step was kept; the steps before it are untouched, and
                writing may be tried again with a later step.
            EpisodeError: no reader would take this step; nothing of it was kept.
            Exception: anything else is the fault of a step: nothing of this one was kept, and when it was the
                held one that cannot be written, that is given up as well (`held_lost`).
        """
        blob_size = self._sizes[self._blob_fd]
        jpeg = step.frame_jpeg
        if jpeg is None and step.frame is not None:
            jpeg = encode_jpeg(step.frame, quality=self._quality)
        ref = None
        if jpeg is not None:
            if len(jpeg) > MAX_FRAME_BYTES:
                text = f"a frame of {len(jpeg)} bytes is too large, {MAX_FRAME_BYTES} are read at most"
                raise EpisodeError(
                    text, file=self.path / BLOB_FILE, field="frame", remedy="record smaller pictures"
                )
            ref = FrameRef(BLOB_FILE, self._frames, blob_size, len(jpeg) + FRAMING_BYTES)
        taken = replace(step, frame=None, frame_jpeg=None, frame_ref=ref)
        # Before anything of it is written, while refusing it costs nobody else: false is longer than true.
        line = encode_step_line(replace(taken, is_first=False, is_last=False, is_terminal=False))
        self._check_room(len(line), held=self._held_bytes)
        if jpeg is not None:
            self._append(self._blob_fd, frame_record(jpeg))
        if self._held is not None:
            try:
                self._write_line(self._held, last=False, terminal=False)
            except BaseException as error:
                # The frame just written will have no line: take it back, keep the held step for later.
                self._take_back_frames(blob_size)
                if not isinstance(error, OSError):
                    self._give_up_held()  # it would fail again with every later step
                raise
        self._held, self._held_bytes = taken, len(line)
        self._frames += ref is not None

    def _check_room(self, line: int, *, held: int) -> None:
        """EpisodeError when a line of so many bytes, newline included, is more than readers take."""
        file = self.path / STEPS_FILE
        if line - 1 > MAX_LINE_BYTES:
            text = f"a step line of {line - 1} bytes is too long, {MAX_LINE_BYTES} are read at most"
            raise EpisodeError(text, file=file, field="step", remedy="shorten its texts")
        size, steps = self._sizes[self._steps_fd] + held + line, self._lines + 1 + (held > 0)
        if size > MAX_STEPS_BYTES or steps > MAX_STEPS:
            text = f"the episode is full with {self._lines} steps in {size - line - held} bytes"
            raise EpisodeError(
                text, file=file, step=self._lines, field="steps", remedy="begin another episode"
            )

    def _take_back_frames(self, size: int) -> None:
        self._sizes[self._blob_fd] = size
        self._cut_back(self._blob_fd)

    def _give_up_held(self) -> None:
        held, self._held, self._held_bytes = self._held, None, 0
        assert held is not None
        self.held_lost += 1 + held.dropped_before
        if held.frame_ref is not None:
            self._take_back_frames(held.frame_ref.offset)
            self._frames -= 1

    def _write_line(self, step: Step, *, last: bool, terminal: bool) -> None:
        # RLDS's flags are facts about the position in the file, which only the writer knows.
        flagged = replace(step, is_first=self._lines == 0, is_last=last, is_terminal=terminal)
        self._append(self._steps_fd, encode_step_line(flagged))
        if self._lines == 0:
            self._first_ns = step.monotonic_ns
        self._last_ns = step.monotonic_ns
        self._lines += 1

    def sync(self) -> None:
        """fsync frames, then lines.

        Raises:
            OSError: the disk refused; what was not synced before may be lost in a power cut.
        """
        if self._unsynced:
            lines = self._lines
            try:
                os.fsync(self._blob_fd)
                os.fsync(self._steps_fd)
            except OSError:
                # Linux drops the dirty pages of a failed fsync and reports success the next time: from here
                # on nothing may be called safe against a power cut, whatever later calls say.
                self._sync_failed = True
                raise
            if not self._sync_failed:
                self._synced_lines = lines
            self._unsynced = False

    def close(self, *, terminal: bool = False, dropped: int = 0, fault: str = "") -> Path:
        """Write the held step as the last one, sync, and close the metadata.

        Args:
            terminal: the task ended (RLDS's is_terminal) rather than the recording.
            dropped, fault: the recorder's account, kept in the metadata.

        Raises:
            OSError: the disk refused. The episode stays "open" on disk, and `recover_unfinished` closes it. Or only
                the held step did not fit (`held_lost`): then it is closed without it, and its metadata say so.
            EpisodeError: the metadata are more than readers take; the episode stays open.
            Exception: the held step could not be written for another reason; it is closed without it.
        """
        if self._closed:
            return self.path
        try:
            lost: Exception | None = None
            if self._held is not None:
                gone = 1 + self._held.dropped_before
                try:
                    self._write_line(self._held, last=True, terminal=terminal or self._held.is_terminal)
                    self._held = None
                except Exception as error:
                    self._give_up_held()
                    if self._torn:
                        raise
                    lost, dropped = (
                        error,
                        dropped + 1,
                    )  # what it said was dropped before it is counted already
                    earlier = self.metadata.provenance.get(UNDELIVERED_DROPS)
                    self.annotate({UNDELIVERED_DROPS: gone + (earlier if isinstance(earlier, int) else 0)})
                    fault = f"{self.path}: the last step: {type(error).__name__}: {error}"
            self.sync()
            state = replace(
                self._state,
                state="closed",
                steps=self._lines,
                blob_bytes=self._sizes[self._blob_fd],
                dropped=dropped,
                fault=fault[:_LONGEST_FAULT],
            )
            duration_ms = (self._last_ns - self._first_ns) // 1_000_000 if self._lines else 0
            self.metadata = state.into(replace(self.metadata, duration_ms=duration_ms))
            write_bytes_durably(self.path / METADATA_FILE, self._metadata_text(self.metadata))
            if lost is not None:
                raise lost
        finally:
            self.abandon()
        return self.path

    def abandon(self) -> None:
        """Let go of the files and leave the episode open on disk, as a crash would."""
        if not self._closed:
            self._closed = True
            os.close(self._blob_fd)
            os.close(self._steps_fd)
            os.close(self._lock_fd)

    def annotate(self, provenance: Mapping[str, object]) -> None:
        """Add to the provenance that `close` writes."""
        self.metadata = replace(self.metadata, provenance={**self.metadata.provenance, **provenance})

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
