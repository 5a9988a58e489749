"""Repair: every whole step of a damaged episode into a new folder, the rest set aside, nothing edited in place.

    OUT/<id>/                         the episode; split at a gap, <id>-a, <id>-b, ...
    OUT/aside/<id>/report.json        what could not be kept: file, step, byte range, field, problem
    OUT/aside/<id>/<file>.raw         those bytes, one range after the other

What is kept and where an episode is split are the rules of `repair_rules.py`. Every byte of the source's lines
and frames is in OUT, in an episode or aside; only where two steps shared a frame does it stand there twice.
OUT is built under a hidden name, synced and renamed. The source is only read, under a shared lock, so that no
recovery cuts it meanwhile; an episode that a living recorder writes is left alone and named.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from continuonbrain.rlds.checked import parse_json
from continuonbrain.rlds.doctor import episode_folders, examine, is_episode_folder
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.metadata import EpisodeMetadata, RecordingState
from continuonbrain.rlds.metadata_seal import metadata_bytes
from continuonbrain.rlds.reader import MAX_METADATA_BYTES
from continuonbrain.rlds.repair_rules import (
    Arrangement,
    Aside,
    WholeStep,
    arrange,
    part_names,
    rewritten,
    salvage_metadata,
)
from continuonbrain.rlds.repair_survey import Blobs, Survey, left_over_frames, survey
from continuonbrain.rlds.step import FrameRef
from continuonbrain.rlds.tfrecord import frame_record
from continuonbrain.rlds.writer import BLOB_FILE, METADATA_FILE, STEPS_FILE
from continuonbrain.storage.durable import new_directory_durably

ASIDE = "aside"
_PIECE = 1 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Repaired:
    """What was done with one episode.

    Attributes:
        source: the folder or the flat JSON.
        action: "copied" (nothing was wrong: byte for byte), "repaired", "nothing kept" or "in use" (left alone).
        episodes: the folders in OUT.
        steps_kept, steps_aside: steps in them, and steps of which something is left but not all.
        done: what was done, in words.
        aside: what could not be kept.
        aside_path: the folder with its bytes, "" when there is nothing.
    """

    source: str
    action: str
    episodes: tuple[str, ...] = ()
    steps_kept: int = 0
    steps_aside: int = 0
    done: tuple[str, ...] = ()
    aside: tuple[Aside, ...] = ()
    aside_path: str = ""

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return asdict(self)


def repair(path: Path, out: Path, *, progress: Progress = lambda _done, _total: None) -> list[Repaired]:
    """Repair an episode folder, a flat JSON episode, or every episode of a memory, into the new folder `out`.

    Args:
        path: never touched.
        out: a memory's folder; must not exist.
        progress: called with (episodes done, episodes).

    Returns:
        What was done with each episode.

    Raises:
        EpisodeError: nothing to repair at `path`, `out` exists or lies inside `path`, or the only episode is in use.
        OSError: the disk refused; `out` is then not there.
    """
    path, out = Path(path), Path(out)
    sources = _sources(path)
    if os.path.lexists(out):
        raise EpisodeError("it exists already", file=out, remedy="name a new folder: nothing is written over")
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise EpisodeError("it lies inside the source", file=out, remedy="name a folder outside of it")
    results: list[Repaired] = []
    taken = {ASIDE, *(source.resolve().name for source in sources)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_directory_durably(out) as staging:
        for number, source in enumerate(sources):
            progress(number, len(sources))
            with _unless_in_use(source) as free:
                if free:
                    results.append(_repair(source, staging, out, taken))
                elif len(sources) == 1 and source == path:
                    raise EpisodeError("it is being recorded", file=path, remedy="stop the robot first")
                else:
                    text = "left alone: it is being recorded"
                    results.append(Repaired(str(source), "in use", done=(text,)))
        progress(len(sources), len(sources))
    return results


def _sources(path: Path) -> list[Path]:
    if not path.exists():
        raise EpisodeError(
            "there is no such episode", file=path, remedy="list them: continuonbrain episodes list --root DIR"
        )
    if not path.is_dir() or is_episode_folder(path):
        return [path]
    if found := episode_folders(path):
        return found
    raise EpisodeError("there is no episode in it", file=path, remedy="give an episode, or a memory's folder")


@contextmanager
def _unless_in_use(source: Path) -> Iterator[bool]:
    """Whether no recorder writes `source`, which then stays so for the block."""
    steps = source / STEPS_FILE
    try:
        fd = os.open(steps, os.O_RDONLY) if steps.is_file() else None
    except OSError:
        fd = None  # cannot be read: the survey says so
    if fd is None:
        yield True
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:  # a file system without locks
            yield True
        else:
            yield True
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------------------- what is done


def _repair(source: Path, staging: Path, out: Path, taken: set[str]) -> Repaired:
    """Repair one episode into `staging`, which will be `out`; `taken` are names of folders that others have."""
    found = survey(source)
    arranged = arrange(found.found, contiguous=found.sealed)
    state = found.state
    if state is not None and state.state == "open":
        found.note("closed: its recorder died and left it open")
    if state is not None and state.state == "closed" and state.steps > found.lines:
        found.note(f"{_steps(state.steps - found.lines)} of those that the metadata count left no trace")
    whole = [step for part in arranged.parts for step in part]
    asides = [*found.aside, *arranged.duplicates, *left_over_frames(found, whole)]
    names = part_names(found.name, max(1, len(arranged.parts)), taken - {source.resolve().name})
    taken.update(names)
    kept = len(whole)
    if not asides and not found.notes and len(arranged.parts) <= 1 and _is_healthy(source):
        _copy(found, staging / names[0])
        done = ["whole: copied as it is", *_left_there(found)]
        return Repaired(str(source), "copied", (str(out / names[0]),), kept, 0, tuple(done))

    lost = sum(item.lines for item in asides if item.loses)
    done = [
        *found.notes,
        *(f"split: {cut}" for cut in arranged.cuts),
        *_flag_changes(arranged),
        *([f"left out as duplicates: {_steps(len(arranged.duplicates))}"] if arranged.duplicates else []),
        *_left_there(found),
        f"{_steps(kept)} kept, {lost} set aside",
    ]
    about = {
        "of": found.metadata.episode_id or found.name,
        "source_files": _hashes(found),
        "steps_kept": kept,
        "steps_aside": lost,
        "done": done,
    }
    with Blobs(found.base, flat=found.is_flat) as blobs:
        for number, (name, part) in enumerate(zip(names, arranged.parts, strict=False)):
            size = _write_steps(staging / name, part, found, blobs)
            metadata = _metadata_of(found, arranged, number, name)
            (staging / name / METADATA_FILE).write_bytes(_sealed(metadata, found, part, size, about))
    if asides:
        _set_aside(staging / ASIDE / found.name, found, asides, about, str(source), names if kept else [])
    return Repaired(
        str(source),
        "repaired" if kept else "nothing kept",
        tuple(str(out / name) for name in names) if kept else (),
        kept,
        lost,
        tuple(done),
        tuple(asides),
        str(out / ASIDE / found.name) if asides else "",
    )


def _steps(count: int) -> str:
    return f"{count} step" + ("" if count == 1 else "s")


def _is_healthy(source: Path) -> bool:
    return not any(finding.severity == ERROR for finding in examine(source))


def _copy(found: Survey, folder: Path) -> None:
    for name in found.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found.base / name, folder / name)
    (folder / "blobs").mkdir(exist_ok=True)


def _left_there(found: Survey) -> Iterator[str]:
    """Files that no reader of episodes looks at: they stay where they are, and are named."""
    if is_episode_folder(found.base):  # the folder around a flat JSON is not its own
        others = [file for file in sorted(found.base.rglob("*")) if file.is_file()]
        names = [
            name for file in others if (name := file.relative_to(found.base).as_posix()) not in found.files
        ]
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            yield f"not part of an episode, left at the source: {', '.join(names[:5])}{more}"


def _flag_changes(arranged: Arrangement) -> Iterator[str]:
    for part in arranged.parts:
        for place, step in enumerate(part):
            for flag, was, now in (
                ("is_first", step.is_first, place == 0),
                ("is_last", step.is_last, place == len(part) - 1),
            ):
                if was != now:
                    yield f"{flag} is now {str(now).lower()} at step {step.index} of the source"


def _write_steps(folder: Path, part: tuple[WholeStep, ...], found: Survey, blobs: Blobs) -> int:
    """The two files of one episode; returns the bytes of its frames."""
    for file in (STEPS_FILE, BLOB_FILE):
        (folder / file).parent.mkdir(parents=True)
    refs: dict[tuple[str, int], FrameRef] = {}
    size = 0
    with open(folder / STEPS_FILE, "wb") as lines, open(folder / BLOB_FILE, "wb") as frames:
        for place, step in enumerate(part):
            ref = None
            if step.frame_ref is not None:
                key = (step.frame_ref.file, step.frame_ref.offset)
                if key not in refs:
                    record = frame_record(blobs.read(step.frame_ref))
                    frames.write(record)
                    refs[key] = FrameRef(BLOB_FILE, len(refs), size, len(record))
                    size += len(record)
                ref = refs[key]
            value = parse_json(_bytes_of(found.base / step.file, step.start, step.end))
            first, last = place == 0, place == len(part) - 1
            lines.write(rewritten(value, step.tick, first=first, last=last, ref=ref))
    return size


def _bytes_of(file: Path, start: int, end: int) -> bytes:
    with open(file, "rb") as stream:
        stream.seek(start)
        return stream.read(end - start)


def _metadata_of(found: Survey, arranged: Arrangement, number: int, name: str) -> EpisodeMetadata:
    """The metadata of part `number`: what the source's say, where that is still true of it."""
    metadata, part = found.metadata, arranged.parts[number]
    if len(arranged.parts) > 1:
        metadata = replace(metadata, episode_id=name)
    if part[0].index > 0:  # the label of the source's first step is not this one's
        metadata = replace(metadata, start_time_unix_ms=part[0].wall_time_ms or None)
    provenance = dict(metadata.provenance)
    if number < len(arranged.parts) - 1:
        provenance.pop("undelivered_drops", None)  # of steps after the source's last one
    duration_ms = (part[-1].monotonic_ns - part[0].monotonic_ns) // 1_000_000
    return replace(metadata, duration_ms=duration_ms, provenance=provenance)


def _sealed(
    metadata: EpisodeMetadata,
    found: Survey,
    part: tuple[WholeStep, ...],
    blob_bytes: int,
    about: dict[str, Any],
) -> bytes:
    """`metadata.json` of a repaired episode."""
    state = RecordingState(
        state="closed",
        closed_by="repair",
        steps=len(part),
        blob_bytes=blob_bytes,
        dropped=sum(step.dropped_before for step in part),
        fault="" if found.state is None else found.state.fault,
    )
    told = {**about, "first_step": part[0].index, "last_step": part[-1].index}
    if (earlier := metadata.provenance.get("repair")) is not None:
        told["earlier"] = earlier
    whole = replace(metadata, provenance={**metadata.provenance, "repair": told})
    data = metadata_bytes(state.into(whole))
    if len(data) <= MAX_METADATA_BYTES:
        return data
    # Too long to be read again: the account alone, and metadata that say nothing untrue.
    unknown, _, _ = salvage_metadata(b"{}")
    short = {key: value for key, value in told.items() if key in ("of", "steps_kept", "steps_aside")}
    return metadata_bytes(state.into(replace(unknown, provenance={"repair": short})))


# --------------------------------------------------------------------------------------------- what is not


def _hashes(found: Survey) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for name, size in found.files.items():
        digest = hashlib.sha256()
        try:
            with open(found.base / name, "rb") as stream:
                while piece := stream.read(_PIECE):
                    digest.update(piece)
            out[name] = {"bytes": size, "sha256": digest.hexdigest()}
        except OSError as error:
            out[name] = {"bytes": size, "sha256": f"cannot be read: {error.strerror}"}
    return out


def _set_aside(
    folder: Path, found: Survey, asides: list[Aside], about: dict[str, Any], source: str, names: list[str]
) -> None:
    """The report, and the bytes that it speaks of."""
    folder.mkdir(parents=True)
    places: dict[tuple[str, int, int], tuple[str, int]] = {}
    for item in sorted(asides, key=lambda item: (item.file, item.start, item.end)):
        key = (item.file, item.start, item.end)
        if key not in places and item.end > item.start:
            raw = folder / (item.file.replace("/", "-") + ".raw")
            with open(raw, "ab") as target:
                places[key] = raw.name, target.tell()
                for piece in _pieces(found.base / item.file, item.start, item.end):
                    target.write(piece)
    entries = []
    for item in asides:
        raw_name, raw_offset = places.get((item.file, item.start, item.end), ("", 0))
        entries.append({**item.to_json(), "raw": raw_name, "raw_offset": raw_offset})
    report = {"source": source, "episodes": names, **about, "aside": entries}
    (folder / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def _pieces(file: Path, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a range, as far as the disk gives them."""
    try:
        with open(file, "rb") as stream:
            stream.seek(start)
            while start < end and (piece := stream.read(min(_PIECE, end - start))):
                yield piece
                start += len(piece)
    except OSError:
        return
