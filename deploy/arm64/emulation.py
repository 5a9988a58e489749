"""Runs arm64 programs of an unpacked Debian on this machine, on a Cortex-A76 as qemu emulates it.

Everything happens in namespaces of its own: the kernel knows of the emulator only there, there is no network, and
what is mounted is gone with the last process. The kernel must be 6.7 or newer (binfmt_misc in a user namespace).
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

CPU = "cortex-a76"
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: it does not outlive this program, however that ends."""
_EMULATOR = "/usr/bin/qemu-aarch64-static"
_MAGIC = "7f454c460201010000000000000000000200b700"
_MASK = "ffffffffffffff00fffffffffffffffffeffffff"
"""An ELF header: 64 bits, little endian, executable or shared object, AArch64 (elf.h, EM_AARCH64 = 183)."""


def binfmt_line() -> str:
    """What registers the emulator; flags: O open the binary first, C its credentials, F open the emulator now (the
    root has none). Format: kernel, Documentation/admin-guide/binfmt-misc.rst."""

    def escaped(digits: str) -> str:
        return "".join(f"\\x{digits[i : i + 2]}" for i in range(0, len(digits), 2))

    return f":aarch64:M::{escaped(_MAGIC)}:{escaped(_MASK)}:{_EMULATOR}:OCF"


def script(root: Path, command: Sequence[str], binds: Mapping[Path, str], env: Mapping[str, str]) -> str:
    """What the shell in the namespace does.

    Args:
        binds: path of this machine -> where in the root; it must exist there.
        env: the whole environment of the command.
    """
    q = shlex.quote
    lines = ["set -e", "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc"]
    lines.append(f"printf %s {q(binfmt_line())} > /proc/sys/fs/binfmt_misc/register")
    for name in ("dev", "sys", "proc"):
        lines.append(f"mount --rbind /{name} {q(str(root / name))}")
    lines += [f"mount --bind {q(str(here))} {q(f'{root}{there}')}" for here, there in binds.items()]
    variables = " ".join(q(f"{name}={value}") for name, value in {**env, "QEMU_CPU": CPU}.items())
    lines.append(f"exec env -i {variables} {q(_CHROOT)} {q(str(root))} {' '.join(map(q, command))}")
    return "\n".join(lines)


_CHROOT = "/usr/sbin/chroot"


def run_emulated(
    root: Path,
    command: Sequence[str],
    *,
    binds: Mapping[Path, str],
    env: Mapping[str, str],
    timeout_s: float,
) -> subprocess.CompletedProcess[str]:
    """Run a command of the root to its end. Raises subprocess.TimeoutExpired; nothing of it runs on then."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--ipc", "--pid", "--fork"]
    return subprocess.run(
        [
            *DIES_WITH_US,
            *namespace,
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            script(root, command, binds, env),
        ],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
