"""Small valid examples of every kind that is read, for tests that damage them."""

from __future__ import annotations

import io
import json
import shutil
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.flat import export_flat
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.tfds import export_step_records, export_tfds
from continuonbrain.rlds.tfrecord import encode_example, frame_record
from continuonbrain.rlds.writer import EpisodeWriter
from tests.rlds import read_everything

SECONDS = 20.0
KINDS = ("folder", "flat", "steps", "tfds", "tub2", "tub1", "doctor", "doctor-flat", "recovery")
READER = {
    "folder": "episode",
    "flat": "episode",
    "steps": "memory",
    "tfds": "memory",
    "tub2": "tub",
    "tub1": "tub",
    "doctor": "doctor",
    "doctor-flat": "doctor",
    "recovery": "recovery",
}


def jpeg(size: tuple[int, int] = (160, 120)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (1, 2, 3)).save(out, "JPEG")
    return out.getvalue()


def _arm_features() -> dict[str, Any]:
    """What our own export does not have: lists, packed tensors, PNG, open shapes."""

    def tensor(dtype: str, *shape: int, encoding: str = "none") -> dict[str, Any]:
        sizes = {"dimensions": [str(size) for size in shape]}
        return {"tensor": {"dtype": dtype, "shape": sizes, "encoding": encoding}}

    def listed(feature: dict[str, Any]) -> dict[str, Any]:
        return {"sequence": {"feature": feature, "length": "-1"}}

    step = {
        "image": {"image": {"dtype": "uint8", "encodingFormat": "png"}},
        "packed": tensor("int16", 2, encoding="zlib"),
        "any": tensor("uint8", -1, -1, encoding="bytes"),
        "list": listed(tensor("int32")),
        "lists": listed(listed(tensor("float32", 2))),
        "text": {"pythonClassName": "Text", "text": {}},
        "is_last": tensor("bool"),
    }
    steps = listed({"featuresDict": {"features": step}})
    return {"featuresDict": {"features": {"steps": steps, "about": listed(listed(tensor("int64")))}}}


def _arm_example() -> bytes:
    out = io.BytesIO()
    Image.new("L", (3, 2)).save(out, "PNG")
    return encode_example(
        {
            "steps/image": [out.getvalue()] * 2,
            "steps/packed": [zlib.compress(struct.pack("<2h", 1, -2))] * 2,
            "steps/any/value": [b"123456"] * 2,
            "steps/any/shape": [2, 3, 3, 2],
            "steps/list/ragged_flat_values": [1, 300, -5],
            "steps/list/ragged_row_lengths_0": [1, 2],
            "steps/lists/ragged_flat_values": np.arange(6, dtype=np.float32),
            "steps/lists/ragged_row_lengths_0": [2, 0],
            "steps/lists/ragged_row_lengths_1": [1, 2],
            "steps/text": [b"a", b"\xff"],
            "steps/is_last": [0, 1],
            "about/ragged_flat_values": [1, 2, 3],
            "about/ragged_row_lengths_0": [0, 3],
        }
    )


def make_valid(root: Path) -> dict[str, Path]:
    """One small valid example of each kind."""
    with EpisodeWriter(root / "memory", metadata=make_metadata_example("small")) as writer:
        for tick in range(2):
            writer.write(make_step_example(tick, size=(8, 8)))
    episode = open_episode(writer.path)
    for name in ("flat", "steps", "tub2/images", "tub1"):
        (root / name).mkdir(parents=True)
    export_flat(episode, root / "flat" / "small.json")
    export_step_records(episode, root / "steps" / "small.tfrecord")
    ours = export_tfds([writer.path], root / "export").path
    shutil.copytree(ours, root / "tfds")
    shutil.copytree(ours, root / "tfds-arm")
    (root / "tfds-arm" / "features.json").write_text(json.dumps(_arm_features()))
    (shard,) = (root / "tfds-arm").glob("*tfrecord*")
    shard.write_bytes(frame_record(_arm_example()))
    for index in range(2):
        record = {
            "cam/image_array": f"{index}.jpg",
            "user/angle": 0.1,
            "user/throttle": 0.2,
            "user/mode": "user",
        }
        (root / "tub1" / f"{index}.jpg").write_bytes(jpeg())
        (root / "tub1" / f"record_{index}.json").write_text(json.dumps(record | {"milliseconds": index * 50}))
        (root / "tub2" / "images" / f"{index}.jpg").write_bytes(jpeg())
        more = {"_index": index, "_session_id": "s", "_timestamp_ms": 1_700_000_000_000 + 50 * index}
        with open(root / "tub2" / "catalog_0.catalog", "a") as file:
            file.write(json.dumps(record | more) + "\n")
    manifest = [
        ["cam/image_array"],
        ["image_array"],
        {},
        {},
        {"paths": ["catalog_0.catalog"], "deleted_indexes": []},
    ]
    (root / "tub2" / "manifest.json").write_text("\n".join(map(json.dumps, manifest)) + "\n")
    found = {kind: root / kind for kind in KINDS} | {"folder": writer.path, "tfds-arm": root / "tfds-arm"}
    found |= {"doctor": writer.path, "doctor-flat": found["flat"]}
    dying = EpisodeWriter(root / "recovery", metadata=make_metadata_example("small"))
    for tick in range(2):
        dying.write(make_step_example(tick, size=(8, 8)))
    dying.abandon()
    shutil.copytree(root / "recovery", root / "recovered")
    for kind, path in found.items():
        whole = root / "recovered" if kind == "recovery" else path
        read_everything.READERS[READER[kind.removesuffix("-arm")]](target(kind, whole))
    return found


def target(kind: str, folder: Path) -> Path:
    return folder / "small.json" if "flat" in kind else folder


def is_read(kind: str, folder: Path) -> bool:
    """Whether it was read without an error; anything but an `EpisodeError`, or slowness, fails the test."""
    started = time.monotonic()
    refused = ""
    try:
        read_everything.READERS[READER[kind.removesuffix("-arm")]](target(kind, folder))
    except EpisodeError as error:
        refused = error.message
    assert time.monotonic() - started < SECONDS
    return not refused


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
