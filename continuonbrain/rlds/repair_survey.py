"""What is in a damaged episode: the whole steps, and the bytes that are none, each with the reason.

Only reads. Nothing is held but where things lie: lines and frames are read one at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from continuonbrain.rlds.checked import parse_json
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.files import data_files, read_limited
from continuonbrain.rlds.flat_frames import read_flat_frame
from continuonbrain.rlds.linescan import MAX_NAMED, Line, holds_seal, scan_lines
from continuonbrain.rlds.metadata import EpisodeMetadata, RecordingState
from continuonbrain.rlds.metadata_seal import metadata_alteration
from continuonbrain.rlds.reader import (
    MAX_FLAT_BYTES,
    MAX_FRAME_BYTES,
    MAX_METADATA_BYTES,
    decode_image,
    refuse_long_flat,
)
from continuonbrain.rlds.repair_flat import find_flat
from continuonbrain.rlds.repair_rules import (
    Aside,
    WholeStep,
    folder_name,
    judge_object,
    read_line,
    salvage_metadata,
)
from continuonbrain.rlds.step import FLAT_FRAMES, FrameRef
from continuonbrain.rlds.tfrecord import FRAMING_BYTES, read_record
from continuonbrain.rlds.writer import METADATA_FILE


@dataclass
class Survey:
    """What is in a source.

    Attributes:
        base: the episode's folder, or the one that holds a flat JSON.
        name: what the repaired episode is called.
        metadata: as far as they can be read, without `provenance.recording`.
        state: what `provenance.recording` says, None when there is none or it cannot be read.
        files: bytes of every file that was looked at, by its path below `base`.
        found: whole steps and what is none, in the order of the lines.
        aside: the metadata, lines and steps that cannot be kept.
        bad_frames: by file and offset, the step whose frame is not whole there, and why.
        is_flat: whether the source is a flat JSON, whose frames are files beside it.
        frame_files: bytes of each of those, by its path below `base`.
        bad: entries of `found` that are no steps.
        lines: of the steps files, one that lost its newline counted as what it holds.
        sealed: whether the lines carry CRCs: the episode was written by our recorder.
        notes: what else there is to say; with one, the source is not healthy.
    """

    base: Path
    name: str
    metadata: EpisodeMetadata
    state: RecordingState | None = None
    files: dict[str, int] = field(default_factory=dict)
    found: list[WholeStep | Aside] = field(default_factory=list)
    aside: list[Aside] = field(default_factory=list)
    bad_frames: dict[str, dict[int, tuple[int, str]]] = field(default_factory=dict)
    is_flat: bool = False
    frame_files: dict[str, int] = field(default_factory=dict)
    bad: int = 0
    lines: int = 0
    sealed: bool = False
    notes: list[str] = field(default_factory=list)

    def add(self, item: WholeStep | Aside) -> None:
        """Append to `found`; of very many bad lines the neighbours are one."""
        last = self.found[-1] if self.found else None
        if (
            isinstance(item, Aside)
            and isinstance(last, Aside)
            and self.bad >= MAX_NAMED
            and (last.file, last.end) == (item.file, item.start)
        ):
            joined = replace(
                last, end=item.end, lines=last.lines + item.lines, loses=last.loses or item.loses
            )
            self.found[-1] = joined
        else:
            self.bad += isinstance(item, Aside)
            self.found.append(item)

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)

    def measure(self, file: Path) -> str:
        """The path of a source's file below `base`; its size goes to `files`."""
        name = file.relative_to(self.base).as_posix()
        self.files[name] = file.stat().st_size
        return name


def survey(source: Path) -> Survey:
    """Look at every line and frame of an episode folder, or at a flat JSON episode.

    Raises:
        EpisodeError: a flat JSON longer than `MAX_FLAT_BYTES`.
        OSError: a flat JSON that cannot be read; in a folder, that is a note.
    """
    return _survey_folder(source) if source.is_dir() else _survey_flat(source)


def _survey_folder(source: Path) -> Survey:
    data, trouble = _metadata_bytes(source / METADATA_FILE)
    metadata, state, problems = salvage_metadata(data)
    found = Survey(source, source.resolve().name or "episode", metadata, state)
    if data:
        found.measure(source / METADATA_FILE)
    if not problems:
        alteration = metadata_alteration(data, EpisodeMetadata.from_json(parse_json(data)))
        if alteration is not None:
            problems.append((alteration.field, alteration.problem))
    if trouble:
        problems = [("metadata", trouble)]
    found.aside += [_of_metadata(METADATA_FILE, len(data), *problem) for problem in problems]
    if problems:
        found.note(
            f"{METADATA_FILE} is damaged: what can be read of it is kept, the rest is 'unknown' or left out"
        )
    files = data_files(source / "steps", "*.jsonl")
    # Damaged metadata do not say whether lines have seals; the lines themselves do.
    found.sealed = state is not None and state.step_crc == "crc32c"
    for file in files:
        found.measure(file)
        try:
            found.sealed = found.sealed or holds_seal(file)
        except OSError:
            continue  # which reading its lines says
    for file in files:
        try:
            for line in scan_lines(file, hopeless=lambda: found.bad >= MAX_NAMED):
                _take_line(found, file.relative_to(source).as_posix(), line)
        except OSError as error:
            found.note(
                f"steps/{file.name} cannot be read: {error.strerror}; what comes after the break is lost"
            )
    for blob in data_files(source / "blobs", "*.tfrecord"):
        found.measure(blob)
    _judge_frames(found)
    return found


def _of_metadata(file: str, end: int, name: str, problem: str) -> Aside:
    return Aside(file, None, 0, end, name or "metadata", problem, loses=False)


def _metadata_bytes(file: Path) -> tuple[bytes, str]:
    """The bytes, and why there are none."""
    try:
        if not file.is_file():
            return b"", "there is no such file"
        if file.stat().st_size > MAX_METADATA_BYTES:
            return b"", "the metadata are longer than 1 MiB"
        return file.read_bytes(), ""
    except OSError as error:
        return b"", f"cannot be read: {error.strerror}"


def _take_line(found: Survey, file: str, line: Line) -> None:
    if line.text is None:
        found.add(Aside(file, found.lines, line.start, line.end, "step", line.trouble, lines=line.count))
        found.lines += line.count
        return
    items = read_line(
        line.text, index=found.lines, file=file, start=line.start, end=line.end, sealed=found.sealed
    )
    for item in items:
        found.add(item)
    found.lines += max(1, sum(isinstance(item, WholeStep) or item.loses for item in items))


def _survey_flat(source: Path) -> Survey:
    refuse_long_flat(source)
    whole = read_limited(source, MAX_FLAT_BYTES).decode("latin-1")
    text, steps = find_flat(whole)
    metadata, _, problems = salvage_metadata(text.encode("latin-1"))
    found = Survey(source.parent, folder_name(metadata.episode_id, source.stem), metadata, is_flat=True)
    name = found.measure(source)
    found.aside += [_of_metadata(name, 0, *problem) for problem in problems]
    frames = source.with_name(f"{source.stem}{FLAT_FRAMES}")
    for file in data_files(frames, "*"):
        found.frame_files[file.relative_to(found.base).as_posix()] = file.stat().st_size
    in_blobs = 0
    for index, (start, end) in enumerate(steps):
        try:
            piece = whole[start:end].encode("latin-1")
            step = judge_object(piece, index=index, file=name, start=start, sealed=False)
            if step.frame_ref is not None and step.frame_ref.file.startswith("blobs/"):
                step = replace(
                    step, frame_ref=None
                )  # of the folder that it once was: they did not come along
                in_blobs += 1
        except EpisodeError as error:
            found.add(Aside(name, index, start, end, error.field or "step", error.problem))
        else:
            found.add(step)
        found.lines += 1
    _judge_frames(found)
    seen = sum(isinstance(item, WholeStep) and item.frame_ref is not None for item in found.found)
    found.note(f"a flat JSON episode became a folder; {seen} steps kept the frames that lie beside it")
    if in_blobs:
        found.note(f"the frames of {in_blobs} steps lay in the folder that it was made from: not here")
    return found


def _judge_frames(found: Survey) -> None:
    """Steps whose frame is not whole become asides."""
    verdicts: dict[tuple[str, int, int], str] = {}
    with Blobs(found.base, flat=found.is_flat) as blobs:
        for place, item in enumerate(found.found):
            if isinstance(item, Aside) or item.frame_ref is None:
                continue
            ref = item.frame_ref
            key = (ref.file, ref.offset, ref.length)
            if key not in verdicts:
                verdicts[key] = _frame_problem(blobs, ref, 0 if found.is_flat else FRAMING_BYTES)
            if verdicts[key]:
                text = f"its frame (record {ref.index} of {ref.file}, byte {ref.offset}): {verdicts[key]}"
                name = "observation.frame"
                found.found[place] = Aside(item.file, item.index, item.start, item.end, name, text)
                found.bad_frames.setdefault(ref.file, {})[ref.offset] = item.index, verdicts[key]
    found.aside += [item for item in found.found if isinstance(item, Aside)]


def _frame_problem(blobs: Blobs, ref: FrameRef, framing: int) -> str:
    try:
        data = blobs.read(ref)
        if len(data) + framing != ref.length:
            return f"{len(data) + framing} bytes are here, {ref.length} were recorded"
        decode_image(data)
    except EpisodeError as error:
        return error.problem
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def left_over_frames(found: Survey, kept: Iterable[WholeStep]) -> list[Aside]:
    """What no step of `kept` names in the frame files."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for step in kept:
        if step.frame_ref is not None:
            ref = step.frame_ref
            spans.setdefault(ref.file, []).append((ref.offset, ref.offset + ref.length))
    files = found.frame_files or {
        name: size for name, size in found.files.items() if name.startswith("blobs/")
    }
    return [
        aside
        for name, size in files.items()
        for aside in _between(name, size, spans.get(name, []), found.bad_frames.get(name, {}))
    ]


def _between(
    name: str, size: int, spans: list[tuple[int, int]], owners: dict[int, tuple[int, str]]
) -> list[Aside]:
    """What no kept step names in a frame file, cut where the frame of a step begins that was not kept."""
    edges = sorted(offset for offset in owners if offset < size)
    asides: list[Aside] = []
    done = 0
    for start, end in [*sorted(spans), (size, size)]:
        marks = [done, *(edge for edge in edges if done < edge < start), start]
        for low, high in pairwise(marks):
            if low < high:
                step, problem = owners.get(low, (None, "no step that is kept names these bytes"))
                asides.append(Aside(name, step, low, high, "observation.frame", problem, loses=False))
        done = max(done, end)
    return asides


class Blobs:
    """The frame files of an episode, one open at a time.

    Args:
        flat: whether a frame is a file of its own, as beside a flat JSON.
    """

    def __init__(self, base: Path, *, flat: bool = False) -> None:
        self._base, self._flat = base, flat
        self._name = ""
        self._file: BinaryIO | None = None
        self._size = 0

    def read(self, ref: FrameRef) -> bytes:
        """The encoded frame. Raises EpisodeError, OSError."""
        path = self._base / ref.file
        if self._flat:
            return read_flat_frame(self._base, ref, MAX_FRAME_BYTES)
        if self._file is None or ref.file != self._name:
            self.close()
            if not path.is_file():
                raise EpisodeError("the file is not there", file=path)
            self._file, self._name = open(path, "rb"), ref.file  # noqa: SIM115
            self._size = os.fstat(self._file.fileno()).st_size
        return read_record(self._file, path=path, offset=ref.offset, size=self._size, limit=MAX_FRAME_BYTES)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Blobs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
