"""TFRecord framing and tf.train.Example, without TensorFlow and without protobuf.

Framing (tensorflow/core/lib/io/record_writer.h): little-endian uint64 length, uint32 masked CRC32C of those
eight bytes, the data, uint32 masked CRC32C of the data. The mask is `rotate_right(crc, 15) + 0xa282ead8`.

Example (tensorflow/core/example/{example,feature}.proto): a map from name to one of bytes_list (1),
float_list (2), int64_list (3). Numbers are written packed; packed and unpacked are read.

Everything read here may be arbitrary bytes. Lengths are checked against what is really there before anything
is allocated, and the only exception is `CorruptRecordError`.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import google_crc32c
import numpy as np
from numpy.typing import ArrayLike, NDArray

from continuonbrain.rlds.errors import CorruptRecordError
from continuonbrain.rlds.files import open_regular

HEADER_BYTES = 12
FOOTER_BYTES = 4
FRAMING_BYTES = HEADER_BYTES + FOOTER_BYTES
MAX_RECORD_BYTES = 1 << 30  # a longer record is a wrong length whose CRC happens to fit, or not ours to load

FeatureIn: TypeAlias = "Sequence[bytes] | ArrayLike"
FeatureOut: TypeAlias = "list[bytes] | NDArray[np.float32] | NDArray[np.int64]"

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`."""
    return int(google_crc32c.value(data))


def masked_crc32c(data: bytes) -> int:
    """The CRC as TFRecord stores it: masked, because a CRC of data that holds CRCs is weak."""
    return masked_of(crc32c(data))


def masked_of(crc: int) -> int:
    """The masked form of a CRC-32C."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


# ---------------------------------------------------------------------------------------------- framing


def frame_record(data: bytes) -> bytes:
    """`data` as one whole TFRecord, ready to be appended to a file in a single write."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)))
    )


def read_header(file: BinaryIO, *, path: Path | None, offset: int, size: int) -> int:
    """The length of the data of the record that starts at `offset`; the file then stands at the data.

    Args and Raises: as `read_record`; the data and their CRC are not read.
    """
    if not 0 <= offset < size:
        raise CorruptRecordError("no record starts here", file=path, offset=offset, torn=True)
    file.seek(offset)
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        raise CorruptRecordError("record header is cut short", file=path, offset=offset, torn=True)
    length = int.from_bytes(header[:8], "little")
    if struct.unpack_from("<I", header, 8)[0] != masked_crc32c(header[:8]):
        raise CorruptRecordError("CRC of the record length does not match", file=path, offset=offset)
    if length > MAX_RECORD_BYTES:
        raise CorruptRecordError(f"record of {length} bytes is too long", file=path, offset=offset)
    if offset + FRAMING_BYTES + length > size:
        raise CorruptRecordError("record is cut short", file=path, offset=offset, torn=True)
    return length


def read_record(
    file: BinaryIO, *, path: Path | None, offset: int, size: int, limit: int = MAX_RECORD_BYTES
) -> bytes:
    """The data of the record that starts at `offset`.

    Args:
        file: opened for reading in binary mode.
        path: only for the error.
        offset: bytes from the start of the file.
        size: bytes of the whole file: bounds what is read, so that a wrong length allocates nothing.
        limit: a longer record is refused before it is read.

    Raises:
        CorruptRecordError: torn or altered record; `torn` tells which.
    """
    length = read_header(file, path=path, offset=offset, size=size)
    if length > limit:
        raise CorruptRecordError(f"record of {length} bytes is too long", file=path, offset=offset)
    data = file.read(length)
    footer = file.read(FOOTER_BYTES)
    if len(data) < length or len(footer) < FOOTER_BYTES:
        raise CorruptRecordError("record is cut short", file=path, offset=offset, torn=True)
    if struct.unpack("<I", footer)[0] != masked_crc32c(data):
        raise CorruptRecordError("CRC of the record data does not match", file=path, offset=offset)
    return data


def read_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every record of a TFRecord file as (offset, data), streaming.

    Raises:
        CorruptRecordError: at the first record that is torn or altered.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            data = read_record(file, path=path, offset=offset, size=size)
            yield offset, data
            offset += FRAMING_BYTES + len(data)


# ---------------------------------------------------------------------------------------------- Example


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH]) + _varint(len(payload)) + payload


def _encode_feature(name: str, value: FeatureIn) -> bytes:
    if isinstance(value, list | tuple) and value and isinstance(value[0], bytes | bytearray | memoryview):
        return _field(_BYTES_LIST, b"".join(_field(1, bytes(item)) for item in value))
    numbers: NDArray[Any] = np.asarray(value).ravel()
    if numbers.dtype.kind == "f" and numbers.size:
        return _field(_FLOAT_LIST, _field(1, numbers.astype("<f4").tobytes()))
    if numbers.dtype.kind in "biu" or numbers.size == 0:
        if numbers.size == 0 or (int(numbers.min()) >= 0 and int(numbers.max()) < 128):
            packed = numbers.astype(np.uint8).tobytes()  # one byte each: flags and small counts
        else:
            packed = b"".join(_varint(int(item)) for item in numbers)
        return _field(_INT64_LIST, _field(1, packed))
    raise TypeError(f"feature {name!r}: bytes, floats or integers are possible, not {numbers.dtype}")


def encode_example(features: Mapping[str, FeatureIn]) -> bytes:
    """A serialised tf.train.Example.

    Args:
        features: name -> list of bytes, or numbers of any shape (flattened row-major; floats become
            float32, integers and booleans int64). An empty list becomes an empty int64_list.
    """
    entries = []
    for name in sorted(features):
        entry = _field(1, name.encode()) + _field(2, _encode_feature(name, features[name]))
        entries.append(_field(1, entry))
    return _field(1, b"".join(entries))


def _bad(problem: str, offset: int) -> CorruptRecordError:
    return CorruptRecordError(f"not a tf.train.Example: {problem}", file=None, offset=offset)


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _bad("a number is cut short", at)
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise _bad("a number is longer than 10 bytes", at)


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start, end) of each field; for a varint, `start` is its value."""
    at = start
    while at < end:
        tag, at = _read_varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise _bad("field number 0", at)
        if wire == _VARINT:
            value, at = _read_varint(data, at, end)
            yield number, wire, value, at
            continue
        if wire == _LENGTH:
            length, at = _read_varint(data, at, end)
        elif wire == _FIXED64:
            length = 8
        elif wire == _FIXED32:
            length = 4
        else:
            raise _bad(f"wire type {wire}", at)
        if length > end - at:
            raise _bad(f"a field of {length} bytes is cut short", at)
        yield number, wire, at, at + length
        at += length


def unpack_varints(data: bytes, start: int, end: int) -> NDArray[np.int64]:
    """Packed varints, vectorised: a Python loop over a million steps' flags would be the slow part."""
    raw = np.frombuffer(data, np.uint8, end - start, start)
    if raw.size == 0:
        return np.zeros(0, np.int64)
    if raw[-1] >= 128:
        raise _bad("a packed number is cut short", end)
    stops = np.flatnonzero(raw < 128)
    starts = np.concatenate(([0], stops[:-1] + 1))
    widths = stops - starts + 1
    if int(widths.max()) > 10:
        raise _bad("a number is longer than 10 bytes", start)
    if int(widths.max()) == 1:
        return raw.astype(np.int64)
    shifts = (np.arange(raw.size) - np.repeat(starts, widths)).astype(np.uint64) * np.uint64(7)
    parts = (raw & 127).astype(np.uint64) << shifts
    return np.bitwise_or.reduceat(parts, starts).astype(np.int64)


def _decode_feature(data: bytes, start: int, end: int) -> FeatureOut:
    value: FeatureOut = np.zeros(0, np.int64)
    for kind, wire, lo, hi in _fields(data, start, end):
        if kind not in (_BYTES_LIST, _FLOAT_LIST, _INT64_LIST):
            continue
        if wire != _LENGTH:
            raise _bad(f"list with wire type {wire}", hi)
        if kind == _BYTES_LIST:
            items: list[bytes] = []
            for number, inner, a, b in _fields(data, lo, hi):
                if number == 1:
                    if inner != _LENGTH:
                        raise _bad(f"bytes with wire type {inner}", b)
                    items.append(data[a:b])
            value = items
        elif kind == _FLOAT_LIST:
            packed = bytearray()
            for number, inner, a, b in _fields(data, lo, hi):
                if number == 1:
                    if inner not in (_LENGTH, _FIXED32) or (b - a) % 4:
                        raise _bad("floats that are not a multiple of four bytes", b)
                    packed += data[a:b]
            value = np.frombuffer(packed, "<f4").astype(np.float32)
        else:
            runs: list[NDArray[np.int64]] = []
            single = array("Q")  # unpacked numbers: as machine words, not as a Python object each
            for number, inner, a, b in _fields(data, lo, hi):
                if number == 1:
                    if inner == _LENGTH:
                        runs.append(np.array(single, np.uint64).astype(np.int64))
                        runs.append(unpack_varints(data, a, b))
                        single = array("Q")
                    elif inner == _VARINT:
                        single.append(a)
                    else:
                        raise _bad(f"integers with wire type {inner}", b)
            runs.append(np.array(single, np.uint64).astype(np.int64))
            value = np.concatenate(runs)
    return value


def decode_example(data: bytes) -> dict[str, FeatureOut]:
    """The features of a serialised tf.train.Example.

    Returns:
        name -> list of bytes, float32 array or int64 array, each flat; a feature without a list is an empty
        int64 array, as an empty list of any kind is in the wire format.

    Raises:
        CorruptRecordError: anything that is not an Example (`offset` is inside `data`).
    """
    out: dict[str, FeatureOut] = {}
    for number, wire, lo, hi in _fields(data, 0, len(data)):
        if number != 1:
            continue
        if wire != _LENGTH:
            raise _bad(f"features with wire type {wire}", hi)
        for inner, inner_wire, a, b in _fields(data, lo, hi):
            if inner != 1:
                continue
            if inner_wire != _LENGTH:
                raise _bad(f"map entry with wire type {inner_wire}", b)
            name, feature = "", (0, 0)
            for part, part_wire, x, y in _fields(data, a, b):
                if part not in (1, 2):
                    continue
                if part_wire != _LENGTH:
                    raise _bad(f"map entry field with wire type {part_wire}", y)
                if part == 1:
                    try:
                        name = data[x:y].decode()
                    except UnicodeDecodeError as error:
                        raise _bad("a feature name is not UTF-8", x) from error
                else:
                    feature = (x, y)
            out[name] = _decode_feature(data, *feature)
    return out
