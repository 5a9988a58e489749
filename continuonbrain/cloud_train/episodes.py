"""The episodes of a bundle as drives: arrays are read whole, pictures one at a time, parts of one episode as one."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from continuonbrain.cloud.manifest import EPISODES, ORDER
from continuonbrain.cloud_train.balance import Seen
from continuonbrain.cloud_train.bundles import OpenBundle
from continuonbrain.rlds.checked import parse_json
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.example_view import Column, Record, index_records, view_example
from continuonbrain.rlds.files import read_limited
from continuonbrain.rlds.foreign_tfds import read_info
from continuonbrain.rlds.metadata import EpisodeMetadata
from continuonbrain.rlds.reader import decode_image
from continuonbrain.storage.plain_json import load_plain
from continuonbrain.trainer.dataset import Drive, drive_of

_ID = re.compile(r"(e-[0-9a-f]{16})(?:\.(\d{1,6}))?")
_METADATA = "metadata_json"
_TEXTS = ("language_instruction", "source", "safety_violations")
_REMEDY = "have the bundle exported again"
_LARGEST_COMMAND = 2.0
"""Full lock and full throttle are 1, and recordings of other programs go a little beyond."""
_LARGEST_LIST = 256 << 20
_LATEST_NS = 2**62
"""A hundred years after a machine was switched on."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A record: one episode, or one part of one."""

    file: Path
    offset: int


@dataclass(frozen=True, slots=True)
class BundledStep:
    """A step as it left the robot; see `trainer.dataset.Moment`."""

    command: tuple[float, float]
    speed_mps: float | None
    yaw_rate_rps: float | None
    source: str
    reasons: tuple[str, ...]
    has_frame: bool
    instruction: str
    monotonic_ns: int
    frame_monotonic_ns: int | None = None


class BundledEpisode:
    """One episode of a bundle, all its parts in order. `trainer.dataset.Recording`.

    Attributes:
        robot, name: pseudonyms.
        metadata: as they left the robot.
        path: names it in errors and figures; there is no such file.
        content: sha256 of what is in it: who recorded it, and when, is not.
        place: the counter of its bundle and its order in time there.
    """

    def __init__(
        self, robot: str, name: str, parts: Sequence[_Place], pixels: int, place: tuple[int, int]
    ) -> None:
        """Read everything but the pictures' pixels. EpisodeError names what is torn or not as declared."""
        self.robot, self.name, self.pixels = robot, name, pixels
        self.path, self.place = Path(robot) / name, place
        self._parts = tuple(parts)
        self._starts: list[int] = []
        self.steps: list[BundledStep] = []
        digest = hashlib.sha256()
        clock = 0
        for part in self._parts:
            self._starts.append(len(self.steps))
            columns = view_example(Record(part.file, part.offset))
            if part is self._parts[0]:
                self.metadata = _metadata(columns, part.file)
            found = _steps(columns, part.file, clock, digest)
            self.steps += found
            clock = found[-1].monotonic_ns + 1 if found else clock
            if not 0 <= clock <= _LATEST_NS:
                raise EpisodeError(
                    f"a step at {clock} ns", file=part.file, field="monotonic_ns", remedy=_REMEDY
                )
        self.content = digest.hexdigest()
        self._open: tuple[int, dict[str, Column]] | None = None

    @property
    def seen(self) -> Seen:
        """What decides whether it came twice."""
        words = tuple(said for said, _ in groupby(step.instruction for step in self.steps))
        return Seen(self.robot, self.name, self.content, self.pixels, self.place, words)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """The picture of a step, RGB uint8 `[H, W, 3]`. The record of the last one asked for stays open."""
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        if self._open is None or self._open[0] != part:
            place = self._parts[part]
            self._open = part, view_example(Record(place.file, place.offset))
        return decode_image(self._open[1]["steps/observation/image"].item(index - self._starts[part]))

    def drive(self) -> Drive:
        """For training."""
        return drive_of(self, self.steps)


def episodes_of(bundle: OpenBundle) -> Iterator[BundledEpisode | EpisodeError]:
    """Every episode of a bundle in the order of its datasets, which is that of time for pictures of one size only (its
    `place` says it for all); or why one cannot be read. Raises EpisodeError where it cannot be said which episodes
    there are."""
    members = {bundle.folder / member.name for member in bundle.contents.members}
    with _named(bundle):
        order = _order(bundle.folder / EPISODES) if bundle.folder / EPISODES in members else {}
    count = 0
    for folder, told in sorted(bundle.contents.datasets.items()):
        pixels = told["height"] * told["width"]
        with _named(bundle):
            gathered = _gathered(bundle.folder / folder, members)
        for name, parts in gathered.items():
            place = bundle.counter, order.get(name, count)
            count += 1
            if not parts:
                yield EpisodeError(f"{name} has no first part", file=bundle.path, remedy=_REMEDY)
                continue
            try:
                yield BundledEpisode(bundle.contents.robot, name, parts, pixels, place)
            except EpisodeError as error:
                yield error
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                # Signed by somebody who is trusted, and still no numbers of a drive: the others' are learned from.
                yield EpisodeError(f"{name} holds what no drive has: {error!r}", file=parts[0].file)


@contextlib.contextmanager
def _named(bundle: OpenBundle) -> Iterator[None]:
    """Of what is wrong inside, say in which bundle: it may be read from a copy of its members."""
    try:
        yield
    except EpisodeError as error:
        raise EpisodeError(
            f"{bundle.path} cannot be used: {error}",
            remedy="leave that bundle out, or have it exported again",
        ) from error


def _order(file: Path) -> dict[str, int]:
    """Each episode's place in time among those of its bundle, as the export has it; an earlier version's says none."""
    found = {}
    try:
        for text in read_limited(file, _LARGEST_LIST).splitlines():
            line = load_plain(text)
            if isinstance(line, dict) and isinstance(line.get(ORDER), int):
                found[str(line.get("episode"))] = int(line[ORDER])
    except ValueError as error:
        raise EpisodeError(f"the list of episodes cannot be read: {error}", file=file) from error
    return found


def _gathered(folder: Path, members: set[Path]) -> dict[str, list[_Place]]:
    found: dict[str, dict[int, _Place]] = {}
    for shard in read_info(folder).shards:
        if shard.file not in members:
            raise EpisodeError("this shard is none of the bundle's members", file=shard.file, remedy=_REMEDY)
        for offset in index_records(shard.file):
            columns = view_example(Record(shard.file, offset))
            column = columns.get("episode_metadata/episode_id")
            text = column.item(0).decode(errors="replace") if column is not None and column.count == 1 else ""
            known = _ID.fullmatch(text)
            if known is None:
                raise EpisodeError(
                    f"{text[:40]!r} is no episode's pseudonym", file=shard.file, remedy=_REMEDY
                )
            parts = found.setdefault(known[1], {})
            number = int(known[2] or 0)
            if number in parts:
                raise EpisodeError(f"{text} is there twice", file=shard.file, remedy=_REMEDY)
            parts[number] = _Place(shard.file, offset)
    # Of an episode that could not be read to its end the parts before the damage are there: from 0 on, without a gap.
    return {
        name: [parts[i] for i in range(len(parts)) if all(j in parts for j in range(i + 1))]
        for name, parts in found.items()
    }


def _metadata(columns: dict[str, Column], file: Path) -> EpisodeMetadata:
    column = columns.get(f"episode_metadata/{_METADATA}")
    if column is None or column.count != 1:
        raise EpisodeError("one text is needed", file=file, field=_METADATA, remedy=_REMEDY)
    try:
        return EpisodeMetadata.from_json(parse_json(column.item(0)))
    except EpisodeError as error:
        raise error.at(file=file) from error


def _steps(columns: dict[str, Column], file: Path, clock: int, digest: Any) -> list[BundledStep]:
    def numbers(name: str, width: int, dtype: type) -> NDArray[Any]:
        column = columns.get(f"steps/{name}")
        if column is None or (count is not None and column.count != count * width):
            raise EpisodeError(f"{0 if column is None else column.count} numbers", file=file, field=name)
        return column.numbers(0, column.count, np.dtype(dtype)).reshape(-1, width)

    count = None
    action = numbers("action", 2, np.float32)
    count = len(action)
    state, measured = (
        numbers("observation/state", 2, np.float32),
        numbers("observation/state_measured", 2, np.int64),
    )
    stamps = numbers("monotonic_ns", 1, np.int64)[:, 0]
    texts: dict[str, list[str]] = {}
    for name in _TEXTS:
        column = columns.get(f"steps/{name}")
        if column is None or column.count != count:
            raise EpisodeError(f"{count} texts are needed", file=file, field=name)
        texts[name] = [column.item(i).decode(errors="replace") for i in range(count)]
    if not (np.isfinite(action).all() and np.isfinite(state).all()):
        raise EpisodeError("a number is not finite", file=file, field="action or observation/state")
    if np.abs(action).max(initial=0) > _LARGEST_COMMAND:
        raise EpisodeError(f"a command of {np.abs(action).max():.3g}", file=file, field="action")
    pictures = columns.get("steps/observation/image")
    if pictures is not None and pictures.count not in (0, count):
        raise EpisodeError(
            f"{pictures.count} pictures of {count} steps", file=file, field="observation/image"
        )
    has_frame = pictures is not None and pictures.count == count
    for array in (action, state, measured, stamps):
        digest.update(np.ascontiguousarray(array).data)
    for name in _TEXTS:
        digest.update("\0".join(texts[name]).encode())
    if pictures is not None:
        for i in range(pictures.count):
            digest.update(hashlib.sha256(pictures.item(i)).digest())
    return [
        BundledStep(
            (float(action[i, 0]), float(action[i, 1])),
            float(state[i, 0]) if measured[i, 0] else None,
            float(state[i, 1]) if measured[i, 1] else None,
            texts["source"][i],
            tuple(filter(None, texts["safety_violations"][i].split(","))),
            has_frame,
            texts["language_instruction"][i],
            int(stamps[i]) + clock,
        )
        for i in range(count)
    ]
