"""Closing what a crash left open, truthfully.

A crash of the process can tear the end of the two files and nothing else: lines and frames are appended in order. A
power cut may also leave holes in what was not synced, as drives reorder. So the tail is cut, back to the step before
the first one that is not whole with its frame, when that lies within the longest time that may be unsynced; a damaged
step further up is another kind of damage, and left for the doctor to name. What is cut is set aside first, byte for
byte (`<episode>/aside/`), and counted in the metadata. No line is rewritten: that the last one does not say is_last is
what happened, and the reader knows it from `closed_by: "recovery"`.

A disk that cannot be read, a frame file that is not there, and a link in the place of a file say nothing about steps:
such an episode is left as it is, for the next start to try again.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, replace
from pathlib import Path

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.metadata import SYNCED_AT_CLOSE, RecordingState
from continuonbrain.rlds.metadata_seal import metadata_bytes
from continuonbrain.rlds.reader import list_episodes, read_metadata
from continuonbrain.rlds.recovery_files import Frames, Lines, blob_sizes, open_inside, set_aside
from continuonbrain.rlds.step import FrameRef, Step
from continuonbrain.rlds.writer import METADATA_FILE, STEPS_FILE
from continuonbrain.storage.durable import remove_abandoned_staging, write_bytes_durably

_LONGEST_INTERVAL_S = 60.0
"""The longest `recorder.sync_interval_s` that a config may say: what an episode that does not tell may have had."""
_SLOW_DISK_S = 5.0
"""What waits in the queue, and is written while an fsync takes its time, comes on top of the interval."""


@dataclass(frozen=True)
class Recovered:
    """What was done with one unfinished episode.

    Attributes:
        path: its folder.
        steps: whole steps that it has.
        cut_step_bytes, cut_blob_bytes: bytes that were cut off its two files and set aside.
        cut_lines: lines among them: their frame, or one before them, had not reached the disk.
        cut_frames: frames among them, each of a step that was begun: that of the newest step is always one, as its
            line is held back until the next step comes.
        problem: why it was left alone, "" when it was closed.
    """

    path: Path
    steps: int = 0
    cut_step_bytes: int = 0
    cut_blob_bytes: int = 0
    cut_lines: int = 0
    cut_frames: int = 0
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
            recovered = _recover(path)
        except EpisodeError as error:
            recovered = Recovered(path, problem=str(error))
        except OSError as error:
            file = error.filename or path
            recovered = Recovered(path, problem=f"{file}: {error.strerror or error}; nothing was closed")
        if recovered is not None:
            done.append(recovered)
    return done


def _recover(path: Path) -> Recovered | None:
    """Close one episode; None when it is closed already or being recorded."""
    if not _is_open(path):
        return None
    fd = open_inside(path, STEPS_FILE, os.O_RDWR)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None  # a living recorder holds it
        # Until the lock was ours, another start may have closed it.
        return _close(path, fd) if _is_open(path) else None
    finally:
        os.close(fd)


def _is_open(path: Path) -> bool:
    state = RecordingState.of(read_metadata(path / METADATA_FILE))
    return state is not None and state.state == "open"


def _unsynced_ns(state: RecordingState) -> float:
    """The longest time, by the steps' clock, whose lines and frames may not have been synced."""
    interval = _LONGEST_INTERVAL_S if state.sync_interval_s is None else state.sync_interval_s
    if interval == SYNCED_AT_CLOSE:
        return float("inf")
    # An fsync covers what was written before it began: up to two intervals may be open when the power goes.
    return 1e9 * min(_LONGEST_INTERVAL_S, 2 * interval + _SLOW_DISK_S)


def _whole_lines(lines: Lines, frames: Frames, unsynced_ns: float) -> int:
    """How many lines stay."""

    def whole_step(place: int) -> Step | None:
        step = lines.step(place)
        return step if step is None or step.frame_ref is None or frames.holds(step.frame_ref) else None

    whole = len(lines)
    newest: Step | None = None
    for place in range(len(lines) - 1, -1, -1):
        step = whole_step(place)
        if step is not None:
            newest = newest or step
            if newest.monotonic_ns - step.monotonic_ns > unsynced_ns:
                break
        else:
            whole = place
    return whole


def _close(path: Path, steps_fd: int) -> Recovered:
    metadata = read_metadata(path / METADATA_FILE)
    state = RecordingState.of(metadata) or RecordingState()
    blobs = blob_sizes(path)
    blob_size = sum(blobs.values())
    lines = Lines(path / STEPS_FILE, steps_fd, sealed=state.step_crc == "crc32c")
    with Frames(path, blob_size) as frames:
        whole = _whole_lines(lines, frames, _unsynced_ns(state))
        last_frame = _last_frame(lines, whole)
        if last_frame is not None:
            frames.opened(
                last_frame.file
            )  # when it is not there, how much of it belongs to the steps is not known
        blob_end, cut_frames = blob_size, 0
        blob = next(iter(blobs), "")
        if len(blobs) == 1 and (last_frame is None or last_frame.file == blob):
            blob_end = min(blob_size, _blob_end(lines, whole, last_frame, blob_size))
            cut_frames = frames.count_from(blob, blob_end)
    kept_bytes = lines.end(whole)
    if blob_end < blob_size:
        blob_fd = open_inside(path, blob, os.O_RDWR)
        try:
            set_aside(path, blob, blob_fd, blob_end)
            if kept_bytes < lines.size:
                set_aside(path, STEPS_FILE, steps_fd, kept_bytes)
            os.ftruncate(blob_fd, blob_end)
            os.fsync(blob_fd)
        finally:
            os.close(blob_fd)
    elif kept_bytes < lines.size:
        set_aside(path, STEPS_FILE, steps_fd, kept_bytes)
    if kept_bytes < lines.size:
        os.ftruncate(steps_fd, kept_bytes)
    os.fsync(steps_fd)

    recovered = Recovered(
        path,
        steps=lines.count(0, whole),
        cut_step_bytes=lines.size - kept_bytes,
        cut_blob_bytes=blob_size - blob_end,
        cut_lines=lines.count(whole, len(lines)),
        cut_frames=cut_frames,
    )
    closed = replace(
        state,
        state="closed",
        closed_by="recovery",
        steps=recovered.steps,
        blob_bytes=blob_end,
        dropped=lines.dropped(whole),
        cut_lines=recovered.cut_lines,
        cut_frames=recovered.cut_frames,
        cut_bytes=recovered.cut_step_bytes + recovered.cut_blob_bytes,
    )
    metadata = replace(metadata, duration_ms=_duration_ms(lines, whole))
    write_bytes_durably(path / METADATA_FILE, metadata_bytes(closed.into(metadata)))
    return recovered


def _duration_ms(lines: Lines, whole: int) -> int:
    last = lines.step(whole - 1) if whole else None
    first = next((step for place in range(whole) if (step := lines.step(place)) is not None), None)
    return 0 if first is None or last is None else max(0, last.monotonic_ns - first.monotonic_ns) // 1_000_000


def _last_frame(lines: Lines, whole: int) -> FrameRef | None:
    """The last frame that a readable line names."""
    for place in range(whole - 1, -1, -1):
        step = lines.step(place)
        if step is not None and step.frame_ref is not None:
            return step.frame_ref
    return None


def _blob_end(lines: Lines, whole: int, last_frame: FrameRef | None, size: int) -> int:
    """Where the last frame that a line names ends; frames after it never got their line."""
    for place in range(whole - 1, -1, -1):
        step = lines.step(place)
        if step is None:
            return size  # a damaged line that stays may name a frame behind all others
        if step.frame_ref is not None:
            break
    return 0 if last_frame is None else last_frame.offset + last_frame.length
