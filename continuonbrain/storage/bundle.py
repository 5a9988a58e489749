"""A bundle: one zip file (stored, nothing compressed) that any unzip opens and that has exactly one spelling.

`bundle.json` first, then the files that it names, in the order of their names. The reader accepts only the bytes that
`bundle_bytes` writes: each header is made again from name, size and CRC and compared, and after the last file the rest
must be the one central directory that belongs to them. So there is nothing to be clever with: no second entry of a
name, no path, link, comment, extra field, encryption, compression, gap, or bytes before and behind; and what a zip
library and this reader see is the same. Format: PKWARE's APPNOTE 6.3.10, sections 4.3.7, 4.3.12, 4.3.16.

Nothing is read further than what was checked before: `bundle.json` is at most `LARGEST_ENVELOPE`, and the files are
read only after `check` has verified it, each exactly as long as it says there. Declared sizes can therefore waste at
most `LARGEST_TOTAL`, and that only of somebody whose key is trusted.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import BinaryIO

from continuonbrain.errors import BrainError
from continuonbrain.storage.signing import SignedFile

ENVELOPE_FILE = "bundle.json"
LARGEST_ENVELOPE = 256 << 10
LARGEST_TOTAL = 256 << 20
"""Bytes of all files together. They are held in memory until all of them are verified."""

_PIECE = 1 << 20
_DATE = 0x0021  # 1 January 1980, midnight: the time of export is no part of a bundle
_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END = struct.Struct("<IHHHHIIH")
_MADE_BY_UNIX = 0x0314
_MODE = 0o100644 << 16

Entry = tuple[str, int, int]
"""Name, CRC-32, size."""


class BundleError(BrainError):
    """A file is not a bundle, or not all of one."""


def bundle_bytes(envelope: bytes, files: Mapping[str, bytes]) -> bytes:
    """The bundle of an envelope and the files that it names. Raises BundleError when it would be too large."""
    if len(envelope) > LARGEST_ENVELOPE or sum(map(len, files.values())) > LARGEST_TOTAL:
        raise BundleError(
            f"a bundle holds at most {LARGEST_TOTAL >> 20} MiB", remedy="train with a smaller rank"
        )
    pieces: list[bytes] = []
    entries: list[Entry] = []
    for name, data in ((ENVELOPE_FILE, envelope), *((name, files[name]) for name in sorted(files))):
        entry = (name, zlib.crc32(data), len(data))
        entries.append(entry)
        pieces += [_local_header(entry), data]
    return b"".join([*pieces, _directory(entries)])


def read_bundle(
    file: BinaryIO, size: int, check: Callable[[bytes], Mapping[str, SignedFile]], *, what: str
) -> dict[str, bytes]:
    """Read a bundle, verifying before reading on.

    Args:
        file: at its beginning.
        size: of the file, bytes.
        check: given the bytes of bundle.json, returns the files that it vouches for; raises when it is refused.
        what: names the file in errors.

    Returns:
        The files, each with the size and sha256 that `check` returned for it.

    Raises:
        BundleError: it is not exactly a bundle of these files.
        Whatever `check` raises: nothing behind bundle.json was read.
    """
    reader = _Reader(file, what)
    envelope = reader.entry(ENVELOPE_FILE, largest=LARGEST_ENVELOPE)
    expected = check(envelope)
    total = sum(signed.bytes for signed in expected.values())
    if total > LARGEST_TOTAL:
        raise reader.refused(f"document.files sum up to {total} bytes; at most {LARGEST_TOTAL} are taken")
    entries = [(ENVELOPE_FILE, 0, len(envelope)), *((n, 0, expected[n].bytes) for n in sorted(expected))]
    whole = sum(len(_local_header(e)) + e[2] for e in entries) + len(_directory(entries))
    if size != whole:
        raise reader.refused(f"it is {size} bytes long; the document asks for {whole}")
    files: dict[str, bytes] = {}
    for name in sorted(expected):
        files[name] = reader.entry(name, largest=expected[name].bytes, exactly=True)
        if hashlib.sha256(files[name]).hexdigest() != expected[name].sha256:
            raise reader.refused(f"{name} is not the file that was signed (its sha256 differs)")
    reader.end()
    return files


class _Reader:
    """Reads entries one after the other and remembers them for the directory at the end."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._file = file
        self._what = what
        self._entries: list[Entry] = []

    def refused(self, why: str) -> BundleError:
        return BundleError(
            f"{self._what} is refused: {why}",
            remedy="copy it again, whole; if that does not help, have it exported again",
        )

    def entry(self, name: str, *, largest: int, exactly: bool = False) -> bytes:
        """The content of the next entry, which must be this one, of at most (or exactly) `largest` bytes."""
        header = self._read(_LOCAL.size + len(name))
        fields = _LOCAL.unpack_from(header)
        entry = (name, int(fields[6]), int(fields[7]))
        if header != _local_header(entry):
            raise self.refused(f"where {name} should begin, something else does")
        if entry[2] > largest or (exactly and entry[2] != largest):
            raise self.refused(f"{name} says that it has {entry[2]} bytes; {largest} is what it may have")
        data = self._read(entry[2])
        if zlib.crc32(data) != entry[1]:
            raise self.refused(f"{name} is damaged (its CRC differs)")
        self._entries.append(entry)
        return data

    def end(self) -> None:
        """The directory, and nothing behind it."""
        directory = _directory(self._entries)
        if self._read(len(directory)) != directory or self._file.read(1):
            raise self.refused("its directory is not the one that belongs to its files")

    def _read(self, count: int) -> bytes:
        pieces: list[bytes] = []
        left = count
        while left:  # piece by piece: a size that lies reserves no memory
            piece = self._file.read(min(left, _PIECE))
            if not piece:
                raise self.refused("it is cut short, or no bundle")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)


def _local_header(entry: Entry) -> bytes:
    name, crc, size = entry
    fields = (0x04034B50, 20, 0, 0, 0, _DATE, crc, size, size, len(name), 0)
    return _LOCAL.pack(*fields) + name.encode("ascii")


def _directory(entries: list[Entry]) -> bytes:
    """The central directory and its end, of entries that stand one behind the other from the start of the file."""
    pieces: list[bytes] = []
    offset = 0
    for entry in entries:
        name, crc, size = entry
        local = len(_local_header(entry))
        sizes = (crc, size, size, len(name), 0, 0, 0, 0)
        pieces.append(_CENTRAL.pack(0x02014B50, _MADE_BY_UNIX, 20, 0, 0, 0, _DATE, *sizes, _MODE, offset))
        pieces.append(name.encode("ascii"))
        offset += local + size
    length = sum(map(len, pieces))
    end = _END.pack(0x06054B50, 0, 0, len(entries), len(entries), length, offset, 0)
    return b"".join([*pieces, end])
