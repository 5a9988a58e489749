"""Checking a bundle, zip or folder: one pass, in pieces, nothing unpacked.

A zip must be exactly the bytes that `sinks.ZipSink` writes: each header is made again and compared, and behind the last
member there is the directory that belongs to them and nothing else. A folder must hold exactly the files of the
manifest, none of them a link.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from continuonbrain.cloud.errors import BundleRefused
from continuonbrain.cloud.manifest import (
    ENVELOPE,
    LARGEST_ENVELOPE,
    LARGEST_MANIFEST,
    MANIFEST,
    Contents,
    checked,
    parse_manifest,
)
from continuonbrain.rlds.files import open_regular, read_limited
from continuonbrain.storage.public_key import PublicKey
from continuonbrain.storage.zip64 import LONGEST_HEADER, Member, directory, local_header, read_local_header

USUAL_NAME = "continuonbrain-memory"
"""What an export is called where its owner says no name."""

_PIECE = 1 << 20
_MOST_MEMBERS = 100_000
_REMEDY = "copy it again, whole; if that does not help, have it exported again"
_KEPT = {MANIFEST: LARGEST_MANIFEST, ENVELOPE: LARGEST_ENVELOPE}


@dataclass(frozen=True)
class CheckedBundle:
    """A bundle that is what was signed: by which key, as which of its documents, and what is in it. manifest_sha256:
    names it."""

    key: PublicKey
    counter: int
    contents: Contents
    bytes: int
    manifest_sha256: str


def check_bundle(path: Path, key: PublicKey) -> CheckedBundle:
    """Check every byte of a bundle.

    Raises:
        BundleRefused, SignatureRefused, NotSignableError: it is not exactly what the owner of `key` signed.
        OSError: it cannot be read.
    """
    found = _Found()
    if path.is_dir():
        _refuse_outside(path)
        _read_folder(path, found)
    else:
        _read_zip(path, found)
    for name in (MANIFEST, ENVELOPE):
        if name not in found.kept:
            raise BundleRefused(
                f"{path}: there is no {name}: it is no bundle, or not all of one", remedy=_REMEDY
            )
    members, kept = found.members, found.kept
    document, contents = checked(members, kept[MANIFEST], kept[ENVELOPE], key.public, what=str(path))
    return CheckedBundle(
        key,
        document.counter,
        contents,
        sum(m.bytes for m in members),
        document.files[MANIFEST].sha256,
    )


def read_envelope(path: Path) -> bytes:
    """The envelope in a bundle, of which nothing is checked yet. Raises BundleRefused, OSError."""
    if path.is_dir():
        _refuse_outside(path)
        if (path / ENVELOPE).exists():
            return read_limited(path / ENVELOPE, LARGEST_ENVELOPE)
    else:
        with open_regular(path) as file:
            for name, begin, length in _places(file):
                if name == ENVELOPE:
                    file.seek(begin)
                    return file.read(min(length, LARGEST_ENVELOPE))
    raise BundleRefused(f"{path}: there is no {ENVELOPE}: it is no bundle, or not all of one", remedy=_REMEDY)


def is_memory(path: Path) -> bool:
    """Whether this is what a robot remembers and no adapter or base, to tell somebody who took one for the other: of
    those, none holds a manifest. Raises OSError."""
    if path.is_dir():
        return (path / MANIFEST).is_file() or (path / USUAL_NAME / MANIFEST).is_file()
    with open_regular(path) as file:
        return any(name == MANIFEST for name, *_ in _places(file))


def _places(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Name, place and length of the members that lie whole in a zip, one behind the other from its beginning."""
    size, at = os.fstat(file.fileno()).st_size, 0
    while (header := _header(file, at)) is not None:
        begin = at + len(local_header(*header))
        at = begin + header[1]
        if at > size:
            return
        yield header[0], begin, header[1]


def _refuse_outside(folder: Path) -> None:
    inside = folder / USUAL_NAME
    if not (folder / MANIFEST).exists() and (inside / MANIFEST).exists():
        raise BundleRefused(f"{folder} is no bundle, but there is one in it", remedy=f"give {inside}")


class _Found:
    """What was read so far; of the manifest and its signature the bytes, too."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.kept: dict[str, bytes] = {}

    def take(self, name: str, pieces: Iterator[bytes], *, what: Path) -> None:
        """One member, in pieces."""
        digest, crc32, size = hashlib.sha256(), 0, 0
        limit = _KEPT.get(name)
        kept: list[bytes] = []
        for piece in pieces:
            digest.update(piece)
            crc32 = zlib.crc32(piece, crc32)
            size += len(piece)
            if limit is not None:
                if size > limit:
                    raise BundleRefused(f"{what}: {name} is longer than {limit} bytes", remedy=_REMEDY)
                kept.append(piece)
        if limit is not None:
            self.kept[name] = b"".join(kept)
        self.members.append(Member(name, size, crc32, digest.hexdigest()))
        if len(self.members) > _MOST_MEMBERS:
            raise BundleRefused(f"{what}: more than {_MOST_MEMBERS} members", remedy=_REMEDY)


def _read_zip(path: Path, found: _Found) -> None:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while (header := _header(file, at)) is not None:
            name, length, crc32 = header
            begin = at + len(local_header(name, length, crc32))
            if begin + length > size:
                raise BundleRefused(
                    f"{path} is cut short: {name} is longer than what is there", remedy=_REMEDY
                )
            file.seek(begin)
            found.take(name, _pieces(file, length), what=path)
            if found.members[-1].crc32 != crc32:
                raise BundleRefused(f"{path}: {name} is damaged (its CRC differs)", remedy=_REMEDY)
            at = begin + length
        end = directory(found.members)
        file.seek(at)
        if size != at + len(end) or file.read(len(end)) != end:
            raise BundleRefused(
                f"{path}: behind {len(found.members)} members there is not the directory that belongs to them",
                remedy=_REMEDY,
            )


def _header(file: BinaryIO, at: int) -> tuple[str, int, int] | None:
    file.seek(at)
    return read_local_header(file.read(LONGEST_HEADER))


def _pieces(file: BinaryIO, length: int) -> Iterator[bytes]:
    while length and (piece := file.read(min(length, _PIECE))):
        length -= len(piece)
        yield piece


def _read_folder(path: Path, found: _Found) -> None:
    """In the order of the manifest, which says itself, once its signature is checked, that it is the right one."""
    there = {
        str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir() or file.is_symlink()
    }
    if MANIFEST not in there:
        return
    with _opened(path / MANIFEST) as file:
        manifest = file.read(LARGEST_MANIFEST + 1)
    names = [m.name for m in parse_manifest(manifest, what=str(path)).members]
    if odd := sorted(there ^ {*names, MANIFEST, ENVELOPE}):
        raise BundleRefused(
            f"{path}: {odd[0]} is there and not in the manifest, or not there", remedy=_REMEDY
        )
    for name in (*names, MANIFEST, ENVELOPE):
        with _opened(path / name) as file:
            found.take(name, _pieces(file, os.fstat(file.fileno()).st_size), what=path)


def _opened(path: Path) -> BinaryIO:
    if path.is_symlink():
        raise BundleRefused(f"{path} is a link", remedy=_REMEDY)
    return open_regular(path)
