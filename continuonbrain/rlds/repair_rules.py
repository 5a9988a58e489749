"""The rules of repair, without I/O: which bytes are a whole step, where an episode must be split, what is written.

- A step is whole when its line is (CRC, JSON, every field) and its frame is (CRC, and it decodes). It is kept with
  every key that its writer gave it, those of others included. Only three things are written anew: where its frame
  lies, is_first and is_last (facts about its place in the file), and the CRC. Ticks and times stay as they are; a
  tick that a reader derived from the line's number is written down, since that number changes.
- A line that lost its newline is cut at its seals: the lines that it swallowed are whole.
- A step that repeats tick and time of the step before it is kept once.
- Steps lost in the middle split the episode in two, rather than being marked as `dropped_before`: whoever reads
  RLDS takes two steps that follow each other for one transition and knows no such mark, the labels of our own
  trainer are integrated over it, and how many steps a damaged stretch held is often not known, while the mark is
  the recorder's word for what it counted. Marks of the recorder stay.
- Time that runs backwards, and a step that says the task ended, split it for the same reason.
- Metadata are kept field by field; for a required one that cannot be read stands "unknown".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from continuonbrain.rlds.checked import parse_json
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.metadata import EPISODE_ID, EpisodeMetadata, RecordingState, Software
from continuonbrain.rlds.step import ALWAYS_PRESENT_STEP_METADATA, FrameRef, Step
from continuonbrain.rlds.stepline import (
    MAX_LINE_BYTES,
    decode_step_object,
    seal_step_object,
    sealed_ends,
)

UNKNOWN: Final = "unknown"
_WRITTEN_ANEW = ("observation", "is_first", "is_last", "step_metadata")
_STEP_OPENING = b'{"observation":'


@dataclass(frozen=True)
class Aside:
    """Bytes of the source that are not in the repaired episode.

    Attributes:
        file: the file in the source, relative to the episode.
        step: number of the line in the source, None when no step is known to own the bytes.
        start, end: byte range in `file`.
        field: dotted name of the field that is wrong.
        problem: what is wrong.
        loses: whether a step was, or may have been, in these bytes: False for a duplicate or an empty line.
        lines: how many lines the range holds.
    """

    file: str
    step: int | None
    start: int
    end: int
    field: str
    problem: str
    loses: bool = True
    lines: int = 1

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class WholeStep:
    """What repair remembers of a whole step; its bytes are read again when they are written.

    Attributes:
        index: number of the line in the source.
        file, start, end: where its JSON lies in the source.
        dropped_before: the recorder's mark, 0 when there is none.
    """

    index: int
    file: str
    start: int
    end: int
    tick: int
    monotonic_ns: int
    wall_time_ms: int
    dropped_before: int
    is_first: bool
    is_last: bool
    is_terminal: bool
    frame_ref: FrameRef | None


# ------------------------------------------------------------------------------------------------- lines


def judge_object(text: bytes, *, index: int, file: str, start: int, sealed: bool) -> WholeStep:
    """The step of `text`, the JSON of one line.

    Raises:
        EpisodeError: it is not whole, or cannot be written again (nested too deeply, too long).
    """
    value = decode_step_object(text, sealed=sealed)
    step = Step.from_json(value, index=index)
    try:
        length = len(rewritten(value, step.tick, first=False, last=False, ref=step.frame_ref))
    except (ValueError, RecursionError) as error:
        raise EpisodeError(f"it cannot be written again: {error}", field="step") from error
    if length > MAX_LINE_BYTES:
        raise EpisodeError(f"a step line of {length} bytes is too long", field="step")
    dropped = step.extra.get("dropped_before", "")
    return WholeStep(
        index=index,
        file=file,
        start=start,
        end=start + len(text),
        tick=step.tick,
        monotonic_ns=step.monotonic_ns,
        wall_time_ms=step.wall_time_ms,
        dropped_before=int(dropped) if dropped.isdecimal() and len(dropped) < 10 else 0,
        is_first=step.is_first,
        is_last=step.is_last,
        is_terminal=step.is_terminal,
        frame_ref=step.frame_ref,
    )


def read_line(
    text: bytes, *, index: int, file: str, start: int, end: int, sealed: bool
) -> list[WholeStep | Aside]:
    """What one line of a steps file holds: one whole step as a rule, in the order of its bytes.

    Args:
        text: without its newline.
        index: number of the first step in it.
        start, end: its byte range in `file`, newline included.
    """
    try:
        return [judge_object(text, index=index, file=file, start=start, sealed=sealed)]
    except EpisodeError as error:
        problem, field = error.problem, error.field or "step"
    if not text.strip():
        return [Aside(file, index, start, end, "step", "an empty line", loses=False)]
    found: list[WholeStep | Aside] = []
    done = 0
    number = index

    def set_aside(upto: int, stop: int) -> None:
        if upto > done:
            nonlocal number
            # One byte beside a whole line is the newline that was altered; it held no step.
            altered_newline = upto - done == 1 and (bool(found) or upto < len(text))
            loses = not altered_newline
            found.append(Aside(file, number, start + done, stop, field, problem, loses=loses))
            number += loses

    seal = 0
    for stop in sealed_ends(text):
        # Not from farther back than the last seal, or garbage of seals would be read once for each of them.
        opening = text.rfind(_STEP_OPENING, seal, stop)
        seal = stop
        if opening < 0:
            continue
        piece_text = text[opening:stop]
        try:
            piece = judge_object(piece_text, index=number, file=file, start=start + opening, sealed=True)
        except EpisodeError:
            continue
        set_aside(opening, start + opening)
        found.append(replace(piece, index=number))
        number += 1
        done = stop
    set_aside(len(text), end)
    return found


def rewritten(value: Any, tick: int, *, first: bool, last: bool, ref: FrameRef | None) -> bytes:
    """The sealed line of a step's JSON object at its new place, every other key as its writer gave it.

    Args:
        value: an object that `Step.from_json` reads.
        tick: of the step, written down where the object leaves it to the line's number.
        ref: where its frame lies now.
    """
    observation = dict(value["observation"])
    if ref is not None:
        observation["video_frame_id"] = f"{ref.file}#{ref.index}"
        observation["frame"] = {**observation["frame"], **ref.to_json()}
    elif observation.get("frame") is not None:
        observation["frame"] = None
    notes = dict(value.get("step_metadata") or dict.fromkeys(ALWAYS_PRESENT_STEP_METADATA, ""))
    notes.pop("crc32c", None)
    if not notes.get("fast_loop_tick"):
        notes["fast_loop_tick"] = str(tick)
    # observation comes first, so that a line that lost its newline can be told from the one before it
    out: dict[str, Any] = {"observation": observation}
    out |= {key: item for key, item in value.items() if key not in _WRITTEN_ANEW}
    out |= {"is_first": first, "is_last": last, "step_metadata": notes}
    return seal_step_object(out)


# ----------------------------------------------------------------------------------------------- episodes


@dataclass(frozen=True)
class Arrangement:
    """The episodes that the whole steps of one make.

    Attributes:
        parts: each a run of steps without a gap.
        cuts: why each part after the first begins.
        duplicates: steps that are left out because the step before is the same.
    """

    parts: tuple[tuple[WholeStep, ...], ...]
    cuts: tuple[str, ...]
    duplicates: tuple[Aside, ...]


def arrange(found: Sequence[WholeStep | Aside], *, contiguous: bool) -> Arrangement:
    """Split at every gap.

    Args:
        found: what the source holds, in its order.
        contiguous: whether the source's recorder leaves no bytes between two frames: if there are some, the line
            that named them is lost.
    """
    parts: list[list[WholeStep]] = []
    cuts: list[str] = []
    duplicates: list[Aside] = []
    before: WholeStep | None = None
    frame: FrameRef | None = None  # the last one before, that of a duplicate too
    lost = False
    for item in found:
        if isinstance(item, Aside):
            lost |= item.loses
            continue
        if before is None:
            parts.append([item])
        elif item.monotonic_ns and (item.tick, item.monotonic_ns) == (before.tick, before.monotonic_ns):
            text = f"the same tick {item.tick} and time as the step before"
            field = "step_metadata.fast_loop_tick"
            duplicates.append(Aside(item.file, item.index, item.start, item.end, field, text, loses=False))
            frame = item.frame_ref or frame
            continue
        elif reason := _gap(before, item, frame=frame if contiguous else None, lost=lost):
            parts.append([item])
            cuts.append(reason)
        else:
            parts[-1].append(item)
        before, frame, lost = item, item.frame_ref, False
    return Arrangement(tuple(tuple(part) for part in parts), tuple(cuts), tuple(duplicates))


def _gap(before: WholeStep, after: WholeStep, *, frame: FrameRef | None, lost: bool) -> str:
    between = f"between steps {before.index} and {after.index}"
    a, b = frame, after.frame_ref
    if lost:
        return f"{between} something is lost"
    if a is not None and b is not None and a.file == b.file and b.index > a.index + 1:
        return f"{between} there are frames whose steps are lost"
    if after.monotonic_ns < before.monotonic_ns:
        return f"{between} time runs backwards, from {before.monotonic_ns} to {after.monotonic_ns} ns"
    if before.is_terminal:
        return f"{between} the task ended: step {before.index} is terminal"
    return ""


def part_names(name: str, parts: int, taken: set[str]) -> list[str]:
    """Names of folders for the parts of the episode `name`: itself for one, `<name>-a`, `<name>-b`, ... for several.

    `taken` are names that must not be used; where one of them would be, "-r" goes before the letter.
    """
    if parts == 1 and name not in taken:
        return [name]
    width = 1
    while 26**width < parts:
        width += 1
    joint = "-"
    while True:
        stem = name[: 128 - width - len(joint)]
        names = [stem + joint + _letters(number, width) for number in range(parts)]
        if not taken.intersection(names):
            return names
        joint = "-r" + joint


def _letters(number: int, width: int) -> str:
    return "".join(chr(ord("a") + number // 26**place % 26) for place in reversed(range(width)))


def folder_name(*candidates: str) -> str:
    """The first of the candidates that can name an episode's folder."""
    for name in candidates:
        if EPISODE_ID.fullmatch(name):
            return name
    return re.sub(r"[^A-Za-z0-9._-]", "-", candidates[-1]).strip("-._")[:100] or "episode"


# ----------------------------------------------------------------------------------------------- metadata


def salvage_metadata(data: bytes) -> tuple[EpisodeMetadata, RecordingState | None, list[tuple[str, str]]]:
    """Metadata as far as they can be read.

    Returns:
        The metadata without `provenance.recording`; what that said, None when nothing or nothing readable; and
        (field, problem) of everything that could not be kept.
    """
    problems: list[tuple[str, str]] = []
    value: Any = {}
    is_object = False
    try:
        value = parse_json(data)
        is_object = isinstance(value, Mapping)  # `{}` too: every key that it must have is missing
    except EpisodeError as error:
        problems.append(("metadata", error.problem))
    if not isinstance(value, Mapping):
        problems.append(("metadata", "an object is needed"))
        value = {}
    kept = EpisodeMetadata(UNKNOWN, UNKNOWN, UNKNOWN, (), Software(UNKNOWN, UNKNOWN, UNKNOWN)).to_json()
    for name, item in value.items():
        try:
            EpisodeMetadata.from_json({**kept, name: item})
        except EpisodeError as error:
            problems.append((error.field, error.problem))
        else:
            kept[name] = item
    if is_object:
        for name in ("xr_mode", "control_role", "environment_id", "tags", "software"):
            if name not in value:
                problems.append((f"metadata.{name}", "this required key is missing"))
    metadata = EpisodeMetadata.from_json(kept)
    state: RecordingState | None = None
    try:
        state = RecordingState.of(metadata)
    except EpisodeError as error:
        problems.append((error.field, error.problem))
    rest = {name: item for name, item in metadata.provenance.items() if name != "recording"}
    return replace(metadata, provenance=rest), state, problems
