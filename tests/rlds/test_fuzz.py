"""Every reader, given arbitrary bytes and damaged files: a typed error, never another one, a hang, or memory.

Damage that a CRC would catch is made behind it (records are framed and lines sealed anew), so that what lies inside is
reached. What costs memory or time by its size is in `test_hostile.py`.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from continuonbrain.rlds.tfrecord import crc32c, frame_record
from tests.rlds.valid_examples import KINDS, files_in, is_read


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
        name = draw.draw(st.sampled_from(files_in(valid[kind])))
        with damaged(kind, name, draw.draw(st.binary(max_size=200))) as folder:
            is_read(kind, folder)

    run()


@pytest.mark.parametrize("kind", [*KINDS, "tfds-arm"])
def test_damaged_files_are_refused_or_read(
    kind: str, valid: dict[str, Path], damaged: Callable[..., Any]
) -> None:
    @given(st.data())
    @settings(max_examples=25 if "tub" in kind else 60, suppress_health_check=SLOW)
    def run(draw: st.DataObject) -> None:
        name = draw.draw(st.sampled_from(files_in(valid[kind])))
        data = (valid[kind] / name).read_bytes()
        with damaged(kind, name, _damage(data, draw.draw(_byte_damage))) as folder:
            is_read(kind, folder)

    run()


@pytest.mark.parametrize("kind", [*KINDS, "tfds-arm"])
def test_damage_behind_the_checksums_is_refused_or_read(
    kind: str, valid: dict[str, Path], damaged: Callable[..., Any]
) -> None:
    @given(st.data())
    @settings(max_examples=40 if "tub" in kind else 120, suppress_health_check=SLOW)
    def run(draw: st.DataObject) -> None:
        name = draw.draw(st.sampled_from(files_in(valid[kind])))
        data = (valid[kind] / name).read_bytes()
        with damaged(kind, name, _behind_the_crc(name, data, draw.draw)) as folder:
            is_read(kind, folder)

    run()
