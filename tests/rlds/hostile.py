"""What is large or has no end, in the place of files that are read: each a name, a kind, a way to spoil, an answer."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from continuonbrain.rlds.reader import MAX_FRAME_PIXELS
from continuonbrain.rlds.stepline import seal_step_object
from continuonbrain.rlds.tfrecord import encode_example, frame_record, masked_crc32c
from continuonbrain.rlds.writer import BLOB_FILE, STEPS_FILE
from tests.rlds.valid_examples import jpeg


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
    data = bytearray(jpeg((64, 64)))
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
LONG = {case for case in PATIENT if not case.startswith("folder")}
