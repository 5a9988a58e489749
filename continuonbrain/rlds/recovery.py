"""Closing what a crash left open, truthfully.

A crash of the process can tear the end of the two files and nothing else: lines and frames are appended in order. A
power cut may also leave holes in what was not synced, as drives reorder. So the tail is cut, back to the step before
the first one that is not whole with its frame, when that lies within the longest time that may be unsynced; a damaged
step further up is another kind of damage, and left for the doctor to name. No line is rewritten: that the last one
does not say is_last is what happened, and the reader knows it from `closed_by: "recovery"`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from array import array
from dataclasses import dataclass, replace
from pathlib import Path

from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError
from continuonbrain.rlds.files import data_files, open_regular
from continuonbrain.rlds.linescan import scan_lines
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.pieces import MAX_PIECES
from continuonbrain.rlds.reader import MAX_FRAME_BYTES, MAX_STEPS_BYTES, list_episodes, read_metadata
from continuonbrain.rlds.step import FrameRef, Step
from continuonbrain.rlds.stepline import decode_step_line
from continuonbrain.rlds.tfrecord import read_header, read_record
from continuonbrain.rlds.writer import METADATA_FILE, STEPS_FILE, metadata_bytes
from continuonbrain.storage.durable import remove_abandoned_staging, write_bytes_durably

_UNSYNCED_NS = 60_000_000_000
"""The longest `recorder.sync_interval_s` that a config may say."""


@dataclass(frozen=True)
class Recovered:
    """What was done with one unfinished episode.

    Attributes:
        path: its folder.
        steps: whole steps that it has.
        cut_step_bytes, cut_blob_bytes: torn bytes that were cut off its two files.
        cut_lines: lines among them: their frame, or one before them, had not reached the disk.
        problem: why it was left alone, "" when it was closed.
    """

    path: Path
    steps: int = 0
    cut_step_bytes: int = 0
    cut_blob_bytes: int = 0
    cut_lines: int = 0
    problem: str = ""


def recover_unfinished(episodes_dir: Path) -> list[Recovered]:
    """Close every episode that a dead recorder left open; one that is being recorded is not touched.

    Returns:
        One entry for each unfinished episode of a dead recorder, those that could not be closed included.
    """
    # What an opening or an import left half made that was killed: no episode was ever in it.
    remove_abandoned_staging(episodes_dir)
    done = []
    for path in list_episodes(episodes_dir):
        try:
            state = RecordingState.of(read_metadata(path / METADATA_FILE))
            if state is None or state.state != "open":
                continue
            fd = _open_steps(path / STEPS_FILE)
        except EpisodeError as error:
            done.append(Recovered(path, problem=str(error)))
            continue
        except OSError as error:
            done.append(Recovered(path, problem=f"{path / STEPS_FILE}: {error.strerror}"))
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            continue  # a living recorder holds it
        try:
            done.append(_close(path, fd))
        except (OSError, EpisodeError) as error:
            done.append(Recovered(path, problem=str(error)))
        finally:
            os.close(fd)
    return done


def _open_steps(file: Path) -> int:
    """A descriptor for reading and cutting. Raises OSError, for a pipe or a device as well: they have no end."""
    fd = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(file))
        return fd
    except BaseException:
        os.close(fd)
        raise


class _Lines:
    """The lines of a steps file by their places; of each only what is asked for is read.

    Attributes:
        size: bytes of the file.
        torn: bytes behind the last newline.
    """

    def __init__(self, file: Path, fd: int) -> None:
        """Find the lines. EpisodeError: more bytes or lines than an episode holds. OSError from the disk."""
        self._fd = fd
        self._starts, self._ends, self._counts = array("Q"), array("Q"), array("Q")
        self._is_text = array("b")
        self.size = os.fstat(fd).st_size
        if self.size > MAX_STEPS_BYTES:
            raise EpisodeError(f"a file of {self.size} bytes is too long", file=file)
        for line in scan_lines(file, hopeless=lambda: True):
            if not line.ended:
                break
            if len(self._starts) >= MAX_PIECES:
                raise EpisodeError(f"more than {MAX_PIECES} steps", file=file)
            self._starts.append(line.start)
            self._ends.append(line.end)
            self._counts.append(line.count)
            self._is_text.append(line.text is not None)

    def __len__(self) -> int:
        """Lines, where a run of lines that hold no step counts as one."""
        return len(self._starts)

    def end(self, place: int) -> int:
        """Bytes up to the end of the first `place` lines."""
        return self._ends[place - 1] if place else 0

    def count(self, start: int, end: int) -> int:
        """Newlines in the lines `start` to `end`, not included."""
        return sum(self._counts[start:end])

    def step(self, place: int) -> Step | None:
        """The step of a line, when it holds one."""
        if not self._is_text[place]:
            return None
        text = os.pread(self._fd, self._ends[place] - 1 - self._starts[place], self._starts[place])
        try:
            return decode_step_line(text, index=place, count=None, sealed=True)
        except EpisodeError:
            return None


class _Frames:
    """Whether frames are whole, until twice as many bytes were read as there are: steps that name the same bytes again
    and again would have them read for hours."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._left = 2 * size

    def holds(self, ref: FrameRef) -> bool:
        """Whether the frame is there whole. EpisodeError: the steps name more bytes than there are."""
        blob = self._path / ref.file
        try:
            with open_regular(blob) as file:
                size = min(os.fstat(file.fileno()).st_size, ref.offset + ref.length)
                length = read_header(file, path=blob, offset=ref.offset, size=size)
                self._left -= length
                if self._left < 0:
                    raise EpisodeError("its steps name more bytes of frames than there are", file=self._path)
                read_record(file, path=blob, offset=ref.offset, size=size, limit=MAX_FRAME_BYTES)
            return True
        except (CorruptRecordError, OSError):
            return False


def _whole_lines(lines: _Lines, frames: _Frames) -> int:
    """How many lines stay."""

    def whole_step(place: int) -> Step | None:
        step = lines.step(place)
        return step if step is None or step.frame_ref is None or frames.holds(step.frame_ref) else None

    whole = len(lines)
    newest: Step | None = None
    for place in range(len(lines) - 1, -1, -1):
        step = whole_step(place)
        if step is None:
            whole = place
        elif newest is None:
            newest = step
        elif newest.monotonic_ns - step.monotonic_ns > _UNSYNCED_NS:
            break
    return whole


def _close(path: Path, steps_fd: int) -> Recovered:
    blobs = data_files(path / "blobs", "*.tfrecord")
    blob_size = sum(blob.stat().st_size for blob in blobs)
    lines = _Lines(path / STEPS_FILE, steps_fd)
    whole = _whole_lines(lines, _Frames(path, blob_size))
    steps = lines.count(0, whole)
    kept_bytes = lines.end(whole)
    last = lines.step(whole - 1) if whole else None
    first = next((step for place in range(whole) if (step := lines.step(place)) is not None), None)
    metadata = read_metadata(path / METADATA_FILE)

    blob_end = _blob_end(lines, whole)
    if len(blobs) == 1 and blob_end < blob_size:
        with open(blobs[0], "r+b") as file:
            file.truncate(blob_end)
            os.fsync(file.fileno())
    else:
        blob_end = blob_size
    if kept_bytes < lines.size:
        os.ftruncate(steps_fd, kept_bytes)
    os.fsync(steps_fd)

    duration_ms = (
        0 if first is None or last is None else (last.monotonic_ns - first.monotonic_ns) // 1_000_000
    )
    state = RecordingState(state="closed", closed_by="recovery", steps=steps, blob_bytes=blob_end)
    write_bytes_durably(
        path / METADATA_FILE, metadata_bytes(state.into(replace(metadata, duration_ms=max(0, duration_ms))))
    )
    return Recovered(
        path,
        steps=steps,
        cut_step_bytes=lines.size - kept_bytes,
        cut_blob_bytes=blob_size - blob_end,
        cut_lines=lines.count(whole, len(lines)),
    )


def _blob_end(lines: _Lines, whole: int) -> int:
    """Where the last frame that a readable line names ends; frames after it never got their line."""
    for place in range(whole - 1, -1, -1):
        step = lines.step(place)
        if step is not None and step.frame_ref is not None:
            return step.frame_ref.offset + step.frame_ref.length
    return 0
