"""The doctor: everything that is wrong with an episode, not only the first thing, and never an exception.

`open_episode` stops at the first fault because its caller wants data. The doctor's caller wants to know what
is left, so here every line and every frame is looked at.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError
from continuonbrain.rlds.linescan import MAX_NAMED, scan_lines
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.reader import (
    decode_image,
    is_being_recorded,
    open_episode,
    read_metadata_and_seal,
)
from continuonbrain.rlds.recorder import DROPPED_BEFORE
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.stepline import decode_step_line
from continuonbrain.rlds.tfrecord import FRAMING_BYTES, read_record
from continuonbrain.rlds.writer import METADATA_FILE

ERROR, WARNING, INFO = "error", "warning", "info"
MAX_SKEW_MS = 5.0
"""Between a frame and the state recorded with it: a car at 2 m/s has moved a centimetre in that time."""
_ASIDE = "continuonbrain episodes repair PATH OUT keeps its whole steps and sets the rest aside"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        file: the file that it is in.
        step: index of the step, or None.
        field: dotted name of the field, or "".
        problem: what is wrong.
        severity: "error" (data are lost or untrue), "warning" (readable, but look at it) or "info".
        remedy: what to do, "" when nothing is needed.
    """

    file: str
    step: int | None
    field: str
    problem: str
    severity: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return asdict(self)


def examine(path: Path) -> list[Finding]:
    """Everything wrong with an episode folder, a flat JSON episode, or each episode of a memory's folder.

    Checks: schema, CRC of metadata, lines and frames, counts, finite numbers, monotonic time, time between
    frame and state, duplicate steps, flags, missing frames and frames that do not decode. Healthy means an
    empty list; an error, that data are lost or untrue.
    """
    path = Path(path)
    if path.is_dir() and not is_episode_folder(path) and (inner := episode_folders(path)):
        return [finding for episode in inner for finding in examine(episode)]
    if not path.is_dir():
        return _examine_flat(path)
    return list(_examine_folder(path))


def is_episode_folder(path: Path) -> bool:
    """Whether `path` is what an episode's folder looks like, be it without its metadata or without its steps."""
    return (path / METADATA_FILE).exists() or any((path / "steps").glob("*.jsonl"))


def episode_folders(memory: Path) -> list[Path]:
    """The episodes of a memory with those that `list_episodes` passes over because half of them is missing."""
    return [path for path in sorted(memory.iterdir()) if path.name[0] != "." and is_episode_folder(path)]


def data_files(folder: Path, pattern: str) -> list[Path]:
    """The files of an episode's subfolder in their order; a pipe of such a name would be waited for forever."""
    return sorted(file for file in folder.glob(pattern) if file.name[0] != "." and file.is_file())


def _from_error(error: EpisodeError, path: Path, step: int | None = None, field: str = "step") -> Finding:
    return Finding(
        file=str(error.file if error.file is not None else path),
        step=error.step if error.step is not None else step,
        field=error.field or field,
        problem=error.problem,
        severity=ERROR,
        remedy=_ASIDE if "doctor" in error.remedy or not error.remedy else error.remedy,
    )


def _examine_flat(path: Path) -> list[Finding]:
    try:
        episode = open_episode(path)
    except EpisodeError as error:
        return [_from_error(error, path, field="episode")]
    found: list[Finding] = []
    steps: list[tuple[int, Path, Step]] = []
    for index in range(len(episode)):
        try:
            steps.append((index, path, episode.step(index)))
        except EpisodeError as error:
            found.append(_from_error(error, path, index))
    found += _in_order(steps, len(episode), cut=False)
    return found


def _examine_folder(path: Path) -> Iterator[Finding]:
    state: RecordingState | None = None
    try:
        metadata, alteration = read_metadata_and_seal(path / METADATA_FILE)
        if alteration is not None:  # its account of the steps is looked at all the same
            yield _from_error(alteration, path / METADATA_FILE)
        state = RecordingState.of(metadata)
    except EpisodeError as error:
        yield _from_error(error, path / METADATA_FILE, field="metadata")
    if state is not None and state.state == "open":
        live = is_being_recorded(path)
        yield Finding(
            str(path / METADATA_FILE),
            None,
            "metadata.provenance.recording.state",
            "the episode is being recorded" if live else "the episode was never closed: its recorder died",
            INFO if live else WARNING,
            "" if live else "the next start of the recorder closes it",
        )
    if state is not None and state.fault:
        yield Finding(
            str(path / METADATA_FILE),
            None,
            "metadata.provenance.recording.fault",
            state.fault,
            WARNING,
            "check the disk",
        )

    files = data_files(path / "steps", "*.jsonl")
    if not files:
        yield Finding(str(path / "steps"), None, "steps", "there is no steps file", ERROR, _ASIDE)
        return
    steps: list[tuple[int, Path, Step]] = []
    bad = count = torn_bytes = 0
    sealed = state is not None and state.step_crc == "crc32c"
    for file in files:
        unnamed, first_unnamed = 0, None
        try:
            for line in scan_lines(file, hopeless=lambda: bad >= MAX_NAMED):  # noqa: B023
                if not line.ended:
                    torn_bytes += line.end - line.start
                    text = f"the last line is cut short ({line.end - line.start} bytes without an end)"
                    yield Finding(str(file), count, "step", text, ERROR, _ASIDE)
                    break
                try:
                    if line.text is None:
                        raise EpisodeError(line.trouble)
                    step = decode_step_line(line.text, index=count, count=None, sealed=sealed)
                    steps.append((count, file, step))
                except EpisodeError as error:
                    bad += line.count
                    if bad <= MAX_NAMED:
                        yield _from_error(error, file, count)
                    else:
                        unnamed, first_unnamed = unnamed + line.count, first_unnamed or count
                count += line.count
        except OSError as error:
            text = f"cannot be read: {error.strerror}"
            yield Finding(str(file), None, "steps", text, ERROR, "check the disk")
        if unnamed:
            text = f"{unnamed} more lines from here on are no steps"
            yield Finding(str(file), first_unnamed, "step", text, ERROR, _ASIDE)
    if state is not None and state.state == "closed" and state.steps != count:
        yield Finding(
            str(path / METADATA_FILE),
            min(count, max(state.steps, 0)),
            "metadata.provenance.recording.steps",
            f"{count} steps are here, {state.steps} were recorded",
            ERROR,
            _ASIDE,
        )
    # Where the end is missing for a reason already told, the line that is now the last need not say is_last.
    cut = torn_bytes > 0
    if state is not None:
        cut |= state.closed_by == "recovery" or bool(state.fault) or state.steps != count
    yield from _in_order(steps, count, cut=cut)
    yield from _frames(path, steps, state)


def _in_order(steps: list[tuple[int, Path, Step]], count: int, *, cut: bool) -> Iterator[Finding]:
    """Flags, time and duplicates. `count` is the episode's length; a `cut` one need not say is_last."""
    before: tuple[int, Step] | None = None
    for index, file, step in steps:
        if step.is_first != (index == 0):
            yield Finding(str(file), index, "is_first", f"is_first is {step.is_first} here", ERROR, _ASIDE)
        if step.is_last != (index == count - 1) and (step.is_last or not cut):
            yield Finding(str(file), index, "is_last", f"is_last is {step.is_last} here", ERROR, _ASIDE)
        if step.is_terminal and not step.is_last:
            yield Finding(str(file), index, "is_terminal", "terminal, but not the last step", WARNING, "")
        if (dropped := step.extra.get(DROPPED_BEFORE)) is not None:
            text = f"{dropped} steps were dropped before this one: the disk could not keep up"
            yield Finding(
                str(file),
                index,
                f"step_metadata.{DROPPED_BEFORE}",
                text,
                WARNING,
                "use a faster disk or card",
            )
        if step.frame_monotonic_ns is not None:
            skew_ms = (step.frame_monotonic_ns - step.monotonic_ns) / 1e6
            if abs(skew_ms) > MAX_SKEW_MS:
                # A warning: both times are true, nothing is lost, and no repair could bring them nearer.
                text = (
                    f"the frame is {abs(skew_ms):.1f} ms {'younger' if skew_ms > 0 else 'older'} than its state; "
                    f"at most {MAX_SKEW_MS:g} ms"
                )
                remedy = "read speed and yaw rate at the exposure"
                yield Finding(str(file), index, "observation.frame.monotonic_ns", text, WARNING, remedy)
        if before is not None and index == before[0] + 1:
            earlier = before[1]
            if step.monotonic_ns < earlier.monotonic_ns:
                text = f"time runs backwards, from {earlier.monotonic_ns} to {step.monotonic_ns} ns"
                yield Finding(str(file), index, "step_metadata.monotonic_ns", text, ERROR, _ASIDE)
            elif (
                step.monotonic_ns == earlier.monotonic_ns and step.monotonic_ns and step.tick == earlier.tick
            ):
                text = f"the same tick {step.tick} and time as the step before"
                yield Finding(str(file), index, "step_metadata.fast_loop_tick", text, WARNING, "")
        before = index, step


def _frames(
    path: Path, steps: list[tuple[int, Path, Step]], state: RecordingState | None
) -> Iterator[Finding]:
    """Every frame file from its beginning, then every step's reference into it."""
    whole: dict[str, dict[int, int]] = {}
    total = 0
    for blob in data_files(path / "blobs", "*.tfrecord"):
        name = f"blobs/{blob.name}"
        total += blob.stat().st_size
        owners = {
            step.frame_ref.offset: index
            for index, _, step in steps
            if step.frame_ref is not None and step.frame_ref.file == name
        }
        try:
            yield from _records(blob, owners, whole.setdefault(name, {}))
        except OSError as error:
            text = f"cannot be read: {error.strerror}"
            yield Finding(str(blob), None, "observation.frame", text, ERROR, "check the disk")
    if state is not None and state.state == "closed" and total != state.blob_bytes:
        text = f"{total} bytes of frames are here, {state.blob_bytes} were recorded"
        field = "metadata.provenance.recording.blob_bytes"
        yield Finding(str(path / "blobs"), None, field, text, ERROR, _ASIDE)
    seen: dict[tuple[str, int], int] = {}
    for index, file, step in steps:
        ref = step.frame_ref
        if ref is None:
            if state is not None:
                yield Finding(str(file), index, "observation.frame", "this step has no frame", WARNING, "")
            continue
        if whole.get(ref.file, {}).get(ref.offset) != ref.length:
            text = f"its frame (record {ref.index} of {ref.file}, byte {ref.offset}) is not there whole"
            yield Finding(str(file), index, "observation.frame", text, ERROR, _ASIDE)
        earlier = seen.setdefault((ref.file, ref.offset), index)
        if earlier != index:
            text = f"the same frame as step {earlier}"
            yield Finding(str(file), index, "observation.frame", text, WARNING, "")


def _records(blob: Path, owners: dict[int, int], whole: dict[int, int]) -> Iterator[Finding]:
    """Every record of one frame file; fills `whole` with the length of each that is whole, by its offset.

    Args:
        owners: offset of a frame -> the step that names it: past a bad record, the next of these is gone on with.
    """
    starts = sorted(owners)
    with open(blob, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            try:
                data = read_record(file, path=blob, offset=offset, size=size)
            except CorruptRecordError as error:
                found = _from_error(error, blob, owners.get(offset))
                yield replace(found, field="observation.frame", remedy=_ASIDE)
                following = bisect_right(starts, offset)
                offset = starts[following] if following < len(starts) else size
                continue
            try:
                decode_image(data)
            except EpisodeError as error:
                yield replace(_from_error(error, blob, owners.get(offset)), field="observation.frame")
            whole[offset] = len(data) + FRAMING_BYTES
            offset += len(data) + FRAMING_BYTES
