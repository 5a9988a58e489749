from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError
from continuonbrain.rlds.example_view import Record, index_records
from continuonbrain.rlds.tfrecord import (
    encode_example,
    frame_record,
    masked_crc32c,
    read_record,
)

Decode = Callable[[bytes], dict[str, Any]]


@pytest.fixture(scope="session")
def decode(
    tmp_path_factory: pytest.TempPathFactory, examples: Callable[[Path], Iterator[dict[str, Any]]]
) -> Decode:
    """decode(data) -> the values of the one Example in `data`."""
    file = tmp_path_factory.mktemp("one") / "example.tfrecord"

    def run(data: bytes) -> dict[str, Any]:
        file.write_bytes(frame_record(data))
        (example,) = examples(file)
        return example

    return run


def _read_all(path: Path) -> list[Record]:
    return [Record(path, offset) for offset in index_records(path)]


int64 = st.integers(-(1 << 63), (1 << 63) - 1)
feature = st.one_of(
    st.lists(st.binary(max_size=20), min_size=1, max_size=5),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=9).map(
        lambda v: np.array(v, np.float32)
    ),
    st.lists(int64, max_size=9).map(lambda v: np.array(v, np.int64)),
)


def test_masked_crc_and_framing_are_those_of_tensorflow() -> None:
    # rfc3720 B.4: CRC32C of 32 zero bytes is 0x8a9136aa; the mask is TensorFlow's.
    crc = 0x8A9136AA
    assert masked_crc32c(bytes(32)) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    record = frame_record(b"abc")
    assert record[:8] == struct.pack("<Q", 3)
    assert record[12:15] == b"abc"
    assert len(record) == 3 + 16


def test_example_bytes_are_those_of_protobuf() -> None:
    # protoc --encode=tensorflow.Example of features{feature{key:"a" value{int64_list{value:[1,300]}}}}
    assert encode_example({"a": [1, 300]}).hex() == "0a0e0a0c0a01611207" + "1a050a0301ac02"


@given(st.dictionaries(st.text(max_size=8), feature, max_size=5))
def test_example_round_trips(decode: Decode, features: dict[str, object]) -> None:
    decoded = decode(encode_example(features))  # type: ignore[arg-type]
    assert decoded.keys() == features.keys()
    for name, value in features.items():
        if isinstance(value, list):
            assert decoded[name] == value
        else:
            np.testing.assert_array_equal(np.asarray(decoded[name]), np.asarray(value))


def test_unpacked_numbers_are_read_too(decode: Decode) -> None:
    def field(number: int, payload: bytes) -> bytes:
        return bytes([number << 3 | 2, len(payload)]) + payload

    floats = field(2, b"\x0d" + struct.pack("<f", 1.5) + b"\x0d" + struct.pack("<f", -2.0))
    numbers = field(3, b"\x08\x07" + b"\x08\xac\x02")
    data = b"".join(
        field(1, field(1, name) + field(2, value)) for name, value in ((b"f", floats), (b"i", numbers))
    )
    decoded = decode(field(1, data))
    assert list(decoded["f"]) == [1.5, -2.0]
    assert list(decoded["i"]) == [7, 300]


@given(st.binary(max_size=200))
def test_decoding_arbitrary_bytes_gives_a_value_or_a_typed_error(decode: Decode, data: bytes) -> None:
    with contextlib.suppress(EpisodeError):
        decode(data)


@given(st.dictionaries(st.text(max_size=5), feature, min_size=1, max_size=3), st.data())
def test_decoding_an_altered_example_gives_a_value_or_a_typed_error(
    decode: Decode, features: dict[str, object], data: st.DataObject
) -> None:
    good = bytearray(encode_example(features))  # type: ignore[arg-type]
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(EpisodeError):
        decode(bytes(good[: data.draw(st.integers(0, len(good)))]))


@given(st.binary(max_size=100))
def test_reading_a_record_from_arbitrary_bytes_gives_a_typed_error(data: bytes) -> None:
    with pytest.raises(CorruptRecordError):
        read_record(io.BytesIO(data), path=None, offset=0, size=len(data))


def test_a_length_of_an_exabyte_allocates_nothing(tmp_path: Path) -> None:
    length = struct.pack("<Q", 1 << 60)
    path = tmp_path / "huge.tfrecord"
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"x")
    with pytest.raises(CorruptRecordError, match="too long"):
        _read_all(path)


def test_every_flipped_bit_and_every_truncation_of_a_file_is_detected(tmp_path: Path) -> None:
    good = frame_record(b"first") + frame_record(b"")
    path = tmp_path / "file.tfrecord"
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(CorruptRecordError, match=r"file\.tfrecord"):
            _read_all(path)
    whole_ends = {0, len(frame_record(b"first"))}
    for end in set(range(len(good))) - whole_ends:
        path.write_bytes(good[:end])
        with pytest.raises(CorruptRecordError) as caught:
            _read_all(path)
        assert caught.value.torn
