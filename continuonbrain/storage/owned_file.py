"""Files that decide whom this brain trusts are read only where nobody else could have written, or read, them.

A key file that a group may write is no evidence of what its owner wanted, and a private key that others can read is no
longer private: both are refused instead of used (as OpenSSH does it). Links are not followed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from continuonbrain.errors import BrainError
from continuonbrain.storage.durable import sync_directory

LARGEST = 64 << 10
"""Bytes. No file that is read here is a tenth of it."""


class FileNotSafeError(BrainError):
    """A file or folder belongs to somebody else, or others can write (or read) it."""


def read_owned(path: Path, *, private: bool = False) -> bytes:
    """The content of `path`, a small regular file of this user (or root) that nobody else can write.

    Args:
        private: nobody else may read it either, and it must be this user's own.

    Raises:
        FileNotFoundError: it is not there.
        FileNotSafeError: it is a link, no file, too large, another's, or open to others; so is its folder.
    """
    check_folder(path.parent, private=private)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileNotSafeError(
            f"{path} cannot be read: {error.strerror}", remedy="it must be a file of this user, not a link"
        ) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            raise FileNotSafeError(
                f"{path} is no file of at most {LARGEST} bytes", remedy="move it away and make it again"
            )
        _check(path, found, private=private)
        data = b""
        while len(data) <= LARGEST and (piece := os.read(descriptor, LARGEST)):
            data += piece
        return data
    finally:
        os.close(descriptor)


def check_folder(path: Path, *, private: bool = False) -> None:
    """Raises FileNotSafeError when others can put files into the folder, FileNotFoundError when there is none."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise FileNotSafeError(f"{path} is not a folder", remedy="move it away")
    _check(path, found, private=private)


def make_folder(path: Path, *, private: bool = False) -> None:
    """Make the folder where it is absent, 0700 when private, else 0755, durably. Raises OSError, FileNotSafeError."""
    if not path.is_dir():
        if not path.parent.is_dir():
            make_folder(path.parent)
        path.mkdir(mode=0o700 if private else 0o755, exist_ok=True)
        sync_directory(path.parent)
    check_folder(path, private=private)


def _check(path: Path, found: os.stat_result, *, private: bool) -> None:
    user = os.geteuid()
    if found.st_uid != user and (private or found.st_uid != 0):
        raise FileNotSafeError(
            f"{path} belongs to user {found.st_uid}, not to {user}",
            remedy=f"run as its owner, or: sudo chown {user} {path}",
        )
    forbidden = 0o077 if private else 0o022
    if found.st_mode & forbidden:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        wanted = "go-rwx" if private else "go-w"
        what = "read or write" if private else "write"
        raise FileNotSafeError(
            f"{path} has mode {mode}: others can {what} it", remedy=f"if nobody did: chmod {wanted} {path}"
        )
