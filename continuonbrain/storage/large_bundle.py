"""A bundle that does not fit into memory: the zip of `bundle.py` with all sizes in 64 bits, written and read in pieces.

`bundle.json` first, then the files that it names in the order of their names, then the one directory that belongs to
them; nothing else anywhere (`zip64.py`). The reader verifies `bundle.json` before it makes the first file, and each
file is hashed while it is written. Files are made new, never followed or replaced, in a folder that the caller throws
away when this raises.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from continuonbrain.storage.bundle import ENVELOPE_FILE, LARGEST_ENVELOPE, BundleError
from continuonbrain.storage.signing import SignedFile
from continuonbrain.storage.zip64 import LONGEST_HEADER, Member, directory, local_header, read_local_header

_PIECE = 1 << 20
_SPELLING = struct.Struct("<IH")


def is_large(head: bytes) -> bool:
    """Whether a file that begins so is spelled with sizes of 64 bits. It is checked nowhere else by this alone."""
    return head.startswith(_SPELLING.pack(0x04034B50, 45))


def file_member(path: Path, name: str) -> Member:
    """A file as a member of a bundle: read once, in pieces. Raises OSError."""
    digest, crc32, size = hashlib.sha256(), 0, 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            crc32 = zlib.crc32(piece, crc32)
            size += len(piece)
    return Member(name, size, crc32, digest.hexdigest())


def write_large(out: BinaryIO, envelope: bytes, folder: Path, members: Sequence[Member]) -> int:
    """Write a bundle of files below `folder`; its length in bytes.

    Args:
        out: at its beginning.
        members: as `file_member` told of each.

    Raises:
        BundleError: a file has changed since.
        OSError: the file system refused.
    """
    first = Member(ENVELOPE_FILE, len(envelope), zlib.crc32(envelope), hashlib.sha256(envelope).hexdigest())
    ordered = sorted(members, key=lambda member: member.name)
    out.write(local_header(first.name, first.bytes, first.crc32))
    out.write(envelope)
    for member in ordered:
        out.write(local_header(member.name, member.bytes, member.crc32))
        digest = hashlib.sha256()
        with open(folder / member.name, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != member.sha256:
            raise BundleError(f"{folder / member.name} changed while it was read", remedy="try again")
    out.write(directory([first, *ordered]))
    return out.tell()


def unpack_large(
    file: BinaryIO,
    size: int,
    check: Callable[[bytes], Mapping[str, SignedFile]],
    begin: Callable[[int], Path],
    *,
    what: str,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Path:
    """Read a bundle into a folder, verifying before writing.

    Args:
        file: at its beginning.
        size: of the file, bytes.
        check: given the bytes of bundle.json, returns the files that it vouches for; raises when it is refused.
        begin: given the bytes of all files together, returns the empty folder to write them to. Not called before
            everything but the files' content is known to be right.
        what: names the file in errors.
        on_bytes: called with how many more bytes of its files were written.

    Returns:
        That folder. Its files have the sizes and sha256 that `check` returned, and are on the disk.

    Raises:
        BundleError: it is not exactly a bundle of these files.
        Whatever `check` raises: nothing was written.
    """
    reader = _Reader(file, what)
    envelope = reader.whole(ENVELOPE_FILE, LARGEST_ENVELOPE)
    expected = check(envelope)
    names = sorted(expected)
    told = [
        Member(ENVELOPE_FILE, len(envelope), 0, ""),
        *(Member(n, expected[n].bytes, 0, "") for n in names),
    ]
    wanted = sum(len(local_header(m.name, m.bytes, 0)) + m.bytes for m in told) + len(directory(told))
    if size != wanted:
        raise reader.refused(f"it is {size} bytes long; the document asks for {wanted}")
    folder = begin(sum(signed.bytes for signed in expected.values()))
    for name in names:
        with _new_file(folder, name) as out:
            found = reader.entry(name, expected[name].bytes, out, on_bytes)
        if found != expected[name].sha256:
            raise reader.refused(f"{name} is not the file that was signed (its sha256 differs)")
    reader.end()
    return folder


@contextmanager
def _new_file(folder: Path, name: str) -> Iterator[BinaryIO]:
    """A file that was not there, synced when the block ends. Folders of its name are made, and never links followed."""
    *folders, plain = name.split("/")
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for part in folders:
            if part not in os.listdir(place):
                os.mkdir(part, 0o755, dir_fd=place)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
            os.close(place)
            place = below
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(plain, flags, 0o644, dir_fd=place), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.fsync(place)
    finally:
        os.close(place)


class _Reader:
    """Reads entries one after the other and remembers them for the directory at the end."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._file, self._what = file, what
        self._members: list[Member] = []

    def refused(self, why: str) -> BundleError:
        return BundleError(
            f"{self._what} is refused: {why}",
            remedy="copy it again, whole; if that does not help, have it made again",
        )

    def whole(self, name: str, largest: int) -> bytes:
        """The content of the next entry, in memory."""
        size, crc32 = self._header(name)
        if size > largest:
            raise self.refused(f"{name} says that it has {size} bytes; {largest} is what it may have")
        data = b"".join(self._pieces(size))
        self._ended(Member(name, size, crc32, ""), zlib.crc32(data))
        return data

    def entry(self, name: str, size: int, out: BinaryIO, on_bytes: Callable[[int], None]) -> str:
        """Copy the next entry, of exactly this size, to `out`; its sha256."""
        told, crc32 = self._header(name)
        if told != size:
            raise self.refused(f"{name} says that it has {told} bytes; {size} is what it may have")
        digest, found = hashlib.sha256(), 0
        for piece in self._pieces(size):
            digest.update(piece)
            found = zlib.crc32(piece, found)
            out.write(piece)
            on_bytes(len(piece))
        self._ended(Member(name, size, crc32, ""), found)
        return digest.hexdigest()

    def end(self) -> None:
        """The directory, and nothing behind it."""
        wanted = directory(self._members)
        if b"".join(self._pieces(len(wanted))) != wanted or self._file.read(1):
            raise self.refused("its directory is not the one that belongs to its files")

    def _header(self, name: str) -> tuple[int, int]:
        length = len(local_header(name, 0, 0))
        assert length <= LONGEST_HEADER
        found = read_local_header(b"".join(self._pieces(length)))
        if found is None or found[0] != name:
            raise self.refused(f"where {name} should begin, something else does")
        return found[1], found[2]

    def _ended(self, member: Member, crc32: int) -> None:
        if crc32 != member.crc32:
            raise self.refused(f"{member.name} is damaged (its CRC differs)")
        self._members.append(member)

    def _pieces(self, count: int) -> Iterator[bytes]:
        while count:  # piece by piece: a size that lies reserves no memory
            piece = self._file.read(min(count, _PIECE))
            if not piece:
                raise self.refused("it is cut short, or no bundle")
            yield piece
            count -= len(piece)
