"""TFDS/RLDS folders written by anybody: one Example per episode, any keys, several cameras, several splits.

On opening, `features.json` and `dataset_info.json` are read and the shards' framing is passed over once, which gives
the offset of every episode. An episode's CRC is checked when the episode is opened; its values are decoded when they
are asked for, so a step costs its own bytes and not the episode's.

`dataset_info.json` (tensorflow_datasets, `core/proto/dataset_info.proto`): `splits[]` with `name`, `shardLengths` and
`filepathTemplate`, whose variables are {DATASET}, {SPLIT}, {FILEFORMAT}, {SHARD_INDEX}, {NUM_SHARDS} and
{SHARD_X_OF_Y} (`core/naming.py`); older files have no template, and a few no shard lengths.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from continuonbrain.rlds.checked import parse_json
from continuonbrain.rlds.episode_view import EpisodeStep, EpisodeView, LazyValues, Memory
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.example_view import Record, index_records, view_example
from continuonbrain.rlds.feature_decode import Feature, Value
from continuonbrain.rlds.feature_spec import (
    FEATURES_FILE,
    IMAGE,
    STEPS,
    DatasetSpec,
    FeatureSpec,
    read_features,
)
from continuonbrain.rlds.files import is_regular, read_limited
from continuonbrain.rlds.step import Frame

INFO_FILE: Final = "dataset_info.json"
MAX_INFO_BYTES: Final = 2 << 20
MAX_SHARDS: Final = 100_000
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_VARIABLE = re.compile(r"\{(\w+)\}")
_PLAIN = re.compile(r"[\w.+-]{1,200}")
_FLAGS = ("is_first", "is_last", "is_terminal")
_REMEDY = "copy the whole version folder again, its shards included"


@dataclass(frozen=True)
class Shard:
    """One file of a split; `length` is how many episodes it is declared to have, None where nobody says."""

    split: str
    file: Path
    length: int | None


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset_info.json` says, shards in the order of the splits."""

    name: str
    version: str
    shards: tuple[Shard, ...]


def read_info(folder: Path) -> DatasetInfo:
    """The dataset's name and shards.

    Raises:
        EpisodeError: not a dataset_info.json, a format that is not TFRecord, or a file outside the folder.
    """
    file = folder / INFO_FILE
    try:
        value = parse_json(read_limited(file, MAX_INFO_BYTES))
        if not isinstance(value, dict) or not isinstance(value.get("splits"), list):
            raise EpisodeError("an object with a list `splits` is needed", field="splits")
        name, version = str(value.get("name", "")), str(value.get("version", ""))
        form = str(value.get("fileFormat") or value.get("file_format") or "tfrecord")
        if form != "tfrecord":
            raise EpisodeError(
                f"files of the format {form[:40]!r} cannot be read",
                field="fileFormat",
                remedy="convert the dataset: `tfds convert_format --out_file_format=tfrecord`",
            )
        shards: list[Shard] = []
        for position, split in enumerate(value["splits"]):
            found = _shards(folder, name, split, f"splits[{position}]", MAX_SHARDS - len(shards))
            if found and any(found[0].split == shard.split for shard in shards):
                raise EpisodeError(f"{found[0].split[:80]!r} is there twice", field=f"splits[{position}]")
            shards += found
        if len({shard.file for shard in shards}) < len(shards):
            raise EpisodeError("two shards have the same file", field="filepathTemplate")
        return DatasetInfo(name, version, tuple(shards))
    except EpisodeError as error:
        raise error.at(file=file, remedy=_REMEDY) from error
    except OSError as error:
        raise EpisodeError(f"cannot be read: {error.strerror}", file=file, remedy=_REMEDY) from error


def _shards(folder: Path, name: str, split: Any, field: str, room: int) -> list[Shard]:
    if not isinstance(split, dict) or not isinstance(split.get("name"), str):
        raise EpisodeError("a split with a name is needed", field=field)
    lengths = split.get("shardLengths", split.get("shard_lengths"))
    count = split.get("numShards", split.get("num_shards"))
    known: list[int | None]
    if isinstance(lengths, list):
        if len(lengths) > room:
            raise EpisodeError(f"more than {MAX_SHARDS} shards", field=f"{field}.shardLengths")
        known = [_count(length, f"{field}.shardLengths[{at}]") for at, length in enumerate(lengths)]
    elif count is not None:
        number = _count(count, f"{field}.numShards")
        if number > room:
            raise EpisodeError(f"more than {MAX_SHARDS} shards", field=f"{field}.numShards")
        known = [None] * number
    else:
        raise EpisodeError("neither shardLengths nor numShards is here", field=field)
    template = split.get("filepathTemplate") or split.get("filepath_template") or _TEMPLATE
    if not isinstance(template, str) or len(template) > 1000:
        raise EpisodeError("a file template is text", field=f"{field}.filepathTemplate")
    of = len(known)
    digits = max(5, len(str(of)))
    found = []
    for number, length in enumerate(known):
        index = f"{number:0{digits}d}"
        words = {
            "DATASET": name,
            "SPLIT": split["name"],
            "FILEFORMAT": "tfrecord",
            "SHARD_INDEX": index,
            "NUM_SHARDS": f"{of:0{digits}d}",
            "SHARD_X_OF_Y": f"{index}-of-{of:0{digits}d}",
        }
        found.append(Shard(split["name"], _inside(folder, template, words, field), length))
    return found


def _inside(folder: Path, template: str, words: Mapping[str, str], field: str) -> Path:
    def put(match: re.Match[str]) -> str:
        word = words.get(match.group(1))
        if word is None:
            raise EpisodeError(f"{match.group()[:40]} is not a variable of a file template", field=field)
        return word

    text = _VARIABLE.sub(put, template)
    parts = text.split("/")
    if not all(_PLAIN.fullmatch(part) and part.strip(".") for part in parts):
        raise EpisodeError(f"{text[:80]!r} is not a file below the dataset's folder", field=field)
    return folder.joinpath(*parts)


def _count(value: Any, field: str) -> int:
    """Protobuf writes 64-bit numbers as text."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 60:
        raise EpisodeError(f"a count is needed, not {str(value)[:40]!r}", field=field)
    return value


class TfdsEpisode(EpisodeView):
    """One episode of a TFDS folder.

    Attributes:
        missing: declared keys of a step that this episode does not have.
    """

    def __init__(self, record: Record, spec: DatasetSpec, episode_id: str) -> None:
        self.source = record.path
        try:
            columns = view_example(record)
            self._spec = spec
            self._steps: dict[str, Feature] = {}
            missing = []
            for feature in spec.steps:
                try:
                    self._steps[feature.key] = Feature(feature, f"{STEPS}/{feature.key}", columns)
                except KeyError:
                    missing.append(feature.key)
            self.missing = tuple(missing)
            self._whole: dict[str, Feature] = {}
            for feature in spec.episode:
                try:
                    self._whole[feature.key] = Feature(feature, feature.key, columns)
                except KeyError:
                    continue
            self._count = self._length()
            self.episode_id = self._own_id() or episode_id
        except EpisodeError as error:
            raise error.at(file=record.path, remedy=_REMEDY) from error

    def __len__(self) -> int:
        return self._count

    def _length(self) -> int:
        """Steps, by every feature that tells; one that has another number is an error, not a shorter episode."""
        told: tuple[str, int] | None = None
        for key, feature in self._steps.items():
            length = feature.length()
            if length is None:
                continue
            if told is None:
                told = key, length
            elif told[1] != length:
                raise EpisodeError(
                    f"{length} steps are here, {told[1]} in {told[0]!r}", field=f"{STEPS}/{key}"
                )
        return 0 if told is None else told[1]

    def _own_id(self) -> str:
        for key in ("episode_metadata/episode_id", "episode_id"):
            if key in self._whole:
                value = self._whole[key].of_episode()
                if isinstance(value, np.ndarray) and value.size == 1:
                    value = str(value.reshape(()).item())
                return value if isinstance(value, str) else ""
        return ""

    @property
    def signals(self) -> tuple[FeatureSpec, ...]:
        """As declared, without those that this episode does not have."""
        return tuple(feature.spec for feature in self._steps.values())

    @property
    def metadata(self) -> Mapping[str, Value]:
        """Everything that is declared beside `steps`."""
        return LazyValues(list(self._whole), lambda key: self._named(self._whole[key].of_episode, None))

    def _named(self, read: Any, step: int | None) -> Any:
        try:
            return read()
        except EpisodeError as error:
            raise error.at(file=self.source, step=step, remedy=_REMEDY) from error

    def step(self, index: int) -> EpisodeStep:
        """As `EpisodeView.step`; flags that are not stored follow from the position."""
        index = self.place(index)

        def value(key: str) -> Value:
            return self._named(lambda: self._steps[key].of_step(index, self._count), index)  # type: ignore[no-any-return]

        flags = [index == 0, index == self._count - 1, False]
        for at, name in enumerate(_FLAGS):
            spec = self._steps[name].spec if name in self._steps else None
            if spec is not None and spec.shape == () and not spec.lists and spec.dtype != "string":
                flags[at] = bool(value(name))
        return EpisodeStep(index, flags[0], flags[1], flags[2], values=LazyValues(list(self._steps), value))

    def frames(self, index: int) -> dict[str, Frame]:
        """As `EpisodeView.frames`: every Image of the step, and every uint8 tensor [H, W, 1 to 4]."""
        index = self.place(index)
        return {
            key: self._named(lambda feature=feature: feature.of_step(index, self._count), index)
            for key, feature in self._steps.items()
            if _is_frame(feature.spec)
        }


def _is_frame(spec: FeatureSpec) -> bool:
    if spec.lists:
        return False
    pixels = spec.dtype == "uint8" and len(spec.shape) == 3 and spec.shape[2] in (1, 2, 3, 4)
    return spec.kind == IMAGE or pixels


class TfdsMemory(Memory):
    """Every episode of a version folder, split after split.

    Attributes:
        spec: the declared features.
        info: name, version and shards.
    """

    def __init__(self, folder: Path) -> None:
        """Read the two JSON files and index the shards; EpisodeError names what is missing, torn or not as declared."""
        super().__init__(folder, "tfds")
        self.spec = read_features(folder / FEATURES_FILE)
        self.info = read_info(folder)
        self._offsets: list[array[int]] = []
        self._starts: list[int] = []
        total = 0
        for shard in self.info.shards:
            if not is_regular(shard.file):
                raise EpisodeError("this shard is missing", file=shard.file, remedy=_REMEDY)
            try:
                offsets = index_records(shard.file)
            except OSError as error:
                raise EpisodeError(f"cannot be read: {error.strerror}", file=shard.file) from error
            if shard.length not in (None, len(offsets)):
                raise EpisodeError(
                    f"{len(offsets)} episodes are here, {shard.length} are declared",
                    file=shard.file,
                    field="shardLengths",
                    remedy=_REMEDY,
                )
            self._starts.append(total)
            self._offsets.append(offsets)
            total += len(offsets)
        self._count = total

    def __len__(self) -> int:
        return self._count

    @property
    def splits(self) -> dict[str, range]:
        """Split -> its episodes."""
        found: dict[str, range] = {}
        for shard, start, offsets in zip(self.info.shards, self._starts, self._offsets, strict=True):
            first = found[shard.split].start if shard.split in found else start
            found[shard.split] = range(first, start + len(offsets))
        return found

    def _open(self, index: int) -> TfdsEpisode:
        at = bisect_right(self._starts, index) - 1
        shard = self.info.shards[at]
        try:
            record = Record(shard.file, self._offsets[at][index - self._starts[at]])
        except OSError as error:
            raise EpisodeError(f"cannot be read: {error.strerror}", file=shard.file) from error
        return TfdsEpisode(record, self.spec, f"{shard.split}-{index - self.splits[shard.split].start:06d}")
