"""One tf.train.Example of any size, read where it lies: only what is asked for is ever expanded.

An episode of others is one record with every frame of every camera in it, and a list of a million small numbers
costs sixty times its bytes when all of it is unpacked at once. So the record's CRC is checked in pieces, its map is
walked without copying what is in it, and a list of numbers is unpacked from the piece that holds the wanted ones. What
wrong lengths promise is compared with what is there before anything is allocated.

Format: see `tfrecord.py`; numbers may be packed or not, in one run or in several.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError
from continuonbrain.rlds.files import open_regular
from continuonbrain.rlds.tfrecord import (
    FOOTER_BYTES,
    HEADER_BYTES,
    masked_of,
    read_header,
    unpack_varints,
)

BYTES, FLOAT, INT = "bytes", "float", "int"
KEPT_BYTES: Final = 8 << 20
"""A record up to this size is kept in memory; a longer one is read piece by piece from its file."""
MAX_FIELDS: Final = 1 << 20
"""Parts of one Example: frames, names and texts, each counted. Two hours at 30 Hz with four cameras fit in."""
MAX_FEATURES: Final = 1 << 13
"""Features of one Example: a dataset declares dozens, and each costs half a kilobyte however empty it is."""
MAX_NAME_BYTES: Final = 4096
MAX_VALUE_BYTES: Final = 16 << 20
"""One value of one step, unpacked: 1920x1080 in RGB fits in twice."""
_PIECE = 1 << 16
_KINDS = {1: BYTES, 2: FLOAT, 3: INT}


class Record:
    """The data of one TFRecord record whose CRC has been checked.

    Attributes:
        path, offset: where the record starts.
        length: bytes of its data.
    """

    def __init__(self, path: Path, offset: int) -> None:
        """Read and check the record; `CorruptRecordError` when it is torn or altered, OSError from the disk."""
        self.path, self.offset = path, offset
        self._data: bytes | None = None
        file = open_regular(path)
        try:
            size = os.fstat(file.fileno()).st_size
            self.length = read_header(file, path=path, offset=offset, size=size)
            crc = 0
            pieces: list[bytes] = []
            left = self.length
            while left:
                piece = file.read(min(left, 1 << 20))
                if not piece:
                    raise CorruptRecordError("record is cut short", file=path, offset=offset, torn=True)
                crc = int(google_crc32c.extend(crc, piece))
                left -= len(piece)
                if self.length <= KEPT_BYTES:
                    pieces.append(piece)
            footer = file.read(FOOTER_BYTES)
            if len(footer) < FOOTER_BYTES:
                raise CorruptRecordError("record is cut short", file=path, offset=offset, torn=True)
            if struct.unpack("<I", footer)[0] != masked_of(crc):
                raise CorruptRecordError("CRC of the record data does not match", file=path, offset=offset)
        except BaseException:
            file.close()
            raise
        if self.length <= KEPT_BYTES:
            self._data = b"".join(pieces)
            file.close()
        else:
            self._file = file

    def read(self, at: int, size: int) -> bytes:
        """`size` bytes from byte `at` of the data; fewer only where the data end."""
        if self._data is not None:
            return self._data[at : at + size]
        size = min(size, self.length - at)
        data = os.pread(self._file.fileno(), size, self.offset + HEADER_BYTES + at)
        if len(data) < size:
            raise CorruptRecordError(
                "the file became shorter while it was read", file=self.path, offset=self.offset, torn=True
            )
        return data

    def bad(self, problem: str, at: int) -> CorruptRecordError:
        """The error for what is wrong inside the Example, at byte `at` of the record's data."""
        return CorruptRecordError(
            f"not a tf.train.Example: {problem}", file=self.path, offset=self.offset + HEADER_BYTES + at
        )


def _varint(data: bytes, at: int) -> tuple[int, int] | None:
    """(value, end) of the varint at `at`; None when it is cut short or too long."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            return None
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
    return None


class _Walker:
    """Walks the fields of messages inside a record and counts them."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._left = MAX_FIELDS

    def fields(self, start: int, end: int) -> Iterator[tuple[int, bool, int, int]]:
        """(number, length-delimited?, start, end) of each field; of a number, the bytes that hold it."""
        bad = self._record.bad
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise bad(f"more than {MAX_FIELDS} parts", at)
            head = self._record.read(at, min(20, end - at))
            tag = _varint(head, 0)
            if tag is None or not tag[0] >> 3:
                raise bad("a field's tag is wrong", at)
            number, wire, after = tag[0] >> 3, tag[0] & 7, tag[1]
            if wire == 2:
                length = _varint(head, after)
                if length is None:
                    raise bad("a length is cut short", at)
                size, begin = length[0], at + length[1]
            elif wire == 0:
                value = _varint(head, after)
                if value is None:
                    raise bad("a number is cut short", at)
                size, begin = value[1] - after, at + after
            elif wire in (1, 5):
                size, begin = (8 if wire == 1 else 4), at + after
            else:
                raise bad(f"wire type {wire}", at)
            if size > end - begin:
                raise bad(f"a field of {size} bytes is cut short", at)
            yield number, wire == 2, begin, begin + size
            at = begin + size


class Column:
    """The list of one feature: bytes, float32 or int64.

    Attributes:
        name: the feature's key.
        kind: "bytes", "float" or "int"; an empty list is "int" whatever it was meant to be.
    """

    def __init__(self, record: Record, name: str, kind: str, runs: array[int]) -> None:
        self.name = name
        self.kind = kind
        self._record = record
        self._runs = runs  # start, end, start, end, ...: one item each, or runs of numbers
        self._ends: NDArray[np.int64] | None = None  # of each run: items up to its end
        self._pieces: dict[int, NDArray[np.int64]] = {}  # of a run of varints: numbers up to each piece's end

    @property
    def count(self) -> int:
        """How many items the list has."""
        if self.kind == BYTES:
            return len(self._runs) // 2
        ends = self._run_ends()
        return int(ends[-1]) if ends.size else 0

    def item(self, index: int) -> bytes:
        """One item of a list of bytes."""
        start, end = self._runs[2 * index], self._runs[2 * index + 1]
        if end - start > MAX_VALUE_BYTES:
            raise EpisodeError(
                f"a value of {end - start} bytes is too long", file=self._record.path, field=self.name
            )
        return self._record.read(start, end - start)

    def numbers(self, low: int, high: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The numbers `low` to `high` (not included) as `dtype`.

        Raises:
            EpisodeError: they do not fit into `dtype`, or are more than `MAX_VALUE_BYTES`.
        """
        if (high - low) * max(dtype.itemsize, 1) > MAX_VALUE_BYTES:
            raise EpisodeError(
                f"{high - low} numbers of {dtype} in one value are too many",
                file=self._record.path,
                field=self.name,
            )
        out = np.empty(high - low, dtype)
        ends = self._run_ends()
        at = low
        while at < high:
            run = int(np.searchsorted(ends, at, side="right"))
            first = int(ends[run - 1]) if run else 0
            stop = min(high, int(ends[run]), at + _PIECE)
            read = self._floats if self.kind == FLOAT else self._ints
            out[at - low : stop - low] = self._cast(read(run, at - first, stop - first), dtype)
            at = stop
        return out

    def _cast(self, numbers: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        if self.kind == FLOAT:
            return numbers.astype(dtype)
        if dtype == np.uint64:
            return numbers.view(np.uint64)  # as TFDS stores what no int64 holds
        cast = numbers.astype(dtype)
        if dtype.kind in "iu" and (cast.astype(np.int64) != numbers).any():
            wrong = int(numbers[cast.astype(np.int64) != numbers][0])
            raise EpisodeError(f"{wrong} does not fit {dtype}", file=self._record.path, field=self.name)
        return cast

    def _run_ends(self) -> NDArray[np.int64]:
        if self._ends is None:
            counts = np.zeros(len(self._runs) // 2, np.int64)
            for run in range(counts.size):
                start, end = self._runs[2 * run], self._runs[2 * run + 1]
                if self.kind == FLOAT:
                    if (end - start) % 4:
                        raise self._record.bad("floats that are not a multiple of four bytes", start)
                    counts[run] = (end - start) // 4
                elif end > start:
                    counts[run] = self._varint_pieces(run)[-1]
            self._ends = np.cumsum(counts)
        return self._ends

    def _varint_pieces(self, run: int) -> NDArray[np.int64]:
        known = self._pieces.get(run)
        if known is not None:
            return known
        start, end = self._runs[2 * run], self._runs[2 * run + 1]
        counts = []
        piece = b""
        for at in range(start, end, _PIECE):
            piece = self._record.read(at, min(_PIECE, end - at))
            counts.append(int(np.count_nonzero(np.frombuffer(piece, np.uint8) < 128)))
        if piece[-1] >= 128:
            raise self._record.bad("a packed number is cut short", end)
        sums = np.cumsum(np.array(counts, np.int64))
        if end - start > 16:  # a list that is not packed is a run for each number: cheaper to count again
            self._pieces[run] = sums
        return sums

    def _floats(self, run: int, low: int, high: int) -> NDArray[Any]:
        data = self._record.read(self._runs[2 * run] + 4 * low, 4 * (high - low))
        return np.frombuffer(data, "<f4")

    def _ints(self, run: int, low: int, high: int) -> NDArray[Any]:
        sums = self._varint_pieces(run)
        first, last = int(np.searchsorted(sums, low)), int(np.searchsorted(sums, high))
        before = int(sums[first - 1]) if first else 0
        start, end = self._runs[2 * run], self._runs[2 * run + 1]
        begin = start + first * _PIECE
        data = self._record.read(begin, min(end, start + (last + 1) * _PIECE) - begin)
        stops = np.flatnonzero(np.frombuffer(data, np.uint8) < 128)
        low_at = int(stops[low - 1 - before]) + 1 if low > before else 0
        high_at = int(stops[high - 1 - before]) + 1
        return unpack_varints(data, low_at, high_at)


def view_example(record: Record) -> dict[str, Column]:
    """The features of the Example in `record`, by key; of a key that is there twice the last, as in protobuf.

    Raises:
        CorruptRecordError: the data are not an Example, or it has more than `MAX_FIELDS` parts.
    """
    walk = _Walker(record).fields
    out: dict[str, Column] = {}
    for number, is_message, start, end in walk(0, record.length):
        if number != 1:
            continue
        if not is_message:
            raise record.bad("features that are no message", start)
        for inner, entry_is_message, low, high in walk(start, end):
            if inner != 1:
                continue
            if not entry_is_message:
                raise record.bad("a map entry that is no message", low)
            name, feature = "", (0, 0)
            for part, part_is_message, a, b in walk(low, high):
                if part not in (1, 2):
                    continue
                if not part_is_message:
                    raise record.bad("a key or value that is a number", a)
                if part == 2:
                    feature = (a, b)
                elif b - a > MAX_NAME_BYTES:
                    raise record.bad(f"a feature's name of {b - a} bytes", a)
                else:
                    try:
                        name = record.read(a, b - a).decode()
                    except UnicodeDecodeError as error:
                        raise record.bad("a feature's name is not UTF-8", a) from error
            if len(out) >= MAX_FEATURES:
                raise record.bad(f"more than {MAX_FEATURES} features", low)
            out[name] = _column(record, walk, name, *feature)
    return out


def _column(record: Record, walk: Any, name: str, start: int, end: int) -> Column:
    kind, runs = INT, array("Q")
    for number, is_message, low, high in walk(start, end):
        if number not in _KINDS:
            continue
        if not is_message:
            raise record.bad("a list that is no message", low)
        kind, runs = _KINDS[number], array("Q")
        for inner, packed, a, b in walk(low, high):
            if inner != 1:
                continue
            if kind == BYTES and not packed:
                raise record.bad("bytes that are a number", a)
            if kind == FLOAT and not packed and b - a != 4:
                raise record.bad("a float that is not four bytes", a)
            if kind == BYTES or b > a:
                runs.extend((a, b))
    return Column(record, name, kind if runs else INT, runs)


def index_records(path: Path) -> array[int]:
    """The offset of every record of a TFRecord file: lengths and their CRCs only, no data are read.

    Raises:
        CorruptRecordError: a length is altered, or the file ends inside a record.
        OSError: it cannot be read.
    """
    offsets = array("Q")
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            offsets.append(offset)
            if len(offsets) > MAX_FIELDS:
                raise EpisodeError(
                    f"more than {MAX_FIELDS} records in one file", file=path, remedy="split the file"
                )
            offset += HEADER_BYTES + FOOTER_BYTES + read_header(file, path=path, offset=offset, size=size)
    return offsets
