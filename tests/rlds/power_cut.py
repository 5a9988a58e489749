"""A disk that loses power: what a file system may show of unsynced writes, for the tests.

The recorder's files are written for real; beside them every write, cut and fsync of an append-only file is noted. A
power cut keeps what was synced. Behind that, sector by sector, the newest bytes, zeros (a size that was written before
the data) or nothing may be there, in any combination: drives reorder. Renames that were not synced are not modelled:
`write_bytes_durably` syncs before and after it (tests/storage/test_durable.py).
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512


@dataclass
class File:
    """An append-only file: all that it holds, and how much of it is safe."""

    path: Path
    data: bytearray = field(default_factory=bytearray)
    synced: int = 0


class Disk:
    """Stands for the `os` of the writer's module. cut(): the power is gone.

    fail: while it is set, every write fails with this error; after `fail_after` more bytes, when that is not None."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.gone: dict[Path, File] = {}
        self.fail: OSError | None = None
        self.fail_after: int | None = None
        self.syncs = 0

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def open(self, path: Path, flags: int, *mode: int) -> int:
        fd = os.open(path, flags, *mode)
        if flags & os.O_APPEND:
            self.files[fd] = File(Path(path), bytearray(Path(path).read_bytes()))
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.fail is not None:
            if not self.fail_after:
                raise self.fail
            data = data[: self.fail_after]
            self.fail_after -= len(data)
        count = os.write(fd, data)
        if fd in self.files:
            self.files[fd].data += data[:count]
        return count

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)
        if fd in self.files:
            del self.files[fd].data[size:]

    def fsync(self, fd: int) -> None:
        if self.fail is not None:
            raise self.fail
        self.syncs += 1
        os.fsync(fd)
        if fd in self.files:
            self.files[fd].synced = len(self.files[fd].data)

    def close(self, fd: int) -> None:
        os.close(fd)
        file = self.files.pop(fd, None)
        if file is not None:
            self.gone[file.path] = file

    def cut(self, chance: random.Random) -> None:
        """Write to the real files what a power cut may leave of them."""
        for file in [*self.files.values(), *self.gone.values()]:
            if not file.path.exists():
                continue
            end = chance.randint(file.synced, len(file.data))
            left = bytearray(file.data[: file.synced])
            while len(left) < end:
                piece = file.data[len(left) : min(end, (len(left) // SECTOR + 1) * SECTOR)]
                left += piece if chance.random() < 0.6 else bytes(len(piece))
            file.path.write_bytes(left)
