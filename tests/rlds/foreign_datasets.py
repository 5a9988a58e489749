"""Datasets as others write them, made by hand: pictures, features.json, folders of shards; how values are compared."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from continuonbrain.rlds.tfrecord import frame_record

RNG = np.random.default_rng(7)


def png(height: int, width: int, channels: int) -> tuple[bytes, np.ndarray[Any, Any]]:
    pixels = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(out, "PNG")
    return out.getvalue(), pixels


def tensor_spec(dtype: str, *shape: int, **more: Any) -> dict[str, Any]:
    return {
        "pythonClassName": "somebody.else.Tensor",
        "tensor": {"dtype": dtype, "shape": {"dimensions": [str(size) for size in shape]}, **more},
    }


def features_json(step: Mapping[str, Any], **episode: Any) -> dict[str, Any]:
    inner = {"pythonClassName": "FeaturesDict", "featuresDict": {"features": dict(step)}}
    steps = {"pythonClassName": "Sequence", "sequence": {"feature": inner, "length": "-1"}}
    return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": {"steps": steps, **episode}}}


def write_dataset(
    folder: Path,
    features: Mapping[str, Any],
    splits: Mapping[str, Sequence[Sequence[bytes]]],
    *,
    template: str = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
) -> Path:
    """A version folder; `splits` is split -> shards -> serialised Examples."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").write_text(json.dumps(features))
    entries = []
    for split, shards in splits.items():
        for number, examples in enumerate(shards):
            name = (
                template.replace("{DATASET}", "arm")
                .replace("{SPLIT}", split)
                .replace("{FILEFORMAT}", "tfrecord")
                .replace("{SHARD_X_OF_Y}", f"{number:05d}-of-{len(shards):05d}")
                .replace("{SHARD_INDEX}", f"{number:05d}")
            )
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"".join(frame_record(example) for example in examples))
        lengths = [str(len(examples)) for examples in shards]
        entries.append({"name": split, "shardLengths": lengths, "filepathTemplate": template})
    info = {"name": "arm", "version": "1.0.0", "fileFormat": "tfrecord", "splits": entries}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def same(got: Any, want: Any) -> None:
    if isinstance(want, list):
        assert isinstance(got, list)
        assert len(got) == len(want)
        for inner, wanted in zip(got, want, strict=True):
            same(inner, wanted)
    elif isinstance(want, str):
        assert got == want
    else:
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)
