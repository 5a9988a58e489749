"""Every reader, given arbitrary bytes and damaged files: a typed error, never another one, a hang, or memory.

Damage that a CRC would catch is made behind it (records are framed and lines sealed anew), so that what lies inside is
reached. What costs memory or time by its size is tried in a process of its own with 64 MiB to spend.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.flat import export_flat
from continuonbrain.rlds.reader import MAX_FRAME_PIXELS, open_episode
from continuonbrain.rlds.stepline import seal_step_object
from continuonbrain.rlds.tfds import export_step_records, export_tfds
from continuonbrain.rlds.tfrecord import crc32c, encode_example, frame_record, masked_crc32c
from continuonbrain.rlds.writer import BLOB_FILE, STEPS_FILE, EpisodeWriter

sys.path.insert(0, str(Path(__file__).parent))
import read_everything

MEMORY = 64 << 20
SECONDS = 20.0
PROGRAM = Path(__file__).parent / "read_everything.py"
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


def _jpeg(size: tuple[int, int] = (160, 120)) -> bytes:
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


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small valid example of each kind."""
    root = tmp_path_factory.mktemp("valid")
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
        (root / "tub1" / f"{index}.jpg").write_bytes(_jpeg())
        (root / "tub1" / f"record_{index}.json").write_text(json.dumps(record | {"milliseconds": index * 50}))
        (root / "tub2" / "images" / f"{index}.jpg").write_bytes(_jpeg())
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
        read_everything.READERS[READER[kind.removesuffix("-arm")]](_target(kind, whole))
    return found


def _target(kind: str, folder: Path) -> Path:
    return folder / "small.json" if "flat" in kind else folder


def _read(kind: str, folder: Path) -> bool:
    """Whether it was read without an error; anything but an `EpisodeError`, or slowness, fails the test."""
    started = time.monotonic()
    refused = ""
    try:
        read_everything.READERS[READER[kind.removesuffix("-arm")]](_target(kind, folder))
    except EpisodeError as error:
        refused = error.message
    assert time.monotonic() - started < SECONDS
    return not refused


@pytest.fixture
def damaged(tmp_path: Path, valid: dict[str, Path]) -> Callable[..., Any]:
    """damaged(kind, file, data): a copy of the valid example with one file's content replaced, as a context."""

    @contextlib.contextmanager
    def run(kind: str, name: str, data: bytes) -> Iterator[Path]:
        folder = tmp_path / kind
        if kind == "recovery":  # which changes what it is given
            shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            shutil.copytree(valid[kind], folder)
        file = folder / name
        kept = file.read_bytes()
        file.write_bytes(data)
        try:
            yield folder
        finally:
            if folder.exists():
                file.write_bytes(kept)

    return run


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------- damage

_ODD = [
    b"",
    b"\x00",
    b"\xff" * 10,
    b"\x80",
    b"\n",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"-1",
    b"1e999",
    b"9" * 500,
]
_ODD += [
    b"null",
    b"NaN",
    b'"\\ud800"',
    b"\xed\xa0\x80",
    b"[" * 2000,
    b'{"a":' * 500,
    b"\x0a\xff\xff\xff\xff\x0f",
]
_ODD_JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1 << 31, 1 << 63, 1 << 64, 10**400, -(10**30), 1e308, -0.0, 1e-320]),
    st.sampled_from(
        ["", "\ud800", "..", "../../x", "a\0b", "/etc/passwd", "x" * 300, "NaN", "1" * 30, "-1", "𝟙"]
    ),
    st.sampled_from([[], {}, [[]], [None], [1, "a"], {"a": {}}, [10**400], {"": ""}, [1e308, 1e308]]),
)
_byte_damage = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "put", "over", "twice"]), st.floats(0, 1), st.sampled_from(_ODD)
    ),
    min_size=1,
    max_size=4,
)


def _damage(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for what, where, odd in changes:
        at = int(where * len(data))
        if what == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << (len(odd) + at) % 8)]) + data[at + 1 :]
        elif what == "cut":
            data = data[:at]
        elif what == "put":
            data = data[:at] + odd + data[at:]
        elif what == "over":
            data = data[:at] + odd + data[at + len(odd) :]
        elif what == "twice":
            data = data[:at] + data[at // 2 :]
    return data


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _nodes(inner, (*path, key))


def _replaced(value: Any, draw: Callable[..., Any]) -> Any:
    """One part of a JSON value replaced, removed or renamed."""
    path = draw(st.sampled_from(sorted(_nodes(value), key=repr)))
    what = draw(st.sampled_from(["replace", "replace", "remove", "rename"]))
    if not path:
        return draw(_ODD_JSON)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if what == "replace" or isinstance(holder, list):
        holder[path[-1]] = draw(_ODD_JSON)
    else:
        inner = holder.pop(path[-1])
        if what == "rename":
            holder[draw(st.sampled_from(["", "x", "\ud800", "a/b"]))] = inner
    return value


def _behind_the_crc(name: str, data: bytes, draw: Callable[..., Any]) -> bytes:
    """Damage that every checksum agrees with."""
    if "tfrecord" in name:
        payloads = []
        at = 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            payloads.append(data[at + 12 : at + 12 + length])
            at += 16 + length
        number = draw(st.integers(0, len(payloads) - 1))
        payloads[number] = _damage(payloads[number], draw(_byte_damage))
        return b"".join(map(frame_record, payloads))
    if name.endswith((".jsonl", ".catalog", "manifest.json")):
        lines = data.splitlines()
        number = draw(st.integers(0, len(lines) - 1))
        text = json.dumps(_replaced(json.loads(lines[number]), draw), separators=(",", ":")).encode()
        seal = re.search(rb'"crc32c":"[0-9a-f]{8}"\}\}\Z', text)
        if seal is not None:
            text = b'%s%08x"}}' % (text[: seal.start() + 10], crc32c(text[: seal.start() + 10]))
        lines[number] = text
        return b"\n".join(lines) + b"\n"
    if name.endswith(".json"):
        return json.dumps(_replaced(json.loads(data), draw)).encode()
    return _damage(data, draw(_byte_damage))


SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.parametrize("kind", [*KINDS, "tfds-arm"])
def test_arbitrary_bytes_in_any_file_are_refused_or_read(
    kind: str, valid: dict[str, Path], damaged: Callable[..., Any]
) -> None:
    @given(st.data())
    @settings(max_examples=15 if "tub" in kind else 25, suppress_health_check=SLOW)
    def run(draw: st.DataObject) -> None:
        name = draw.draw(st.sampled_from(_files(valid[kind])))
        with damaged(kind, name, draw.draw(st.binary(max_size=200))) as folder:
            _read(kind, folder)

    run()


@pytest.mark.parametrize("kind", [*KINDS, "tfds-arm"])
def test_damaged_files_are_refused_or_read(
    kind: str, valid: dict[str, Path], damaged: Callable[..., Any]
) -> None:
    @given(st.data())
    @settings(max_examples=25 if "tub" in kind else 60, suppress_health_check=SLOW)
    def run(draw: st.DataObject) -> None:
        name = draw.draw(st.sampled_from(_files(valid[kind])))
        data = (valid[kind] / name).read_bytes()
        with damaged(kind, name, _damage(data, draw.draw(_byte_damage))) as folder:
            _read(kind, folder)

    run()


@pytest.mark.parametrize("kind", [*KINDS, "tfds-arm"])
def test_damage_behind_the_checksums_is_refused_or_read(
    kind: str, valid: dict[str, Path], damaged: Callable[..., Any]
) -> None:
    @given(st.data())
    @settings(max_examples=40 if "tub" in kind else 120, suppress_health_check=SLOW)
    def run(draw: st.DataObject) -> None:
        name = draw.draw(st.sampled_from(_files(valid[kind])))
        data = (valid[kind] / name).read_bytes()
        with damaged(kind, name, _behind_the_crc(name, data, draw.draw)) as folder:
            _read(kind, folder)

    run()


# ------------------------------------------------------------------------------- what is large or has no end


def _sparse_record(path: Path, length: int) -> None:
    """A record whose length has the right CRC, whose data are a hole, and whose CRC is wrong."""
    head = struct.pack("<Q", length)
    path.write_bytes(head + struct.pack("<I", masked_crc32c(head)))
    os.truncate(path, length + 16)


def _png_with_texts() -> bytes:
    info = PngImagePlugin.PngInfo()
    for number in range(70):
        info.add_text(f"k{number}", "x" * 1_000_000, zip=True)
    out = io.BytesIO()
    Image.new("RGB", (160, 120)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def _large_jpeg(promised: tuple[int, int]) -> bytes:
    data = bytearray(_jpeg((64, 64)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", *promised)
    return bytes(data)


def _progressive() -> bytes:
    """The largest frame that is read, in the form that costs most: its coefficients are all kept."""
    out = io.BytesIO()
    width = 2048
    noise = np.random.default_rng(0).integers(
        0, 256, (MAX_FRAME_PIXELS // width // 16, width // 16, 3), np.uint8
    )
    image = Image.fromarray(noise).resize((width, MAX_FRAME_PIXELS // width))
    image.save(out, "JPEG", progressive=True, subsampling=0, quality=50)
    return out.getvalue()


def _with_jpeg(folder: Path, jpeg: bytes) -> None:
    (folder / BLOB_FILE).write_bytes(frame_record(jpeg))
    steps = folder / STEPS_FILE
    lines = steps.read_bytes().splitlines()[:1]
    value = json.loads(lines[0])
    value["observation"]["frame"] |= {"offset": 0, "length": len(jpeg) + 16}
    del value["step_metadata"]["crc32c"]
    steps.write_text(json.dumps(value) + "\n")
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata["provenance"]["recording"]
    (folder / "metadata.json").write_text(json.dumps(metadata))


def _shard(folder: Path) -> Path:
    (found,) = folder.glob("*tfrecord*")
    return found


def _example(folder: Path, **features: Any) -> None:
    _shard(folder).write_bytes(
        frame_record(encode_example({f"steps/{key}": value for key, value in features.items()}))
    )


def _many_items(folder: Path, item: bytes, count: int) -> None:
    """A list of `count` items in one feature, written without making them."""
    body = item * count

    def field(number: int, payload: bytes) -> bytes:
        size, out = len(payload), bytearray()
        while size > 127:
            out.append(size & 127 | 128)
            size >>= 7
        return bytes([number << 3 | 2]) + bytes([*out, size]) + payload

    entry = field(1, b"steps/text") + field(2, field(1, body))
    _shard(folder).write_bytes(frame_record(field(1, field(1, entry))))


def _deep(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"[" * 900_000)


def _wide(folder: Path, name: str, head: bytes = b"[", size: int = 1 << 20) -> None:
    (folder / name).write_bytes(head + b"{}," * ((size - len(head)) // 3 - 1) + b"{}")


def _hole(file: Path) -> None:
    file.write_bytes(b"")
    os.truncate(file, 1 << 28)


def _endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


HOSTILE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "folder: a gigabyte promised, and a hole": (
        "folder",
        lambda f: _sparse_record(f / BLOB_FILE, 1 << 30),
        "refused",
    ),
    "folder: metadata nested": ("folder", lambda f: _deep(f, "metadata.json"), "refused"),
    "folder: metadata wide": ("folder", lambda f: _wide(f, "metadata.json"), "refused"),
    "folder: a line nested": ("folder", lambda f: _deep(f, STEPS_FILE), "refused"),
    "folder: nothing but lines": (
        "folder",
        lambda f: (f / STEPS_FILE).write_bytes(b"\n" * (8 << 20)),
        "refused",
    ),
    "folder: a line without an end": ("folder", lambda f: _hole(f / STEPS_FILE), "refused"),
    "folder: steps without an end": ("folder", lambda f: _endless(f / STEPS_FILE), "refused"),
    "folder: a promised JPEG": ("folder", lambda f: _with_jpeg(f, _large_jpeg((65500, 65500))), "refused"),
    "folder: a PNG of texts": ("folder", lambda f: _with_jpeg(f, _png_with_texts()), "refused"),
    "folder: the largest JPEG": ("folder", lambda f: _with_jpeg(f, _progressive()), "ok"),
    "flat: nested": ("flat", lambda f: _deep(f, "small.json"), "refused"),
    "flat: wide": (
        "flat",
        lambda f: _wide(f, "small.json", b'{"metadata":{},"steps":[', 24 << 20),
        "refused",
    ),
    "flat: a text without an end": (
        "flat",
        lambda f: (f / "small.json").write_bytes(b'{"' + b"x" * (32 << 20)),
        "refused",
    ),
    "flat: a hole": ("flat", lambda f: _hole(f / "small.json"), "refused"),
    "flat: a picture without an end": (
        "flat",
        lambda f: _endless(f / "small.frames" / "000000.jpg"),
        "refused",
    ),
    "steps: more promised than there is": (
        "steps",
        lambda f: _sparse_record(f / "small.tfrecord", 1 << 28),
        "refused",
    ),
    "steps: without an end": ("steps", lambda f: _endless(f / "small.tfrecord"), "refused"),
    "steps: JSON nested": (
        "steps",
        lambda f: (f / "small.tfrecord").write_bytes(
            frame_record(encode_example({"observation": [b"[" * 900_000]}))
        ),
        "refused",
    ),
    "steps: JSON wide": (
        "steps",
        lambda f: (f / "small.tfrecord").write_bytes(
            frame_record(encode_example({"observation": [b"[" + b"{}," * 349_000 + b"{}]"]}))
        ),
        "",
    ),
    "tfds: a gigabyte promised, and a hole": (
        "tfds",
        lambda f: _sparse_record(_shard(f), 1 << 30),
        "refused",
    ),
    "tfds: features nested": ("tfds", lambda f: _deep(f, "features.json"), "refused"),
    "tfds: features wide": ("tfds", lambda f: _wide(f, "features.json"), "refused"),
    "tfds: info wide": ("tfds", lambda f: _wide(f, "dataset_info.json", size=2 << 20), "refused"),
    "tfds: info a hole": ("tfds", lambda f: _hole(f / "dataset_info.json"), "refused"),
    "tfds: shards beyond number": (
        "tfds",
        lambda f: (f / "dataset_info.json").write_text(
            '{"splits":[{"name":"a","numShards":"999999999999999999"}]}'
        ),
        "refused",
    ),
    "tfds: a list of ten million numbers": (
        "tfds-arm",
        lambda f: _example(f, is_last=np.ones(10_000_000, np.uint8), text=[b"a"]),
        "refused",
    ),
    "tfds: ten million steps": (
        "tfds-arm",
        lambda f: _example(f, is_last=np.ones(10_000_000, np.uint8)),
        "ok",
    ),
    "tfds: three million texts": ("tfds-arm", lambda f: _many_items(f, b"\x0a\x00", 3_000_000), "refused"),
    "tfds: thirty million rows": (
        "tfds-arm",
        lambda f: _example(
            f,
            **{
                "list/ragged_row_lengths_0": np.zeros(30_000_000, np.uint8),
                "list/ragged_flat_values": [1],
            },
        ),
        "refused",
    ),
    "tfds: three hundred thousand features": (
        "tfds-arm",
        lambda f: _shard(f).write_bytes(
            frame_record(encode_example({f"k{number}": [] for number in range(300_000)}))
        ),
        "refused",
    ),
    "tfds: a deflated gigabyte": (
        "tfds-arm",
        lambda f: _example(f, packed=[zlib.compress(bytes(1 << 28), 9)], is_last=[1]),
        "refused",
    ),
    "tfds: a PNG of texts": (
        "tfds-arm",
        lambda f: _example(f, image=[_png_with_texts()], is_last=[1]),
        "refused",
    ),
    "tfds: a shape beyond number": (
        "tfds-arm",
        lambda f: _example(f, **{"any/value": [b"1"], "any/shape": [1 << 62, 1 << 62], "is_last": [1]}),
        "refused",
    ),
    "tub2: a manifest that is a hole": ("tub2", lambda f: _hole(f / "manifest.json"), "ok"),
    "tub2: a catalog that is a hole": ("tub2", lambda f: _hole(f / "catalog_0.catalog"), "refused"),
    "tub2: pictures that are a hole": (
        "tub2",
        lambda f: [_hole(p) for p in (f / "images").iterdir()],
        "refused",
    ),
    "tub2: pictures without an end": (
        "tub2",
        lambda f: [_endless(p) for p in (f / "images").iterdir()],
        "refused",
    ),
    "tub1: records without an end": ("tub1", lambda f: [_endless(p) for p in f.glob("record*")], "refused"),
    "tub1: records that are a hole": ("tub1", lambda f: [_hole(p) for p in f.glob("record*")], "refused"),
}


def _many_steps(folder: Path, count: int, *, frame: str = "") -> None:
    """`count` steps of the fewest bytes in an episode that somebody else wrote; their frames are `frame`."""
    line = f'{{"observation":{{{frame}}},"action":{{"command":[0,0],"source":""}},"is_terminal":false}}\n'
    with open(folder / STEPS_FILE, "w") as file:
        for _ in range(count // 1000):
            file.write(line * 1000)
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata["provenance"]["recording"]
    (folder / "metadata.json").write_text(json.dumps(metadata))


def _sealed_many(folder: Path, count: int, **changes: Any) -> None:
    """`count` sealed lines of one step, in an episode of our own."""
    value = json.loads((folder / STEPS_FILE).read_bytes().splitlines()[0])
    del value["step_metadata"]["crc32c"]
    value["observation"]["frame"] |= changes
    line = seal_step_object(value)
    with open(folder / STEPS_FILE, "wb") as file:
        for _ in range(count // 1000):
            file.write(line * 1000)


def _overlapping(folder: Path) -> None:
    """Frames that each promise ten megabytes, their lengths whole and their data not, a few bytes behind each other."""
    size, length, count = 12 << 20, 10 << 20, 5_000
    head = struct.pack("<Q", length)
    head += struct.pack("<I", masked_crc32c(head))
    (folder / BLOB_FILE).write_bytes((head * count).ljust(size, b"\0"))
    value = json.loads((folder / STEPS_FILE).read_bytes().splitlines()[0])
    del value["step_metadata"]["crc32c"]
    with open(folder / STEPS_FILE, "wb") as file:
        for number in range(count):
            value["observation"]["frame"] |= {"offset": 12 * number, "length": length + 16}
            file.write(seal_step_object(value))


def _endless_blob(folder: Path) -> None:
    _endless(folder / BLOB_FILE)


_FRAME = '"frame":{"file":"blobs/000000.tfrecord","index":0,"offset":0,"length":9}'

# What costs an episode's folder its memory or time costs the doctor and recovery as well.
HOSTILE |= {
    "folder: a million short lines": ("folder", lambda f: _many_steps(f, 1_000_000), "refused"),
    "folder: garbage that looks like steps": (
        "folder",
        lambda f: (f / STEPS_FILE).write_bytes(b'"action"\n' * 50_000),
        "refused",
    ),
    "folder: lines with long unknown keys": (
        "folder",
        lambda f: (f / STEPS_FILE).write_bytes((b'{"%s":1}\n' % (b"action" * 150_000)) * 100),
        "refused",
    ),
    "folder: frames without an end": ("folder", _endless_blob, "refused"),
    "folder: frames that are a hole": ("folder", lambda f: _hole(f / BLOB_FILE), "refused"),
    "folder: a frame of hundreds of megabytes": (
        "folder",
        lambda f: (f / BLOB_FILE).write_bytes(frame_record(bytes(100 << 20))),
        "refused",
    ),
    "folder: frames of nothing": (
        "folder",
        lambda f: (f / BLOB_FILE).write_bytes(frame_record(b"") * 30_000),
        "refused",
    ),
}
HOSTILE |= {
    # The one step with the largest JPEG is the first of two: that it is not the last the doctor says, no reader does.
    case.replace("folder", "doctor", 1): ("doctor", spoil, "refused")
    for case, (kind, spoil, expected) in HOSTILE.items()
    if kind == "folder"
}
HOSTILE |= {
    case.replace("flat", "doctor, flat", 1): ("doctor-flat", spoil, "" if "picture" in case else expected)
    for case, (kind, spoil, expected) in HOSTILE.items()
    if kind == "flat"
}
HOSTILE |= {
    # `open_episode` is asked for each frame on its own: reading the same bytes ever again is its caller's wish.
    "doctor: frames that overlap": ("doctor", _overlapping, "refused"),
    "doctor: many steps of one frame": ("doctor", lambda f: _sealed_many(f, 20_000), "refused"),
}
HOSTILE |= {
    case.replace("doctor", "recovery", 1): ("recovery", lambda f, spoil=spoil: spoil(f / "small"), "")
    for case, (kind, spoil, _) in HOSTILE.items()
    if kind == "doctor"
}
HOSTILE |= {
    "doctor: half a million steps without a frame": (
        "doctor",
        lambda f: _many_steps(f, 500_000),
        "refused",
    ),
    "doctor: half a million steps whose frames are not there": (
        "doctor",
        lambda f: _many_steps(f, 500_000, frame=_FRAME),
        "refused",
    ),
    "recovery: half a million whole steps": (
        "recovery",
        lambda f: _sealed_many(f / "small", 500_000),
        "",
    ),
}
PATIENT = {case for case in HOSTILE if "million" in case and "tfds" not in case}
"""What costs a parse for each of its lines takes as long as its lines, and has twelve times as many seconds."""
_LONG = {case for case in PATIENT if not case.startswith("folder")}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.long if case in _LONG else ()) for case in HOSTILE]
)
def test_what_is_large_or_has_no_end_costs_neither_memory_nor_time(
    case: str, tmp_path: Path, valid: dict[str, Path]
) -> None:
    kind, spoil, expected = HOSTILE[case]
    reader = READER[kind.removesuffix("-arm")]
    folder = tmp_path / kind
    shutil.copytree(valid[kind], folder)
    shutil.copytree(valid[kind], tmp_path / f"small-{reader}")
    spoil(folder)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), reader, str(_target(kind, folder)), str(MEMORY)],
        capture_output=True,
        text=True,
        timeout=SECONDS * (12 if case in PATIENT else 1),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(expected), done.stdout


def test_the_limit_of_memory_is_one(tmp_path: Path) -> None:
    for size, whole in ((MEMORY // 2, True), (MEMORY + (1 << 20), False)):
        file = tmp_path / "file"
        file.write_bytes(b"")
        os.truncate(file, size)
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "greedy", str(file), str(MEMORY)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert ("MemoryError" in done.stderr, done.stdout == "ok\n") == (not whole, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_in_the_place_of_any_file_does_not_block(
    kind: str, tmp_path: Path, valid: dict[str, Path]
) -> None:
    for number, name in enumerate(_files(valid[kind])):
        folder = tmp_path / str(number)
        shutil.copytree(valid[kind], folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        _read(kind, folder)
