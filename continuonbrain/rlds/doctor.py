"""The doctor: everything that is wrong with an episode, not only the first thing, and never an exception.

`open_episode` stops at the first fault because its caller wants data. The doctor's caller wants to know what
is left, so here every line and every frame is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError
from continuonbrain.rlds.reader import (
    decode_image,
    is_being_recorded,
    list_episodes,
    open_episode,
    read_metadata,
    split_lines,
)
from continuonbrain.rlds.recorder import DROPPED_BEFORE
from continuonbrain.rlds.schema import RecordingState, Step
from continuonbrain.rlds.stepline import decode_step_line
from continuonbrain.rlds.tfrecord import FRAMING_BYTES, read_records
from continuonbrain.rlds.writer import METADATA_FILE

ERROR, WARNING, INFO = "error", "warning", "info"
_ASIDE = "leave the episode out of training, or keep its whole steps by opening it with strict=False"


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

    Checks: schema, CRC of lines and frames, counts, finite numbers, monotonic time, duplicate steps, flags,
    missing frames and frames that do not decode. Healthy means an empty list.
    """
    path = Path(path)
    if path.is_dir() and not (path / METADATA_FILE).exists() and (inner := list_episodes(path)):
        return [finding for episode in inner for finding in examine(episode)]
    if not path.is_dir():
        return _examine_flat(path)
    return list(_examine_folder(path))


def _from_error(error: EpisodeError, path: Path, step: int | None = None) -> Finding:
    return Finding(
        file=str(error.file if error.file is not None else path),
        step=error.step if error.step is not None else step,
        field=error.field,
        problem=error.problem,
        severity=ERROR,
        remedy=_ASIDE if "doctor" in error.remedy or not error.remedy else error.remedy,
    )


def _examine_flat(path: Path) -> list[Finding]:
    try:
        episode = open_episode(path)
    except EpisodeError as error:
        return [_from_error(error, path)]
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
        state = RecordingState.of(read_metadata(path / METADATA_FILE))
    except EpisodeError as error:
        yield _from_error(error, path / METADATA_FILE)
    if state is not None and state.state == "open":
        live = is_being_recorded(path)
        yield Finding(
            str(path / METADATA_FILE),
            None,
            "provenance.recording.state",
            "the episode is being recorded" if live else "the episode was never closed: its recorder died",
            INFO if live else WARNING,
            "" if live else "the next start of the recorder closes it",
        )
    if state is not None and state.fault:
        yield Finding(
            str(path / METADATA_FILE),
            None,
            "provenance.recording.fault",
            state.fault,
            WARNING,
            "check the disk",
        )

    files = sorted(file for file in (path / "steps").glob("*.jsonl") if file.name[0] != ".")
    if not files:
        yield Finding(str(path / "steps"), None, "", "there is no steps file", ERROR, _ASIDE)
        return
    steps: list[tuple[int, Path, Step]] = []
    count = torn_bytes = 0
    sealed = state is not None and state.step_crc == "crc32c"
    for file in files:
        try:
            lines, torn = split_lines(file.read_bytes())
        except OSError as error:
            yield Finding(str(file), None, "", f"cannot be read: {error.strerror}", ERROR, "check the disk")
            continue
        for line in lines:
            try:
                step = decode_step_line(line, index=count, count=None, sealed=sealed)
                steps.append((count, file, step))
            except EpisodeError as error:
                yield _from_error(error, file, count)
            count += 1
        torn_bytes += torn
        if torn:
            yield Finding(
                str(file),
                count,
                "",
                f"the last line is cut short ({torn} bytes without an end)",
                ERROR,
                _ASIDE,
            )
    if state is not None and state.state == "closed" and state.steps != count:
        yield Finding(
            str(path / METADATA_FILE),
            min(count, max(state.steps, 0)),
            "provenance.recording.steps",
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
    whole: dict[tuple[str, int], int] = {}
    total = 0
    for blob in sorted(file for file in (path / "blobs").glob("*.tfrecord") if file.name[0] != "."):
        name = f"blobs/{blob.name}"
        total += blob.stat().st_size
        owners = {
            step.frame_ref.offset: index
            for index, _, step in steps
            if step.frame_ref is not None and step.frame_ref.file == name
        }
        try:
            for offset, data in read_records(blob):
                whole[name, offset] = len(data) + FRAMING_BYTES
                try:
                    decode_image(data)
                except EpisodeError as error:
                    yield _from_error(error, blob, owners.get(offset))
        except CorruptRecordError as error:
            found = _from_error(error, blob, owners.get(error.offset))
            yield Finding(found.file, found.step, "observation.frame", found.problem, ERROR, _ASIDE)
        except OSError as error:
            yield Finding(str(blob), None, "", f"cannot be read: {error.strerror}", ERROR, "check the disk")
    if state is not None and state.state == "closed" and total != state.blob_bytes:
        text = f"{total} bytes of frames are here, {state.blob_bytes} were recorded"
        yield Finding(str(path / "blobs"), None, "provenance.recording.blob_bytes", text, ERROR, _ASIDE)
    seen: dict[tuple[str, int], int] = {}
    for index, file, step in steps:
        ref = step.frame_ref
        if ref is None:
            if state is not None:
                yield Finding(str(file), index, "observation.frame", "this step has no frame", WARNING, "")
            continue
        if whole.get((ref.file, ref.offset)) != ref.length:
            text = f"its frame (record {ref.index} of {ref.file}, byte {ref.offset}) is not there whole"
            yield Finding(str(file), index, "observation.frame", text, ERROR, _ASIDE)
        earlier = seen.setdefault((ref.file, ref.offset), index)
        if earlier != index:
            text = f"the same frame as step {earlier}"
            yield Finding(str(file), index, "observation.frame", text, WARNING, "")
