"""TFRecord framing and tf.train.Example, without TensorFlow and without protobuf.

Framing (tensorflow/core/lib/io/record_writer.h): little-endian uint64 length, uint32 masked CRC32C of those
eight bytes, the data, uint32 masked CRC32C of the data. The mask is `rotate_right(crc, 15) + 0xa282ead8`.

Example (tensorflow/core/example/{example,feature}.proto): a map from name to one of bytes_list (1),
float_list (2), int64_list (3). Numbers are written packed. `example_view.py` reads Examples.

Everything read here may be arbitrary bytes. Lengths are checked against what is really there before anything
is allocated, and the only exception is `CorruptRecordError`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import google_crc32c
import numpy as np
from numpy.typing import ArrayLike, NDArray

from continuonbrain.rlds.errors import CorruptRecordError

HEADER_BYTES = 12
FOOTER_BYTES = 4
FRAMING_BYTES = HEADER_BYTES + FOOTER_BYTES
MAX_RECORD_BYTES = 1 << 30  # a longer record is a wrong length whose CRC happens to fit, or not ours to load

FeatureIn: TypeAlias = "Sequence[bytes] | ArrayLike"

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_LENGTH = 2  # the wire type of everything that is written here


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
