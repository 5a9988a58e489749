"""The headers of a zip file that has one spelling: stored, every size in 64 bits, no time, no gap. Pure.

Format: PKWARE's APPNOTE 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16 and 4.5.3. A member's header is as long before
its content is known as afterwards, so that a writer can come back to it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_DATE = 0x0021  # 1 January 1980, midnight: the time of export is no part of a bundle
_VERSION, _MADE_BY_UNIX = 45, 0x032D
_LOCAL = struct.Struct("<IHHHHHIIIHH")
_LOCAL_64 = struct.Struct("<HHQQ")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_CENTRAL_64 = struct.Struct("<HHQQQ")
_END_64 = struct.Struct("<IQHHIIQQQQ")
_LOCATOR = struct.Struct("<IIQI")
_END = struct.Struct("<IHHHHIIH")
_IN_64 = 0xFFFFFFFF
_MODE = 0o100644 << 16

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}(/[a-z0-9][a-z0-9_.-]{0,99}){0,5}")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a bundle: its name, its length in bytes, CRC-32 and sha256 (64 hex digits)."""

    name: str
    bytes: int
    crc32: int
    sha256: str


def is_member_name(name: str) -> bool:
    """Whether a member may be called so: lower-case words between slashes, so that no path leads anywhere else."""
    return _NAME.fullmatch(name) is not None


def local_header(name: str, size: int, crc32: int) -> bytes:
    """What stands before a member's content."""
    fields = (0x04034B50, _VERSION, 0, 0, 0, _DATE, crc32, _IN_64, _IN_64, len(name), _LOCAL_64.size)
    return _LOCAL.pack(*fields) + name.encode("ascii") + _LOCAL_64.pack(1, 16, size, size)


LONGEST_HEADER = _LOCAL.size + 700 + _LOCAL_64.size


def read_local_header(data: bytes) -> tuple[str, int, int] | None:
    """(name, size, CRC) of the member whose header `data` begin with; None where that is not the one spelling."""
    if len(data) < _LOCAL.size:
        return None
    crc32, length = struct.unpack_from("<I", data, 14)[0], struct.unpack_from("<H", data, 26)[0]
    try:
        name = data[_LOCAL.size : _LOCAL.size + length].decode("ascii")
    except UnicodeDecodeError:
        return None
    at = _LOCAL.size + length
    if len(data) < at + _LOCAL_64.size or not is_member_name(name):
        return None
    size = struct.unpack_from("<Q", data, at + 4)[0]
    return (name, size, crc32) if data.startswith(local_header(name, size, crc32)) else None


def end_of(members: Sequence[Member]) -> int:
    """Where the directory begins when these members stand one behind the other."""
    return sum(len(local_header(m.name, 0, 0)) + m.bytes for m in members)


def directory(members: Sequence[Member]) -> bytes:
    """Everything behind the last member."""
    pieces: list[bytes] = []
    offset = 0
    for member in members:
        name = member.name.encode("ascii")
        head = (0x02014B50, _MADE_BY_UNIX, _VERSION, 0, 0, 0, _DATE, member.crc32, _IN_64, _IN_64, len(name))
        pieces.append(_CENTRAL.pack(*head, _CENTRAL_64.size, 0, 0, 0, _MODE, _IN_64))
        pieces += [name, _CENTRAL_64.pack(1, 24, member.bytes, member.bytes, offset)]
        offset += len(local_header(member.name, 0, 0)) + member.bytes
    length = sum(map(len, pieces))
    count = len(members)
    pieces.append(_END_64.pack(0x06064B50, 44, _MADE_BY_UNIX, _VERSION, 0, 0, count, count, length, offset))
    pieces.append(_LOCATOR.pack(0x07064B50, 0, offset + length, 1))
    pieces.append(_END.pack(0x06054B50, 0, 0, 0xFFFF, 0xFFFF, _IN_64, _IN_64, 0))
    return b"".join(pieces)
