"""Where a bundle grows: a zip file or a folder, member after member, under a name that says that it is not done.

`begin`, `write` as often as needed, `end`: then the member is on the disk. A killed writer leaves half a member behind;
`keep` cuts everything away but the members that a journal names.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from continuonbrain.storage.durable import sync_directory
from continuonbrain.storage.zip64 import Member, directory, end_of, local_header


class Sink(Protocol):
    """A bundle that grows at `path`."""

    path: Path

    def keep(self, members: Sequence[Member]) -> bool:
        """Cut back to these members, the first that were written; False when not all of them are there."""
        ...

    def begin(self, name: str) -> None:
        """Begin a member."""
        ...

    def write(self, data: bytes) -> None:
        """Append to the member that was begun. Raises OSError."""
        ...

    def end(self) -> Member:
        """The member is whole and on the disk. Raises OSError."""
        ...

    def finish(self, members: Sequence[Member], target: Path) -> None:
        """The bundle is whole: it gets its name. Raises OSError."""
        ...

    def close(self) -> None:
        """Let go of the files; what is written stays."""
        ...


class _Growing:
    """A member that grows: its name, hashes and length."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bytes = self.crc32 = 0
        self._sha256 = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self.bytes += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        self._sha256.update(data)

    def member(self) -> Member:
        return Member(self.name, self.bytes, self.crc32, self._sha256.hexdigest())


class ZipSink:
    """One zip file. A member's header is written with zeros, and again when its content is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
        self._file.seek(0, os.SEEK_END)
        self._growing: _Growing | None = None
        self._start = 0

    def keep(self, members: Sequence[Member]) -> bool:
        """As `Sink.keep`."""
        end = end_of(members)
        if self._file.seek(0, os.SEEK_END) < end:
            return False
        self._file.truncate(end)
        self._file.seek(end)
        return True

    def begin(self, name: str) -> None:
        """As `Sink.begin`."""
        self._growing, self._start = _Growing(name), self._file.tell()
        self._file.write(local_header(name, 0, 0))

    def write(self, data: bytes) -> None:
        """As `Sink.write`."""
        assert self._growing is not None
        self._growing.add(data)
        self._file.write(data)

    def end(self) -> Member:
        """As `Sink.end`."""
        assert self._growing is not None
        member, self._growing = self._growing.member(), None
        end = self._file.tell()
        self._file.seek(self._start)
        self._file.write(local_header(member.name, member.bytes, member.crc32))
        self._file.seek(end)
        self._sync()
        return member

    def finish(self, members: Sequence[Member], target: Path) -> None:
        """As `Sink.finish`."""
        self._file.write(directory(members))
        self._sync()
        os.rename(self.path, target)
        sync_directory(target.parent)

    def close(self) -> None:
        """As `Sink.close`."""
        self._file.close()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


class FolderSink:
    """A folder with a file a member, for a stick that others read without a zip program."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        self._growing: _Growing | None = None
        self._file: BinaryIO | None = None

    def keep(self, members: Sequence[Member]) -> bool:
        """As `Sink.keep`."""
        sizes = {self.path / m.name: m.bytes for m in members}
        for file in sorted(self.path.rglob("*")):
            if not file.is_dir() and file not in sizes:
                file.unlink()
        return all(file.is_file() and file.stat().st_size == size for file, size in sizes.items())

    def begin(self, name: str) -> None:
        """As `Sink.begin`."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        self._growing, self._file = _Growing(name), open(file, "wb")  # noqa: SIM115

    def write(self, data: bytes) -> None:
        """As `Sink.write`."""
        assert self._growing is not None
        assert self._file is not None
        self._growing.add(data)
        self._file.write(data)

    def end(self) -> Member:
        """As `Sink.end`."""
        assert self._growing is not None
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        member, self._growing = self._growing.member(), None
        sync_directory((self.path / member.name).parent)
        return member

    def finish(self, members: Sequence[Member], target: Path) -> None:
        """As `Sink.finish`."""
        for folder, _, _ in os.walk(self.path):
            sync_directory(Path(folder))
        os.rename(self.path, target)
        sync_directory(target.parent)

    def close(self) -> None:
        """As `Sink.close`."""
        if self._file is not None:
            self._file.close()
            self._file = None


def open_sink(path: Path, *, as_zip: bool) -> Sink:
    """A sink that goes on with what lies at `path`. Raises OSError."""
    return ZipSink(path) if as_zip else FolderSink(path)


def remove_growing(path: Path) -> None:
    """Give up what was begun. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
