"""File writes that a crash cannot leave half done.

Every function here keeps one promise: after the process or the machine dies at any point, the path holds
what it held before or what was asked for, whole. When the function has returned, it is the latter.

The order behind it is always the same: write beside the target, fsync the content, rename over the target,
fsync the folder. The fsync of the content comes first because a rename may otherwise reach the disk before
the bytes that it names; that of the folder because a rename is a change of the folder. (Cards that
acknowledge a flush they did not do are beyond any program.)
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

STAGING_PREFIX = ".staging-"
"""What is being written and has no name of its own yet."""
ABANDONED_S = 86_400.0
_STAGED = re.compile(re.escape(STAGING_PREFIX) + "[0-9a-f]{8}-")


def write_bytes_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the file at `path` by `data`, atomically and durably. Raises OSError."""
    temporary = _staging_name(path)
    try:
        _write_new_file(temporary, data, mode=mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def replace_file(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace a status file atomically, without syncing: readers see the old one or the new one, whole.

    For what changes several times a second and may be lost in a power cut; an fsync each would wear the card. mode: of
    a new file, less the umask.

    Raises OSError; the old file is then still there.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
        os.replace(staging, path)
    except OSError:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong
            staging.unlink()
        raise


def write_json_durably(path: Path, value: object) -> None:
    """Replace the file at `path` by `value` as indented JSON. NaN is refused.

    Raises:
        ValueError, TypeError: `value` is not JSON; the file is untouched.
        OSError: the file system refused.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes_durably(path, text.encode("utf-8"))


def write_directory_durably(path: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder `path` with all `files` in it: whole, or not there at all.

    Raises:
        FileExistsError: `path` exists already (an empty folder counts too).
        OSError: the file system refused; nothing is left behind.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    temporary = _staging_name(path)
    try:
        os.mkdir(temporary)
        for name, data in files.items():
            _write_new_file(temporary / name, data, mode=0o644)
        sync_directory(temporary)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)


def copy_tree_durably(source: Path, path: Path) -> None:
    """Copy the folder `source` to `path`, which must not exist or be empty: whole, or not there at all.

    Reads file by file in small pieces, so a base model of several GB does not pass through memory.
    Raises OSError.
    """
    with new_directory_durably(path) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)


@contextlib.contextmanager
def new_directory_durably(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, to be filled; when the block ends it is synced and becomes `path`.

    `path` must not exist or be empty. When the block raises, nothing is left behind. Raises OSError.
    """
    temporary = _staging_name(path)
    try:
        os.mkdir(temporary)
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync_path(Path(folder, name))
            sync_directory(Path(folder))
        os.rename(temporary, path)  # POSIX lets a folder replace an empty one
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)


def replace_symlink_atomically(link: Path, target: Path | str) -> None:
    """Point `link` at `target` (as written, so a relative target stays relative). Raises OSError."""
    temporary = _staging_name(link)
    try:
        os.symlink(target, temporary)
        os.replace(temporary, link)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(link.parent)


def remove_durably(path: Path) -> None:
    """Remove a file or symlink; it is fine when it is not there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sync_directory(path.parent)


def append_line_durably(path: Path, line: str) -> None:
    """Append `line` (without its newline) to a log and flush it to disk.

    A crash in the middle of an earlier append leaves a line without its newline. It was never acknowledged,
    so it is cut off here before the new line goes in; `read_whole_lines` skips it meanwhile.

    Raises:
        ValueError: `line` holds a newline.
        OSError: the file system refused.
    """
    if "\n" in line:
        raise ValueError(f"a log line must not contain a newline: {line[:80]!r}")
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        whole = _length_of_whole_lines(descriptor)
        if whole != os.fstat(descriptor).st_size:
            os.ftruncate(descriptor, whole)
        _write_all(descriptor, (line + "\n").encode("utf-8"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        sync_directory(path.parent)


def read_whole_lines(path: Path) -> list[str]:
    """The acknowledged lines of a log; an absent file has none. Raises OSError, UnicodeDecodeError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return data[: data.rfind(b"\n") + 1].decode("utf-8").splitlines()


def remove_staging_leftovers(directory: Path) -> None:
    """Remove what a killed writer left half written in `directory`. Call only under its writer's lock."""
    for leftover in staging_leftovers(directory):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def staging_leftovers(directory: Path) -> Iterator[Path]:
    """Half-written files and folders that a killed writer left in `directory`."""
    return directory.glob(f"{STAGING_PREFIX}*")


def remove_abandoned_staging(directory: Path) -> None:
    """Remove what writers without a lock (recorders, exports) left half written in `directory` a day ago or more.

    A younger one may be at work: whoever writes for longer writes some file of it in that time. What cannot be
    removed stays for the next call.
    """
    for leftover in staging_leftovers(directory):
        with contextlib.suppress(OSError):
            if _STAGED.match(leftover.name) and time.time() - _last_written(leftover) > ABANDONED_S:
                if leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()


def _last_written(path: Path) -> float:
    inside = list(path.rglob("*")) if path.is_dir() and not path.is_symlink() else []
    return max(entry.lstat().st_mtime for entry in [path, *inside])


def sync_directory(directory: Path) -> None:
    """Flush a folder's entries (creations, renames, removals) to disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _staging_name(path: Path) -> Path:
    return path.with_name(f"{STAGING_PREFIX}{secrets.token_hex(4)}-{path.name}")


def _write_new_file(path: Path, data: bytes, *, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _length_of_whole_lines(descriptor: int, *, window: int = 65536) -> int:
    """Bytes up to and including the last newline, read backwards so that a long log costs nothing."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - window)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
