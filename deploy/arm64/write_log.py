"""The writes of a virtual disk in their order, and what a power cut may leave of them. No I/O.

The log is that of qemu's `blklogwrites` driver, in the format of the kernel's dm-log-writes
(Documentation/admin-guide/device-mapper/log-writes.rst): a sector of its own, then for every request a sector that
says where and how much, and the data.

What a disk with a volatile cache promises is only this: what was complete before a flush is there after it. Behind the
last flush before the cut, each write is there, is not there, or stops at some sector, and in any order.
"""

from __future__ import annotations

import random
import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SECTOR = 512
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


class LogError(ValueError):
    """This is no log of writes, or one that cannot be replayed."""


@dataclass(frozen=True)
class Write:
    """One request.

    Attributes:
        sector: of the disk, in units of 512 bytes.
        flags: FLUSH (what came before is safe), FUA (safe when done); both may come with data.
        start, end: of the data, in the log.
    """

    sector: int
    flags: int
    start: int
    end: int

    @property
    def sectors(self) -> int:
        return (self.end - self.start) // SECTOR


def parse(log: bytes) -> list[Write]:
    """The requests that are whole in the log.

    Raises:
        LogError: it is not a log of 512-byte sectors, or a request is of a kind that is not replayed here.
    """
    if len(log) < SECTOR:
        raise LogError(f"a log of {len(log)} bytes has no superblock")
    magic, _, _, sector_size = _SUPER.unpack_from(log)
    if (magic, sector_size) != (MAGIC, SECTOR):
        raise LogError(f"magic {magic:#x} and sectors of {sector_size} bytes are no log of writes")
    writes: list[Write] = []
    at = SECTOR
    while at + SECTOR <= len(log):
        sector, sectors, flags, data_length = _ENTRY.unpack_from(log, at)
        if (sector, sectors, flags, data_length) == (0, 0, 0, 0):
            break  # not written yet when the machine was killed
        if flags & ~(FLUSH | FUA):
            raise LogError(
                f"request {len(writes)} has flags {flags:#x}, of which only flush and FUA are known"
            )
        start = at + SECTOR
        end = start + sectors * SECTOR
        if end > len(log):
            break
        writes.append(Write(sector, flags, start, end))
        at = end
    return writes


def crash_image(
    disk: bytes, log: bytes, writes: Sequence[Write], cut: int, chance: random.Random
) -> bytearray:
    """The disk after a power cut.

    Args:
        disk: what it held before the first write.
        cut: how many of the writes had been asked for when the power went.
        chance: decides about every write that no flush had made safe.
    """
    image = bytearray(disk)

    def put(write: Write, sectors: int) -> None:
        at = write.sector * SECTOR
        image[at : at + sectors * SECTOR] = log[write.start : write.start + sectors * SECTOR]

    # A request may be flush and data at once: the flush comes first and covers what was before it.
    safe = max((i for i in range(cut) if writes[i].flags & FLUSH), default=0)
    for write in writes[:safe]:
        put(write, write.sectors)
    open_writes = list(writes[safe:cut])
    chance.shuffle(open_writes)
    for write in open_writes:
        if write.flags & FUA:
            continue
        fate = chance.random()
        if fate < 0.4:
            put(write, write.sectors)
        elif fate < 0.6 and write.sectors > 1:
            put(write, chance.randrange(1, write.sectors))
    for write in writes[safe:cut]:
        if write.flags & FUA:  # done is done; that is all that is known of its place in the order
            put(write, write.sectors)
    return image


@dataclass(frozen=True)
class Need:
    """What was acknowledged before a cut, and must be there after it.

    Attributes:
        synced: episode -> steps that the recorder called safe against a power cut.
        closed: episode -> its steps; it was closed.
        promoted: number of the newest adapter whose promotion had returned, 0 for none.
        begun: number of the newest one that was ever begun.
    """

    synced: Mapping[str, int] = field(default_factory=dict)
    closed: Mapping[str, int] = field(default_factory=dict)
    promoted: int = 0
    begun: int = 0


@dataclass(frozen=True)
class Told:
    """A line that left the machine. log_bytes: how long the log was when it had; all that it speaks of is in there."""

    log_bytes: int
    line: str


def need_at(told: Sequence[Told], log_bytes: int) -> Need:
    """What the lines say that had left the machine when the log was `log_bytes` long.

    A line that arrives late only asks for less. Raises LogError for a line of our own that cannot be read.
    """
    synced: dict[str, int] = {}
    closed: dict[str, int] = {}
    promoted = begun = 0
    upto = bisect_right([t.log_bytes for t in told], log_bytes)
    for place, line in enumerate(told):
        match line.line.split():
            case ["PROMOTING", number]:
                begun = max(begun, int(number))
            case _ if place >= upto:
                continue
            case ["SYNCED", episode, steps]:
                synced[episode] = int(steps)
            case ["CLOSED", episode, steps]:
                closed[episode] = int(steps)
            case ["PROMOTED", number]:
                promoted = int(number)
            case _:
                raise LogError(f"a line that nobody knows: {line.line!r}")
    return Need(synced, closed, promoted, begun)
