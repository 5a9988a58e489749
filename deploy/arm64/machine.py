"""An emulated arm64 machine: qemu's "virt" board with a Cortex-A76, Debian's own arm64 kernel, disks, a serial console.

The root file system is a disk that is only read. Disks are told apart by their serial numbers.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cpio
from debian_root import MACHINE_EMULATION, REPOSITORY, debian, run, site
from debian_root import kernel as unpacked_kernel
from emulation import CPU

__all__ = ["CPU", "MACHINE_EMULATION", "Machine", "built"]

_MODULES = ("virtio_pci", "virtio_blk", "loop")
"""What finds the disks and mounts parts of them. What is built in is no file."""
_ROOT_BYTES = 768 << 20


@dataclass(frozen=True)
class Machine:
    """What boots.

    Attributes:
        release: of the kernel.
        kernel, initrd, root: files.
    """

    release: str
    kernel: Path
    initrd: Path
    root: Path

    def start(self, words: str, *disks: str) -> subprocess.Popen[bytes]:
        """Boot; the console is the process's stdout.

        Args:
            words: for the kernel's command line.
            disks: arguments of qemu that add disks.
        """
        return subprocess.Popen(
            [
                *(
                    "qemu-system-aarch64",
                    "-M",
                    "virt",
                    "-cpu",
                    CPU,
                    "-m",
                    "1024",
                    "-nodefaults",
                    "-no-reboot",
                ),
                *("-display", "none", "-serial", "stdio", "-kernel", self.kernel, "-initrd", self.initrd),
                *("-append", f"console=ttyAMA0 quiet panic=-1 {words}"),
                *disk("root", f"driver=file,filename={self.root},node-name=root,read-only=on"),
                *disks,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is this program's, which ends the machine
        )


def disk(serial: str, *nodes: str) -> list[str]:
    """Arguments for a disk. nodes: its block nodes, the last one named as the serial."""
    return [
        *(word for node in nodes for word in ("-blockdev", node)),
        *("-device", f"virtio-blk-pci,drive={serial},serial={serial}"),
    ]


def logged_disk(serial: str, image: Path, log: Path) -> list[str]:
    """A disk whose writes and flushes are logged in order. See `write_log.py`."""
    return disk(
        serial,
        f"driver=file,filename={image},node-name={serial}-file",
        f"driver=file,filename={log},node-name={serial}-log",
        f"driver=blklogwrites,node-name={serial},file={serial}-file,log={serial}-log,log-sector-size=512",
    )


def in_order(wanted: Sequence[str], modules: Mapping[str, bytes]) -> list[str]:
    """The modules that are there, each after what it depends on (the line "depends=" of a module's .modinfo)."""
    found: list[str] = []
    for name in wanted:
        if name in modules and name not in found:
            depends = re.search(rb"\0depends=([^\0]*)\0", modules[name])
            needed = depends[1].decode().split(",") if depends else []
            found += [n for n in in_order([d.replace("-", "_") for d in needed], modules) if n not in found]
            found.append(name)
    return found


def built(work: Path, init: Path, programs: list[Path]) -> Machine:
    """Make the root disk (Debian, the package with what recorder and store need, `programs` in /opt/powercut) and the
    first file system."""
    found = unpacked_kernel(work)
    (image,) = (found / "boot").glob("vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    root = debian(work)
    site(work / "root/opt", "core")
    there = root / "opt/powercut"
    shutil.rmtree(there, ignore_errors=True)
    (there / "benchmarks").mkdir(parents=True)
    for program in programs:
        shutil.copy(program, there)
    shutil.copy(REPOSITORY / "benchmarks/small_verdict.py", there / "benchmarks")
    root_image = work / "root.img"
    root_image.unlink(missing_ok=True)
    with root_image.open("wb") as file:
        file.truncate(_ROOT_BYTES)
    run(["mkfs.ext4", "-q", "-d", root, root_image])

    of_kernel = (found / "lib/modules" / release).rglob("*.ko")
    modules = {path.stem.replace("-", "_"): path.read_bytes() for path in of_kernel}
    there_are = in_order(_MODULES, modules)
    files = {"init": init.read_bytes(), "bin/busybox": (root / "bin/busybox").read_bytes()}
    files |= {f"modules/{name}.ko": modules[name] for name in there_are}
    files["modules/order"] = "".join(f"{name}.ko\n" for name in there_are).encode()
    initrd = work / "initrd"
    initrd.write_bytes(cpio.archive(files))
    return Machine(release, image, initrd, root_image)
