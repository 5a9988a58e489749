"""Opening files that others wrote: regular files only, and never more of one than its reader can use.

A named pipe where a file is expected blocks its reader for ever, and a link to `/dev/zero` has no end. So every
reader of this room opens through here.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

from continuonbrain.rlds.errors import EpisodeError


def open_regular(path: Path) -> io.BufferedReader:
    """`path` opened for reading.

    Raises:
        OSError: it cannot be opened, or it is a folder, a pipe or a device.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL byte or half a surrogate pair in a name that a file gave
        raise OSError(errno.EINVAL, f"not a name of a file ({error})", str(path)) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file (or a link to one); False for any name that the system refuses."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def data_files(folder: Path, pattern: str) -> list[Path]:
    """The regular files of `folder` that match `pattern`, in their order, without hidden ones."""
    return sorted(file for file in folder.glob(pattern) if file.name[0] != "." and is_regular(file))


def read_limited(path: Path, limit: int) -> bytes:
    """The whole of a file of at most `limit` bytes.

    Raises:
        EpisodeError: the file is longer; nothing of it was read.
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise EpisodeError(f"a file of {size} bytes is too long, {limit} are read at most", file=path)
        data = file.read(limit + 1)  # it may have grown since
    if len(data) > limit:
        raise EpisodeError(f"the file is longer than {limit} bytes", file=path)
    return data
