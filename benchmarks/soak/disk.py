"""A small file system of the soak's own, which can be filled to the last byte: the ENOSPC is the kernel's.

The benchmark starts itself again in a mount namespace of its own (`unshare`), where it may mount a tmpfs also without
being root; with the last process the mount is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

_INSIDE = "CONTINUONBRAIN_SOAK_INSIDE"
_FILLER = "filler"
_CHUNK = b"\0" * 2**20


def inside_namespace() -> bool:
    """Whether this process may mount for itself. Where it may not yet, it is replaced by one that may; False where the
    machine does not let it.
    """
    if os.environ.get(_INSIDE):
        return True
    unshare = shutil.which("unshare")
    flags = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    if unshare is None or subprocess.run([unshare, *flags, "true"], capture_output=True).returncode != 0:
        return False
    os.environ[_INSIDE] = "1"
    module = [sys.executable, "-m", "benchmarks.soak", *sys.argv[1:]]
    return os.execv(unshare, [unshare, *flags, "--", *module])


def mount_small(folder: Path, mib: int) -> None:
    """A tmpfs of so many MiB at `folder`. Raises `OSError` when that is refused."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=755", "soak", str(folder)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise OSError(errno.EPERM, done.stderr.strip(), str(folder))


def unmount(folder: Path) -> None:
    """Lazily: whoever still has a file open there keeps it."""
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def fill(folder: Path) -> None:
    """Take every byte that is free; called again it takes what was freed meanwhile."""
    with contextlib.suppress(OSError), (folder / _FILLER).open("ab", buffering=0) as file:
        while True:
            file.write(_CHUNK[: max(1, min(len(_CHUNK), shutil.disk_usage(folder).free))])


def free(folder: Path) -> None:
    """Give all of it back."""
    (folder / _FILLER).unlink(missing_ok=True)
