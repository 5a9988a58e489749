"""The ecosystem's TFRecord, one Example per *step*, read as episodes.

Keys (`tfds.export_step_records` writes the same): episode_id, step_index, reward, is_terminal; observation, action,
step_metadata as JSON; observation_command and action_command as floats. Others leave out is_first and is_last, put
several episodes into a file, or interleave them: records are gathered by episode_id and ordered by step_index. A record
without an episode_id belongs to the episode of its file, one without a step_index comes after the one before it.

Which episode a record belongs to stands inside it, so here opening reads every record once (and checks its CRC);
what is kept of each are its place and its number.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from continuonbrain.rlds.checked import parse_json
from continuonbrain.rlds.episode_view import EpisodeStep, EpisodeView, LazyValues, Memory, described
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.example_view import BYTES, FLOAT, Column, Record, index_records, view_example
from continuonbrain.rlds.feature_decode import Value
from continuonbrain.rlds.feature_spec import FeatureSpec
from continuonbrain.rlds.reader import decode_image
from continuonbrain.rlds.step import Frame, Step

JSON_KEYS: Final = ("observation", "action", "step_metadata")
_FLAGS = ("is_first", "is_last", "is_terminal")
MAX_ID_BYTES: Final = 1024
MAX_ALL_IDS: Final = 8 << 20
MAX_STEPS: Final = 1 << 20
MAX_JSON_BYTES: Final = 1 << 20
_MAX_KEYS = 4096
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n")
_REMEDY = "give a TFRecord with one Example per step, or the folder of a TFDS dataset"


@dataclass
class _Gathered:
    """Where the steps of one episode lie, in the order of their index."""

    episode_id: str
    source: Path
    files: array[int] = field(default_factory=lambda: array("L"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    numbers: array[int] = field(default_factory=lambda: array("q"))

    def put_in_order(self, paths: Sequence[Path]) -> None:
        order = sorted(range(len(self.numbers)), key=self.numbers.__getitem__)
        for before, after in pairwise(order):
            if self.numbers[before] == self.numbers[after]:
                raise EpisodeError(
                    f"step_index {self.numbers[after]} of episode {self.episode_id[:80]!r} is there twice "
                    f"(byte {self.offsets[before]} and byte {self.offsets[after]})",
                    file=paths[self.files[after]],
                    field="step_index",
                    remedy="give each episode an episode_id of its own",
                )
        for name in ("files", "offsets", "numbers"):
            values = getattr(self, name)
            setattr(self, name, array(values.typecode, (values[at] for at in order)))


def _scalar(column: Column | None, name: str) -> int | float | None:
    if column is None or not column.count:
        return None
    if column.kind == BYTES or column.count != 1:
        raise EpisodeError("one number is needed", field=name)
    return column.numbers(0, 1, np.dtype(np.float64 if column.kind == FLOAT else np.int64)).item()  # type: ignore[no-any-return]


def looks_like_steps(columns: Mapping[str, Column]) -> bool:
    """Whether an Example is a step, and not an episode or something else."""
    return ("observation" in columns or "action" in columns) and not any(
        key.startswith("steps/") for key in columns
    )


class StepRecordEpisode(EpisodeView):
    """One episode whose steps are records of their own."""

    def __init__(self, gathered: _Gathered, paths: Sequence[Path]) -> None:
        self.episode_id = gathered.episode_id
        self.source = gathered.source
        self._gathered = gathered
        self._paths = paths
        self._last: tuple[int, dict[str, Value], EpisodeStep] | None = None

    def __len__(self) -> int:
        return len(self._gathered.offsets)

    @property
    def gaps(self) -> int:
        """Steps that the indexes promise and that are not here."""
        numbers = self._gathered.numbers
        return int(numbers[-1] - numbers[0] + 1 - len(numbers)) if numbers else 0

    def step(self, index: int) -> EpisodeStep:
        """As `EpisodeView.step`; `recorded` is set where the action is [steering, throttle]."""
        index = self.place(index)
        if self._last is None or self._last[0] != index:
            file = self._paths[self._gathered.files[index]]
            try:
                values, step = self._read(Record(file, self._gathered.offsets[index]), index)
            except EpisodeError as error:
                raise error.at(file=file, step=index, remedy=_REMEDY) from error
            except OSError as error:
                raise EpisodeError(f"cannot be read: {error.strerror}", file=file, step=index) from error
            self._last = index, values, step
        return self._last[2]

    def _read(self, record: Record, index: int) -> tuple[dict[str, Value], EpisodeStep]:
        columns = view_example(record)
        count = len(self)
        values: dict[str, Value] = {}
        whole: dict[str, Any] = {}
        for name, column in columns.items():
            if name in JSON_KEYS and column.kind == BYTES:
                if column.count != 1:
                    raise EpisodeError("one JSON object is needed", field=name)
                text = column.item(0)
                if len(text) > MAX_JSON_BYTES:
                    raise EpisodeError(f"{len(text)} bytes of JSON are too long", field=name)
                try:
                    whole[name] = parse_json(text)
                except EpisodeError as error:
                    raise EpisodeError(error.problem, field=name) from error
                for key, value in _flat(whole[name], name):
                    if len(values) >= _MAX_KEYS:
                        raise EpisodeError(f"more than {_MAX_KEYS} values in one step", field=name)
                    values[key] = value
            else:
                values[name] = _plain(column)
        flags = [index == 0, index == count - 1, False]
        for at, name in enumerate(_FLAGS):
            stored = _scalar(columns.get(name), name)
            flags[at] = flags[at] if stored is None else bool(stored)
        shown = LazyValues(list(values), lambda key: _decoded(values[key], key, self.source, index))
        return values, EpisodeStep(
            index, flags[0], flags[1], flags[2], values=shown, recorded=_recorded(whole, flags, index, count)
        )

    def frames(self, index: int) -> dict[str, Frame]:
        """Images that a writer put into the record as bytes; the ecosystem itself stores none."""
        step = self.step(index)
        assert self._last is not None
        return {
            key: np.asarray(step.values[key])
            for key, value in self._last[1].items()
            if isinstance(value, bytes) and value.startswith(_IMAGE_STARTS)
        }

    @property
    def signals(self) -> tuple[FeatureSpec, ...]:
        """As the first step holds them: nothing is declared in this format."""
        values = self.step(0).values
        return tuple(described(key, values[key]) for key in sorted(values))

    @property
    def metadata(self) -> Mapping[str, Value]:
        """Only the id: this format has no metadata."""
        return {"episode_id": self.episode_id}


def _recorded(whole: Mapping[str, Any], flags: list[bool], index: int, count: int) -> Step | None:
    value = {**{name: whole.get(name) for name in JSON_KEYS}, **dict(zip(_FLAGS, flags, strict=True))}
    try:
        return Step.from_json(value, index=index, count=count)
    except EpisodeError:
        return None  # somebody else's robot: its values are there all the same


def _plain(column: Column) -> Value:
    if column.kind == BYTES:
        if column.count == 1:
            return column.item(0)
        if column.count > _MAX_KEYS:
            raise EpisodeError(f"{column.count} texts in one step are too many", field=column.name)
        return [_text(column.item(at)) for at in range(column.count)]
    numbers = column.numbers(0, column.count, np.dtype(np.float32 if column.kind == FLOAT else np.int64))
    return numbers.reshape(()) if numbers.size == 1 else numbers


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _decoded(value: Value, key: str, source: Path, index: int) -> Value:
    if not isinstance(value, bytes):
        return value
    if value.startswith(_IMAGE_STARTS):
        try:
            return decode_image(value)
        except EpisodeError as error:
            raise EpisodeError(error.problem, file=source, step=index, field=key) from error
    return _text(value)


def _flat(value: Any, key: str) -> Iterator[tuple[str, Value]]:
    """The leaves of a JSON value: lists of numbers as arrays, null left out. No recursion: depth is the writer's."""
    stack: list[tuple[str, Any]] = [(key, value)]
    while stack:
        name, item = stack.pop()
        if isinstance(item, dict):
            if len(name) > MAX_ID_BYTES:
                raise EpisodeError("keys are nested too deeply", field=name[:80])
            stack += [(f"{name}/{inner}", child) for inner, child in reversed(item.items())]
        elif isinstance(item, str):
            yield name, item
        elif isinstance(item, bool | int | float):
            yield name, _array(item, name)
        elif isinstance(item, list):
            if all(isinstance(part, bool | int | float) for part in item):
                yield name, _array(item, name)
            else:
                yield name, [part for part in item if isinstance(part, str)] or [str(item)[:1000]]


def _array(value: Any, name: str) -> Value:
    try:
        array_of = np.asarray(value)
    except (OverflowError, ValueError) as error:
        raise EpisodeError(f"a number that is too large: {error}", field=name) from error
    if array_of.dtype == np.object_:  # an integer of more than 64 bits
        raise EpisodeError("an integer of more than 64 bits", field=name)
    return array_of


class StepRecordMemory(Memory):
    """Every episode of one or more per-step TFRecord files, in the order of their first records."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        """Read every record's episode and number; EpisodeError at the first that is torn, altered or no step."""
        super().__init__(path, "step-records")
        self._paths = list(files)
        self._gathered: dict[str, _Gathered] = {}
        ids = steps = 0
        for number, file in enumerate(self._paths):
            before: dict[str, int] = {}
            try:
                for offset in index_records(file):
                    columns = view_example(Record(file, offset))
                    if not looks_like_steps(columns):
                        raise EpisodeError(
                            f"the record at byte {offset} is no step: neither `observation` nor `action` is in it",
                        )
                    name = self._id(columns, file)
                    if name not in self._gathered:
                        ids += len(name)
                        if ids > MAX_ALL_IDS:
                            raise EpisodeError("too many different episode_ids", field="episode_id")
                        self._gathered[name] = _Gathered(name, file)
                    index = _scalar(columns.get("step_index"), "step_index")
                    if isinstance(index, float):
                        raise EpisodeError(f"an integer is needed, not {index}", field="step_index")
                    before[name] = before.get(name, -1) + 1 if index is None else index
                    gathered = self._gathered[name]
                    gathered.files.append(number)
                    gathered.offsets.append(offset)
                    gathered.numbers.append(before[name])
                    steps += 1
                    if steps > MAX_STEPS:
                        raise EpisodeError(
                            f"more than {MAX_STEPS} steps", remedy="open fewer files at a time"
                        )
            except EpisodeError as error:
                raise error.at(file=file, remedy=_REMEDY) from error
            except OSError as error:
                raise EpisodeError(f"cannot be read: {error.strerror}", file=file) from error
        self._order = list(self._gathered.values())
        for gathered in self._order:
            gathered.put_in_order(self._paths)

    @staticmethod
    def _id(columns: Mapping[str, Column], file: Path) -> str:
        column = columns.get("episode_id")
        if column is None or not column.count:
            return file.name.partition(".")[0]
        if column.kind != BYTES:
            return str(_scalar(column, "episode_id"))
        text = column.item(0) if column.count == 1 else b""
        if not text or len(text) > MAX_ID_BYTES:
            raise EpisodeError("one name is needed", field="episode_id")
        return text.decode(errors="replace")

    def __len__(self) -> int:
        return len(self._order)

    def _open(self, index: int) -> StepRecordEpisode:
        return StepRecordEpisode(self._order[index], self._paths)
