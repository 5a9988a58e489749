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
* an exclusive flock on the steps file says that a writer lives; the kernel drops it when the process dies.
"""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from PIL import Image

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.metadata import EPISODE_ID, SYNCED_AT_CLOSE, EpisodeMetadata, RecordingState
from continuonbrain.rlds.step import Frame, FrameRef, Step
from continuonbrain.rlds.stepline import encode_step_line
from continuonbrain.rlds.tfrecord import crc32c, frame_record
from continuonbrain.storage.durable import sync_directory, write_bytes_durably

METADATA_FILE = "metadata.json"
STEPS_FILE = "steps/000000.jsonl"
BLOB_FILE = "blobs/000000.tfrecord"
_METADATA_CRC = "metadata_crc32c"
_METADATA_SEAL = re.compile(rb'"metadata_crc32c": "([0-9a-f]{8})"\s*\}\s*\}\s*\}\s*\Z')


def encode_jpeg(frame: Frame, *, quality: int) -> bytes:
    """RGB uint8 [H, W, 3] as a JPEG."""
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=quality)
    return out.getvalue()


def metadata_bytes(metadata: EpisodeMetadata) -> bytes:
    """The text of `metadata.json`; that of a recording of ours is sealed with the CRC of all its other bytes.

    A flipped bit in `environment_id` is still text, so nothing but a checksum can tell.
    """
    value = metadata.to_json()
    recording = metadata.provenance.get("recording")
    if not isinstance(recording, Mapping):
        return _json_text(value)
    # The seal is the last value of the file, whatever others put into the provenance.
    provenance = {name: item for name, item in metadata.provenance.items() if name != "recording"}
    recording = {name: item for name, item in recording.items() if name != _METADATA_CRC}
    value["provenance"] = {**provenance, "recording": {**recording, _METADATA_CRC: "0" * 8}}
    data = _json_text(value)
    seal = _METADATA_SEAL.search(data)
    assert seal is not None
    start, end = seal.span(1)
    return b"%s%08x%s" % (data[:start], crc32c(data[:start] + data[end:]), data[end:])


def _json_text(value: object) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def metadata_alteration(data: bytes, metadata: EpisodeMetadata) -> EpisodeError | None:
    """What the seal of a `metadata.json` says: an error when its bytes were altered; None when whole or unsealed.

    Args:
        data: the whole file.
        metadata: what was read from it.
    """
    seal = _METADATA_SEAL.search(data)
    if seal is not None:
        start, end = seal.span(1)
        altered = crc32c(data[:start] + data[end:]) != int(seal.group(1), 16)
    else:
        state = RecordingState.of(metadata)
        altered = state is not None and state.metadata_crc32c != ""
    if not altered:
        return None
    return EpisodeError(
        "the CRC of the metadata does not match: its bytes were altered",
        field=f"metadata.provenance.recording.{_METADATA_CRC}",
        remedy="look at its values; continuonbrain episodes repair PATH OUT writes them anew",
    )


def new_episode_id() -> str:
    """A name that sorts by time and does not collide."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + secrets.token_hex(4)


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
        EpisodeError: the episode exists already, or its id is not a file name.
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
        self._lines = 0
        self._synced_lines = 0
        self._frames = 0
        self._first_ns = self._last_ns = 0
        self._torn = ""
        self._create(episodes_dir)
        self._blob_fd = os.open(self.path / BLOB_FILE, os.O_WRONLY | os.O_APPEND)
        self._steps_fd = os.open(self.path / STEPS_FILE, os.O_WRONLY | os.O_APPEND)
        self._sizes = {self._blob_fd: 0, self._steps_fd: 0}
        self._unsynced = False
        self._sync_failed = False
        self._closed = False
        fcntl.flock(self._steps_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _create(self, episodes_dir: Path) -> None:
        """The folder appears whole: it is built under a hidden name and renamed."""
        if self.path.exists():
            raise EpisodeError(
                "this episode exists already", file=self.path, remedy="give another episode_id, or none"
            )
        episodes_dir.mkdir(parents=True, exist_ok=True)
        hidden = episodes_dir / f".staging-{secrets.token_hex(4)}-{self.path.name}"
        try:
            for file in (STEPS_FILE, BLOB_FILE):
                (hidden / file).parent.mkdir(parents=True)
                (hidden / file).touch()
                sync_directory((hidden / file).parent)
            write_bytes_durably(
                hidden / METADATA_FILE, metadata_bytes(replace(self._state, closed_by="").into(self.metadata))
            )
            os.rename(hidden, self.path)
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        sync_directory(episodes_dir)

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
        """
        blob_size = self._sizes[self._blob_fd]
        jpeg = step.frame_jpeg
        if jpeg is None and step.frame is not None:
            jpeg = encode_jpeg(step.frame, quality=self._quality)
        ref = None
        if jpeg is not None:
            record = frame_record(jpeg)
            self._append(self._blob_fd, record)
            ref = FrameRef(BLOB_FILE, self._frames, blob_size, len(record))
        if self._held is not None:
            try:
                self._write_line(self._held, last=False, terminal=False)
            except BaseException:
                # The frame just written will have no line: take it back, keep the held step for later.
                self._sizes[self._blob_fd] = blob_size
                self._cut_back(self._blob_fd)
                raise
        self._held = replace(step, frame=None, frame_jpeg=None, frame_ref=ref)
        self._frames += ref is not None

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
            OSError: the disk refused. The episode stays "open" on disk, and `recover_unfinished` closes it.
        """
        if self._closed:
            return self.path
        try:
            if self._held is not None:
                self._write_line(self._held, last=True, terminal=terminal or self._held.is_terminal)
                self._held = None
            self.sync()
            state = replace(
                self._state,
                state="closed",
                steps=self._lines,
                blob_bytes=self._sizes[self._blob_fd],
                dropped=dropped,
                fault=fault,
            )
            duration_ms = (self._last_ns - self._first_ns) // 1_000_000 if self._lines else 0
            self.metadata = state.into(replace(self.metadata, duration_ms=duration_ms))
            write_bytes_durably(self.path / METADATA_FILE, metadata_bytes(self.metadata))
        finally:
            self.abandon()
        return self.path

    def abandon(self) -> None:
        """Let go of the files and leave the episode open on disk, as a crash would."""
        if not self._closed:
            self._closed = True
            os.close(self._blob_fd)
            os.close(self._steps_fd)

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
