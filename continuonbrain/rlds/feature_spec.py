"""`features.json` of a TFDS folder, read without tensorflow-datasets: which keys there are, and what they hold.

Three generations of the file are read (tensorflow_datasets, `core/features/feature.py`, `FeatureConnector.from_json`
and `from_proto`): today's (`pythonClassName` and one of `tensor`, `image`, `featuresDict`, ...), the older
`{"type", "content"}` and the one between them, `{"type", "content", "proto_cls"}`. Which Python class wrote a feature
does not matter, only what it stores: a class of somebody's own that stores a tensor is a tensor here.

Nested keys are joined by "/". A feature below `steps` has one value a step; lists (`Sequence`) inside a step are
stored ragged, as `KEY/ragged_flat_values` and `KEY/ragged_row_lengths_0`, ... (`core/example_serializer.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from continuonbrain.rlds.checked import parse_json
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.files import read_limited

FEATURES_FILE: Final = "features.json"
STEPS: Final = "steps"
MAX_JSON_BYTES: Final = 1 << 20
MAX_FEATURES: Final = 4096
_MAX_DEPTH = 32
_MAX_RANK = 16
_REMEDY = "write the folder again with tensorflow-datasets 4.0 or newer"

TENSOR, TEXT, IMAGE = "tensor", "text", "image"

# What holds the content, by the last part of the class's name; for the files of old that do not say it themselves.
_CONTENT_OF = {
    "FeaturesDict": "featuresDict",
    "Sequence": "sequence",
    "Dataset": "sequence",
    "Tensor": "tensor",
    "Scalar": "tensor",
    "Text": "text",
    "Image": "image",
    "ClassLabel": "classLabel",
    "BBoxFeature": "boundingBox",
    "Video": "video",
    "Audio": "audio",
    "TensorFeature": "tensor",
    "TextFeature": "text",
    "ImageFeature": "image",
    "VideoFeature": "video",
    "AudioFeature": "audio",
    "BoundingBoxFeature": "boundingBox",
}
_NUMPY: Final = {
    "bool": np.bool_,
    "bfloat16": np.float32,  # numpy has none: widened, which loses nothing
    **{
        name: getattr(np, name)
        for name in (
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float16",
            "float32",
            "float64",
        )
    },
}


@dataclass(frozen=True)
class FeatureSpec:
    """One feature without features below it.

    Attributes:
        key: joined by "/", without `steps/`.
        kind: "tensor", "text" or "image" (a video is a list of images).
        dtype: as the file names it ("float32", "bool", "string", "bfloat16").
        shape: of one value; None is a size that may differ. () for text.
        lists: one entry for each list around the value inside a step; its length, or None.
        encoding: of a tensor "none", "bytes" or "zlib".
        optional: whether it may be missing.
        about: what its writer says about it.
    """

    key: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...] = ()
    lists: tuple[int | None, ...] = ()
    encoding: str = "none"
    optional: bool = False
    about: str = ""

    @property
    def numpy(self) -> np.dtype[Any]:
        """What numbers of it are read as; object for text."""
        found: np.dtype[Any] = np.dtype(_NUMPY.get(self.dtype, np.object_))
        return found

    @property
    def size(self) -> int | None:
        """Numbers in one value, None where the shape leaves it open."""
        return None if None in self.shape else math.prod(size or 0 for size in self.shape)

    @property
    def own_shape(self) -> bool:
        """Whether each value carries its shape (more than one size is open)."""
        return self.kind == TENSOR and self.shape.count(None) > 1

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return {
            "key": self.key,
            "kind": self.kind,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "lists": list(self.lists),
        }


@dataclass(frozen=True)
class DatasetSpec:
    """The features of a step and those of a whole episode, each sorted by key."""

    steps: tuple[FeatureSpec, ...]
    episode: tuple[FeatureSpec, ...]


def read_features(file: Path) -> DatasetSpec:
    """The features of a dataset of episodes.

    Raises:
        EpisodeError: absent, not a features.json, a feature that nobody can read without its own class, or no
            `steps` in it.
    """
    try:
        return parse_features(parse_json(read_limited(file, MAX_JSON_BYTES)))
    except EpisodeError as error:
        raise error.at(file=file, remedy=_REMEDY) from error
    except OSError as error:
        raise EpisodeError(f"cannot be read: {error.strerror}", file=file, remedy=_REMEDY) from error


def parse_features(value: Any) -> DatasetSpec:
    """As `read_features`, from the decoded JSON."""
    found: list[FeatureSpec] = []
    _walk(value, "", (), found, 0)
    steps, episode = [], []
    for spec in found:
        if spec.key.startswith(f"{STEPS}/"):
            if not spec.lists:
                raise EpisodeError("`steps` must be a Dataset or a Sequence of steps", field=spec.key)
            steps.append(replace(spec, key=spec.key[len(STEPS) + 1 :], lists=spec.lists[1:]))
        else:
            episode.append(spec)
    if not steps:
        raise EpisodeError(
            "there is no `steps` in it: this is a dataset, but not one of episodes",
            field=STEPS,
            remedy="give a dataset in RLDS form",
        )

    def by_key(spec: FeatureSpec) -> str:
        return spec.key

    return DatasetSpec(tuple(sorted(steps, key=by_key)), tuple(sorted(episode, key=by_key)))


def _object(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise EpisodeError(f"an object is needed, not {type(value).__name__}", field=key or "features")
    return value


def _content(value: Mapping[str, Any], key: str) -> tuple[str, Any]:
    """(what it stores, how), whichever generation wrote it."""
    if "type" in value and "pythonClassName" not in value:
        content = value.get("content")
        if isinstance(content, str):
            content = parse_json(content)
        name = str(value.get("proto_cls") or value["type"]).rpartition(".")[2]
        what = _CONTENT_OF.get(name, "")
        if what == "featuresDict" and not value.get("proto_cls"):
            content = {"features": content}
        if not what and isinstance(content, Mapping) and {"shape", "dtype"} <= content.keys():
            what = "tensor"
        if what:
            return what, content
    else:
        for what in (*_CONTENT_OF.values(), "translation"):
            if what in value:
                return what, value[what]
        # An empty message (Text of some versions) may be left out altogether.
        name = str(value.get("pythonClassName", "")).rpartition(".")[2]
        if name == "Text":
            return "text", {}
    shown = str(value.get("pythonClassName") or value.get("type") or "it")[:80]
    raise EpisodeError(f"{shown} stores what only its own class can read", field=key)


def _walk(value: Any, key: str, lists: tuple[int | None, ...], found: list[FeatureSpec], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise EpisodeError(f"features are nested deeper than {_MAX_DEPTH}", field=key[:80])
    node = _object(value, key)
    what, content = _content(node, key)
    content = {} if content is None else _object(content, key)
    if what == "featuresDict":
        for name, inner in _object(content.get("features") or {}, key).items():
            _walk(inner, f"{key}/{name}" if key else name, lists, found, depth + 1)
        return
    if what == "sequence":
        length = content.get("length")
        length = -1 if length is None else _integer(length, key)
        _walk(content.get("feature"), key, (*lists, None if length < 0 else length), found, depth + 1)
        return
    if what == "translation":
        names = content.get("languages")
        for name in names if isinstance(names, list) else []:
            found.append(FeatureSpec(f"{key}/{name}", TEXT, "string", lists=lists))
        return
    if len(found) >= MAX_FEATURES:
        raise EpisodeError(f"more than {MAX_FEATURES} features", field=key[:80])
    found.append(_leaf(what, content, key, lists, str(node.get("description") or "")))


def _leaf(
    what: str, content: Mapping[str, Any], key: str, lists: tuple[int | None, ...], about: str
) -> FeatureSpec:
    spec = FeatureSpec(key or "value", TENSOR, "int64", lists=lists, about=about)
    if what == "text":
        return replace(spec, kind=TEXT, dtype="string")
    if what == "classLabel":
        return spec
    if what == "boundingBox":
        return replace(spec, dtype=str(content.get("dtype") or "float32"), shape=(4,))
    dtype = str(content.get("dtype") or ("uint8" if what in ("image", "video") else ""))
    shape = _shape(content.get("shape"), key)
    if dtype not in _NUMPY and dtype not in ("string", "object", "str"):
        raise EpisodeError(f"values of type {dtype[:40]!r} cannot be read", field=key)
    if what == "image":
        return replace(spec, kind=IMAGE, dtype=dtype, shape=shape or (None, None, 3))
    if what == "video":
        length, frame = (shape[0], shape[1:]) if shape else (None, (None, None, 3))
        return replace(spec, kind=IMAGE, dtype=dtype, shape=frame, lists=(*lists, length))
    if what == "audio" and (content.get("lazyDecode") or content.get("lazy_decode")):
        return replace(spec, kind=TENSOR, dtype="string")
    encoding = str(content.get("encoding") or "none").lower()
    if encoding not in ("none", "bytes", "zlib"):
        raise EpisodeError(f"encoding {encoding[:40]!r} is not known", field=key)
    is_text = dtype not in _NUMPY
    return replace(
        spec,
        dtype="string" if is_text else dtype,
        shape=shape,
        encoding="none" if is_text else encoding,
        optional=content.get("optional") is True,
    )


def _shape(value: Any, key: str) -> tuple[int | None, ...]:
    if isinstance(value, Mapping):
        value = value.get("dimensions")
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MAX_RANK:
        raise EpisodeError(f"a shape of at most {_MAX_RANK} sizes is needed", field=key)
    sizes = [-1 if size is None else _integer(size, key) for size in value]
    return tuple(None if size < 0 else size for size in sizes)


def _integer(value: Any, key: str) -> int:
    """Protobuf writes 64-bit numbers as text."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 40:
        raise EpisodeError(f"a size is needed, not {str(value)[:40]!r}", field=key)
    return value
