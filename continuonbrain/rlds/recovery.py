"""Closing what a crash left open, truthfully.

A crash of the process can tear the end of the two files and nothing else: lines and frames are appended in order. A
power cut may also leave holes in what was not synced, as drives reorder. So the tail is cut, back to the step before
the first one that is not whole with its frame, when that lies within the longest time that may be unsynced; a damaged
step further up is another kind of damage, and left for the doctor to name. No line is rewritten: that the last one
does not say is_last is what happened, and the reader knows it from `closed_by: "recovery"`.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, replace
from pathlib import Path

from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.reader import list_episodes, read_metadata, split_lines
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.stepline import decode_step_line
from continuonbrain.rlds.tfrecord import read_record
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
    remove_abandoned_staging(
        episodes_dir
    )  # an opening or an import that was killed: no episode was ever in it
    done = []
    for path in list_episodes(episodes_dir):
        try:
            state = RecordingState.of(read_metadata(path / METADATA_FILE))
            if state is None or state.state != "open":
                continue
            fd = os.open(path / STEPS_FILE, os.O_RDWR)
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


def _whole_step(path: Path, line: bytes, index: int) -> Step | None:
    """The step of a line, when both it and its frame are whole."""
    try:
        step = decode_step_line(line, index=index, count=None, sealed=True)
        if step.frame_ref is not None:
            blob = path / step.frame_ref.file
            with open(blob, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                read_record(file, path=blob, offset=step.frame_ref.offset, size=size)
        return step
    except (EpisodeError, CorruptRecordError, OSError):
        return None


def _whole_steps(path: Path, lines: list[bytes]) -> tuple[int, Step | None]:
    """How many lines stay, and the step of the last of them."""
    steps = [_whole_step(path, line, index) for index, line in enumerate(lines)]
    whole = len(steps)
    while whole and steps[whole - 1] is None:
        whole -= 1
    newest = steps[whole - 1] if whole else None
    for index in range(whole - 1, -1, -1):
        step = steps[index]
        if step is None:
            whole = index
        elif newest is not None and newest.monotonic_ns - step.monotonic_ns > _UNSYNCED_NS:
            break
    return whole, steps[whole - 1] if whole else None


def _close(path: Path, steps_fd: int) -> Recovered:
    data = (path / STEPS_FILE).read_bytes()
    lines, _ = split_lines(data)
    whole, last = _whole_steps(path, lines)
    kept_bytes = sum(len(line) + 1 for line in lines[:whole])

    blobs = sorted((path / "blobs").glob("*.tfrecord"))
    blob_size = sum(blob.stat().st_size for blob in blobs)
    blob_end = _blob_end(lines[:whole])
    if len(blobs) == 1 and blob_end < blob_size:
        with open(blobs[0], "r+b") as file:
            file.truncate(blob_end)
            os.fsync(file.fileno())
    else:
        blob_end = blob_size
    if kept_bytes < len(data):
        os.ftruncate(steps_fd, kept_bytes)
    os.fsync(steps_fd)

    metadata = read_metadata(path / METADATA_FILE)
    first = _first_readable(lines[:whole])
    duration_ms = (
        0 if first is None or last is None else (last.monotonic_ns - first.monotonic_ns) // 1_000_000
    )
    state = RecordingState(state="closed", closed_by="recovery", steps=whole, blob_bytes=blob_end)
    write_bytes_durably(
        path / METADATA_FILE, metadata_bytes(state.into(replace(metadata, duration_ms=max(0, duration_ms))))
    )
    return Recovered(
        path,
        steps=whole,
        cut_step_bytes=len(data) - kept_bytes,
        cut_blob_bytes=blob_size - blob_end,
        cut_lines=len(lines) - whole,
    )


def _blob_end(lines: list[bytes]) -> int:
    """Where the last frame that a readable line names ends; frames after it never got their line."""
    for index in range(len(lines) - 1, -1, -1):
        try:
            ref = decode_step_line(lines[index], index=index, count=None, sealed=True).frame_ref
        except EpisodeError:
            continue
        if ref is not None:
            return ref.offset + ref.length
    return 0


def _first_readable(lines: list[bytes]) -> Step | None:
    for index, line in enumerate(lines):
        try:
            return decode_step_line(line, index=index, count=None, sealed=True)
        except EpisodeError:
            continue
    return None
