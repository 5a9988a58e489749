"""One writer at a time: an advisory lock on a file, released by the kernel when its holder dies.

`flock` belongs to the open file, so SIGKILL, a power cut or a crash never leaves a stale lock. The holder's
pid in the file is a label for people; it never decides anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from continuonbrain.errors import BrainError, belongs_to_another

_POLL_S = 0.05


class LockHeldError(BrainError):
    """Another process holds the lock.

    Attributes:
        path: the lock file.
        pid: who holds it, or None when that could not be read.
    """

    def __init__(self, path: Path, pid: int | None, *, purpose: str) -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"{purpose}: {holder} is already doing this (lock {path})",
            remedy="wait for it to finish, or end it (Ctrl-C) where it was started"
            + ("" if pid is None else f": ps -f {pid} shows what it is"),
        )
        self.path = path
        self.pid = pid


class LockFileError(BrainError):
    """The lock file cannot be opened or locked: a read-only folder, a full disk, no rights."""

    def __init__(self, path: Path, error: OSError, *, purpose: str) -> None:
        super().__init__(
            f"{purpose}: the lock {path} cannot be taken: {error.strerror or error}",
            remedy=f"make {path.parent} writable for this user, on a disk that is mounted writable and not full",
        )
        self.path = path


class ProcessLock:
    """A context manager that holds `path` exclusively.

    Args:
        path: the lock file; created when absent, never removed (removing it would let two holders in).
        purpose: what the holder does, for the error message ("train on /brain").
        timeout_s: how long to wait for another holder; 0 refuses at once.
    """

    def __init__(self, path: Path, *, purpose: str, timeout_s: float = 0.0) -> None:
        self._path = path
        self._purpose = purpose
        self._timeout_s = timeout_s
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises LockHeldError after `timeout_s`, LockFileError when the file cannot be used, RuntimeError when
        held by this object.
        """
        if self._descriptor is not None:
            raise RuntimeError(f"lock {self._path} is already held by this object")
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if isinstance(error, PermissionError) and (another := belongs_to_another(self._path)) is not None:
                raise another from error
            raise LockFileError(self._path, error, purpose=self._purpose) from error
        deadline = time.monotonic() + self._timeout_s
        try:
            while not _try_flock(descriptor):
                if time.monotonic() >= deadline:
                    raise LockHeldError(self._path, _read_pid(descriptor), purpose=self._purpose)
                time.sleep(_POLL_S)
            with contextlib.suppress(OSError):  # a label; a full disk must not keep the lock from its holder
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise LockFileError(self._path, error, purpose=self._purpose) from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; harmless when not held."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)

    def __enter__(self) -> ProcessLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock in `path` now."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try_flock(descriptor)
    finally:
        os.close(descriptor)


def _try_flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _read_pid(descriptor: int) -> int | None:
    try:
        return int(os.pread(descriptor, 32, 0).decode())
    except (OSError, ValueError):
        return None
