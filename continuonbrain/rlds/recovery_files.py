"""The files of an unfinished episode as recovery reads, cuts and sets aside.

Two rules. No link is followed: what is behind one belongs to somebody else. And a disk that cannot be read has said
nothing: every OSError goes up, so that only bytes that were read and are wrong count as damaged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from array import array
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from continuonbrain.rlds.errors import CorruptRecordError, EpisodeError
from continuonbrain.rlds.linescan import scan_lines
from continuonbrain.rlds.pieces import MAX_PIECES
from continuonbrain.rlds.reader import MAX_FRAME_BYTES, MAX_STEPS_BYTES
from continuonbrain.rlds.step import DROPPED_BEFORE, FrameRef, Step
from continuonbrain.rlds.stepline import decode_step_line
from continuonbrain.rlds.tfrecord import FRAMING_BYTES, read_header, read_record
from continuonbrain.storage.durable import STAGING_PREFIX, sync_directory

ASIDE_FOLDER = "aside"
MAX_ASIDE_BYTES = 256 << 20
"""More than this behind the last whole step is not what a crash leaves."""
_BLOCK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MARK = b'"%s":' % DROPPED_BEFORE.encode()


def open_inside(folder: Path, name: str, flags: int) -> int:
    """A descriptor of the regular file `name` ("steps/000000.jsonl") inside the episode `folder`.

    Raises:
        OSError: it is not there, cannot be opened, or it or a folder on the way is a link, a pipe or a device.
    """
    try:
        at = os.open(folder, _FOLDER)
        try:
            *folders, last = name.split("/")
            for part in folders:
                inner = os.open(part, _FOLDER, dir_fd=at)
                os.close(at)
                at = inner
            fd = os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        finally:
            os.close(at)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _not_ours(folder / name) from error
        raise OSError(error.errno, error.strerror, str(folder / name)) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _not_ours(folder / name)
    return fd


def _not_ours(file: Path) -> OSError:
    return OSError(errno.EINVAL, "a link, or not a regular file of this episode", str(file))


def blob_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each frame file of an episode, by its name below `folder`; empty without a folder of frames.

    Raises:
        OSError: the folder cannot be read, or it or a file in it is a link, a pipe or a device.
    """
    blobs = folder / "blobs"
    try:
        if not stat.S_ISDIR(os.lstat(blobs).st_mode):
            raise _not_ours(blobs)
    except FileNotFoundError:
        return {}
    sizes = {}
    with os.scandir(blobs) as entries:
        for entry in entries:
            if entry.name[0] == "." or not entry.name.endswith(".tfrecord"):
                continue
            if not entry.is_file(follow_symlinks=False):
                raise _not_ours(blobs / entry.name)
            sizes[f"blobs/{entry.name}"] = entry.stat(follow_symlinks=False).st_size
    return sizes


class Lines:
    """The lines of a steps file by their places; of each only what is asked for is read.

    Attributes:
        size: bytes of the file.
    """

    def __init__(self, file: Path, fd: int, *, sealed: bool) -> None:
        """Find the lines; `sealed` ones count only with their CRC.

        EpisodeError: more bytes or lines than an episode holds. OSError from the disk.
        """
        self._fd, self._sealed = fd, sealed
        self._starts, self._ends, self._counts = array("Q"), array("Q"), array("Q")
        self._is_text, self._marked = array("b"), array("Q")
        self.size = os.fstat(fd).st_size
        if self.size > MAX_STEPS_BYTES:
            raise EpisodeError(f"a file of {self.size} bytes is too long", file=file)
        for line in scan_lines(file, hopeless=lambda: True):
            if not line.ended:
                break
            if len(self._starts) >= MAX_PIECES:
                raise EpisodeError(f"more than {MAX_PIECES} steps", file=file)
            if line.text is not None and _MARK in line.text:
                self._marked.append(len(self._starts))
            self._starts.append(line.start)
            self._ends.append(line.end)
            self._counts.append(line.count)
            self._is_text.append(line.text is not None)

    def __len__(self) -> int:
        """Lines, where a run of lines that hold no step counts as one."""
        return len(self._starts)

    def end(self, place: int) -> int:
        """Bytes up to the end of the first `place` lines."""
        return self._ends[place - 1] if place else 0

    def count(self, start: int, end: int) -> int:
        """Newlines in the lines `start` to `end`, not included."""
        return sum(self._counts[start:end])

    def step(self, place: int) -> Step | None:
        """The step of a line, when it holds one."""
        if not self._is_text[place]:
            return None
        text = os.pread(self._fd, self._ends[place] - 1 - self._starts[place], self._starts[place])
        try:
            return decode_step_line(text, index=place, count=None, sealed=self._sealed)
        except EpisodeError:
            return None

    def dropped(self, whole: int) -> int:
        """Steps that the first `whole` lines say were dropped before them."""
        steps = (self.step(place) for place in self._marked if place < whole)
        return sum(step.dropped_before for step in steps if step is not None)


class Frames:
    """Whether frames are whole, until twice as many bytes were read as there are: steps that name the same bytes again
    and again would have them read for hours."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._left = 2 * size
        self._name = ""
        self._file: BinaryIO | None = None

    def opened(self, name: str) -> BinaryIO:
        """The frame file `name`. OSError: it is not there or cannot be opened."""
        if self._file is None or name != self._name:
            self.close()
            self._file, self._name = os.fdopen(open_inside(self._path, name, os.O_RDONLY), "rb"), name
        return self._file

    def holds(self, ref: FrameRef) -> bool:
        """Whether the frame is there whole.

        EpisodeError: the steps name more bytes than there are. OSError: the disk does not say.
        """
        file, blob = self.opened(ref.file), self._path / ref.file
        size = min(os.fstat(file.fileno()).st_size, ref.offset + ref.length)
        try:
            length = read_header(file, path=blob, offset=ref.offset, size=size)
            self._left -= length
            if self._left < 0:
                raise EpisodeError("its steps name more bytes of frames than there are", file=self._path)
            read_record(file, path=blob, offset=ref.offset, size=size, limit=MAX_FRAME_BYTES)
        except CorruptRecordError:
            return False
        return True

    def count_from(self, name: str, offset: int) -> int:
        """How many records follow each other from `offset` on, by their headers. OSError from the disk."""
        file, count = self.opened(name), 0
        size = os.fstat(file.fileno()).st_size
        with contextlib.suppress(CorruptRecordError):
            while offset < size and count < MAX_PIECES:
                offset += FRAMING_BYTES + read_header(file, path=None, offset=offset, size=size)
                count += 1
        return count

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Frames:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def set_aside(folder: Path, name: str, fd: int, start: int) -> None:
    """Keep the bytes of file `name` from `start` on as `aside/NAME-from-START`, synced, before they are cut.

    The file with them behind it is byte for byte what the crash left.

    Raises:
        EpisodeError: they are more than a crash leaves.
        OSError: the disk refused; nothing is cut then.
    """
    end = os.fstat(fd).st_size
    if end - start > MAX_ASIDE_BYTES:
        raise EpisodeError(
            f"{end - start} bytes behind the last whole step are more than a crash leaves",
            file=folder / name,
            remedy="continuonbrain episodes repair PATH OUT keeps its whole steps",
        )
    aside = folder / ASIDE_FOLDER
    with contextlib.suppress(FileExistsError):
        os.mkdir(aside)
        sync_directory(folder)
    at = os.open(aside, _FOLDER)  # never through a link
    file = f"{name.replace('/', '-')}-from-{start}"
    staging = f"{STAGING_PREFIX}{secrets.token_hex(4)}-{file}"
    try:
        out = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=at)
        try:
            try:
                _copy(fd, start, end, out)
                os.fsync(out)
            finally:
                os.close(out)
            os.replace(staging, file, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(staging, dir_fd=at)
            raise
        os.fsync(at)
    finally:
        os.close(at)


def _copy(fd: int, start: int, end: int, out: int) -> None:
    while start < end:
        block = memoryview(os.pread(fd, min(_BLOCK, end - start), start))
        if not block:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        start += len(block)
        while block:
            block = block[os.write(out, block) :]
