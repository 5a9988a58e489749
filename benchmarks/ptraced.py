"""Stop a process at each of its file-system calls: ptrace, without a compiler or strace.

A child of a warm parent is traced from its first call on; at the n-th call that may change a file system it is
killed, before the kernel does the call, in the middle of it (a write of which half arrives), or after. What lies in
the kernel's cache stays, as it does when a process dies: a power cut is not imitated.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

_TRACEME, _CONT, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 7, 24, 0x4200, 0x420E
_TRACESYSGOOD, _EXITKILL = 0x1, 0x100000
_ENTRY, _EXIT = 1, 2
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

When = Literal["before", "torn", "after"]

# Names by number, of the calls that may change a file system or a lock (asm/unistd_64.h; asm-generic/unistd.h).
_X86_64 = {
    1: "write", 2: "open", 18: "pwrite64", 20: "writev", 40: "sendfile", 73: "flock", 74: "fsync", 75: "fdatasync",
    76: "truncate", 77: "ftruncate", 82: "rename", 83: "mkdir", 84: "rmdir", 85: "creat", 86: "link", 87: "unlink",
    88: "symlink", 90: "chmod", 91: "fchmod", 92: "chown", 93: "fchown", 132: "utime", 133: "mknod", 235: "utimes",
    257: "openat", 258: "mkdirat", 259: "mknodat", 260: "fchownat", 261: "futimesat", 263: "unlinkat",
    264: "renameat", 265: "linkat", 266: "symlinkat", 268: "fchmodat", 277: "sync_file_range", 280: "utimensat",
    285: "fallocate", 296: "pwritev", 316: "renameat2", 326: "copy_file_range", 328: "pwritev2", 437: "openat2",
}  # fmt: skip
_AARCH64 = {
    64: "write", 68: "pwrite64", 66: "writev", 71: "sendfile", 32: "flock", 82: "fsync", 83: "fdatasync",
    45: "truncate", 46: "ftruncate", 34: "mkdirat", 35: "unlinkat", 36: "symlinkat", 37: "linkat", 38: "renameat",
    33: "mknodat", 52: "fchmod", 53: "fchmodat", 54: "fchownat", 55: "fchown", 56: "openat", 47: "fallocate",
    70: "pwritev", 84: "sync_file_range", 88: "utimensat", 276: "renameat2", 285: "copy_file_range", 287: "pwritev2",
    437: "openat2",
}  # fmt: skip
_CALLS = {0xC000003E: _X86_64, 0xC00000B7: _AARCH64}


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info, with what follows its head as seven numbers."""

    _fields_ = [
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64),
        ("sp", ctypes.c_uint64),
        ("values", ctypes.c_uint64 * 7),
    ]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Call:
    """A call that may change a file system. size: bytes of a write to a file, 0 for others."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How the traced process ended. calls: seen up to then; killed: by us; code: its exit code or -signal."""

    calls: tuple[Call, ...]
    killed: bool
    code: int


def trace(act: Callable[[], None], *, kill_at: int | None = None, when: When = "before") -> Ended:
    """Do `act` in a traced child; kill that at its call number `kill_at`, counted from 0. None lets it finish.

    Raises OSError where ptrace is not allowed, or the machine's calls are not known.
    """
    pid = os.fork()
    if pid == 0:
        _child(act)
    try:
        return _watch(pid, kill_at, when)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _child(act: Callable[[], None]) -> None:
    code = 99
    try:
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        act()
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        code = 1
    finally:
        os._exit(code)


def _watch(pid: int, kill_at: int | None, when: When) -> Ended:
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        raise OSError(f"ptrace is not allowed here: the child ended with {status}")
    _ptrace(_SETOPTIONS, pid, _TRACESYSGOOD | _EXITKILL)
    calls: list[Call] = []
    deliver, at_exit = 0, False
    while True:
        _ptrace(_SYSCALL, pid, deliver)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            code = os.waitstatus_to_exitcode(status)
            return Ended(tuple(calls), False, code)
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            deliver = os.WSTOPSIG(status)
            continue
        deliver = 0
        info = _Info()
        _ptrace(_GET_SYSCALL_INFO, pid, ctypes.addressof(info), size=ctypes.sizeof(info))
        if info.op == _EXIT:
            if at_exit:
                return _killed(pid, calls)
            continue
        if info.op != _ENTRY:
            continue
        call = _call(pid, info)
        if call is None:
            continue
        calls.append(call)
        if len(calls) - 1 != kill_at:
            continue
        if when == "after":
            at_exit = True
            continue
        if when == "torn":
            _write_half(pid, info)
        return _killed(pid, calls)


def _killed(pid: int, calls: list[Call]) -> Ended:
    # At a stop before a call a fatal signal keeps the kernel from doing it.
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return Ended(tuple(calls), True, os.waitstatus_to_exitcode(status))


def _call(pid: int, info: _Info) -> Call | None:
    names = _CALLS.get(info.arch)
    if names is None:
        raise OSError(f"the calls of architecture {info.arch:#x} are not known; known: x86_64, aarch64")
    number, *arguments = info.values
    name = names.get(number)
    if name is None:
        return None
    if name in ("open", "openat") and not arguments[1 if name == "open" else 2] & _WRITES:
        return None
    if name not in ("write", "pwrite64"):
        return Call(name, 0)
    target = os.readlink(f"/proc/{pid}/fd/{arguments[0]}")
    return Call(name, int(arguments[2]) if target.startswith("/") and arguments[0] > 2 else 0)


def _write_half(pid: int, info: _Info) -> None:
    """What a write leaves that is cut short: its first half, put there in the process's place."""
    number, descriptor, address, size, offset, *_ = info.values
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        data = os.pread(memory.fileno(), size // 2, address)
    with open(f"/proc/{pid}/fdinfo/{descriptor}") as file:
        told = file.read()
    flags = int(re.findall(r"flags:\s*(\d+)", told)[0], 8)
    at = offset if _CALLS[info.arch][number] == "pwrite64" else int(re.findall(r"pos:\s*(\d+)", told)[0])
    path = f"/proc/{pid}/fd/{descriptor}"
    mine = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(mine, data, os.fstat(mine).st_size if flags & os.O_APPEND else at)
    finally:
        os.close(mine)


def _ptrace(request: int, pid: int, data: int = 0, *, size: int = 0) -> None:
    if _libc.ptrace(request, pid, size or None, data or None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")
