"""What both checks stand on, made in a work folder and kept there: an arm64 Debian, its kernel, and the package with
exactly the versions of constraints.txt.

Nothing is installed on this machine: packages are unpacked into folders, wheels for aarch64 are unpacked by uv, which
(unlike pip's --platform) reads environment markers for the target. torch is 2.10.0 there and 2.13.0 here by them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
PYTHON = "3.11"
"""Of the suite."""
PLATFORM = "aarch64-manylinux_2_36"
"""The suite's glibc, for wheels."""
WORK = Path("/var/tmp/continuonbrain-arm64")

_PACKAGES = (
    "base-files", "base-passwd", "bash", "busybox-static", "ca-certificates", "coreutils", "dash", "grep", "libc-bin",
    "libstdc++6", "mount", "procps", "python3", "sed", "tzdata",
)  # fmt: skip
_KERNEL = "linux-image-cloud-arm64"

TOOLS = {"mmdebstrap": "mmdebstrap", "uv": "uv (pip install uv)"}
USER_EMULATION = {"qemu-aarch64-static": "qemu-user-static", "unshare": "util-linux", "setpriv": "util-linux"}
MACHINE_EMULATION = {
    "qemu-system-aarch64": "qemu-system-arm", "mkfs.ext4": "e2fsprogs", "setpriv": "util-linux",
}  # fmt: skip


def missing(
    tools: dict[str, str], *, uid: int, release: str, which: Callable[[str], str | None] = shutil.which
) -> list[str]:
    """What keeps this machine from running a check, each with its remedy; empty when nothing does.

    Args:
        tools: program -> the Debian package that has it.
        uid: of the caller; 0 is needed to unpack packages and to mount.
        release: of this machine's kernel.
    """
    problems = [] if uid == 0 else ["this needs root, to unpack packages and to mount; start it with sudo"]
    packages = sorted({package for tool, package in tools.items() if which(tool) is None})
    for package in packages:
        absent = ", ".join(tool for tool, of in tools.items() if of == package and which(tool) is None)
        how = "pip install uv" if package.startswith("uv ") else f"apt-get install {package}"
        problems.append(f"{absent} is not installed; {how}")
    version = re.match(r"(\d+)\.(\d+)", release)
    if "qemu-aarch64-static" in tools and (version is None or (int(version[1]), int(version[2])) < (6, 7)):
        problems.append(
            f"kernel {release} has no binfmt_misc of its own for a user namespace, 6.7 is the first that has; "
            "boot a newer one (Debian 12: apt-get install -t bookworm-backports linux-image-amd64)"
        )
    return problems


def require(*tools: dict[str, str]) -> None:
    """End the program with everything that is missing."""
    os.environ["PATH"] += ":/usr/sbin:/sbin:" + str(Path(sys.executable).parent)
    problems = missing(
        {name: of for group in tools for name, of in group.items()},
        uid=os.geteuid(),
        release=os.uname().release,
    )
    if problems:
        raise SystemExit("\n".join(problems))


@contextlib.contextmanager
def locked(work: Path) -> Iterator[None]:
    """Make the work folder and keep a second run out of it."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another check works in {work}; wait for it, or give another --work") from None
        for left_by_a_kill in (*work.glob("run-*"), *work.glob("cut-*")):
            shutil.rmtree(left_by_a_kill)
        yield


def run(command: Sequence[str | Path], *, timeout_s: float = 900.0) -> None:
    """A tool of this machine; its output only when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        text = (done.stdout + done.stderr)[-3000:]
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{text}")


def _unpacked(folder: Path, packages: Sequence[str]) -> Path:
    whole = folder.with_name(folder.name + ".whole")
    asked = " ".join([SUITE, *packages])
    if not whole.exists() or whole.read_text() != asked:
        whole.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        options = ["--variant=extract", "--arch=arm64", f"--include={','.join(packages)}"]
        run(["mmdebstrap", *options, SUITE, folder])
        whole.write_text(asked)
    return folder


def debian(work: Path) -> Path:
    """An arm64 Debian with Python: unpacked, not set up; enough to run programs in."""
    root = _unpacked(work / "root", _PACKAGES)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    for folder in ("opt/site", "opt/compiled", "src", "mnt", "root", "tmp", "dev", "proc", "sys"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    return root


def kernel(work: Path) -> Path:
    """A folder with Debian's arm64 kernel in `boot` and its modules in `lib/modules`."""
    return _unpacked(work / "kernel", [_KERNEL])


def site(work: Path, name: str, *, extras: str = "", others: Sequence[str] = ()) -> Path:
    """A folder for PYTHONPATH: this repository's package and what it needs, made for aarch64.

    Made anew every time (seconds, from uv's cache), so that it is what the repository holds now.
    """
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)
    package = f"{REPOSITORY}[{extras}]" if extras else str(REPOSITORY)
    run(
        [
            *("uv", "pip", "install", "--python-platform", PLATFORM, "--python-version", PYTHON),
            *("--only-binary", ":all:", "--no-binary", "continuonbrain"),
            *("--reinstall-package", "continuonbrain", "--target", str(folder)),
            *("--constraint", str(REPOSITORY / "constraints.txt"), package, *others),
        ]
    )  # fmt: skip
    return folder
