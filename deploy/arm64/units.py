"""The systemd units in an emulated machine: arm64, Cortex-A76, Debian 12's systemd and kernel.

    sudo python deploy/arm64/units.py [--json] [--work FOLDER]
    sudo python deploy/arm64/units.py --container         # this computer's own systemd, in a container: minutes

Makes a disk with the package (`vm_image.py`), starts it in qemu without a network, and runs `continuonbrain install`,
the four services and everything that may happen to them in it (`vm_parts.py`): ready by Type=notify, driving and
stopping, SIGKILL, a process that hangs, too much memory, the walls, devices, a person's own choices, uninstall.
--container does the same with this computer's Debian 12, without devices (`vm_container.py`): `emulated` is false then.
Needs qemu-system-arm, mmdebstrap, e2fsprogs, kmod, cpio, uv and root; about ten minutes and 6 GB in the work folder.
It says nothing about time on a Pi: an emulated core is many times slower.

JSON: `parts` (name, ok, seconds inside, detail), `systemd`, `kernel`, `machine`, `python`, `cpu`, `emulated`, `ok`.
Exit code 1 when a part failed.
"""

from __future__ import annotations

import argparse
import json
import platform
import selectors
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vm_container import parts_here, prepare
from vm_image import BuildError, Built, build
from vm_report import Report

_TREE = Path(__file__).resolve().parents[2]
_CPU = "cortex-a76"
_MEMORY_MIB = 3072
_LIMIT_S = 3600.0
_WORDS = "console=ttyAMA0 loglevel=1 systemd.show_status=0 systemd.log_target=journal panic=-1"


def machine(built: Built, only: str = "") -> list[str]:
    """qemu's command line. only: names of parts, with commas; "" for all."""
    words = f"{_WORDS} parts={only}" if only else _WORDS
    return [
        *("qemu-system-aarch64", "-M", "virt", "-cpu", _CPU, "-accel", "tcg,thread=multi", "-smp", "2"),
        *("-m", str(_MEMORY_MIB), "-nic", "none", "-nographic", "-no-reboot"),
        *("-kernel", str(built.kernel), "-initrd", str(built.initrd), "-append", words),
        *("-drive", f"file={built.disk},format=raw,if=virtio,cache=unsafe"),
    ]


def told_by(container: Sequence[str], work: Path) -> list[str]:
    """A command that prints what comes out of the container, until that has ended."""
    log, told = shlex.quote(str(work / "container.log")), shlex.quote(str(work / "told/port"))
    run = f"timeout {_LIMIT_S:.0f} {shlex.join(container)} </dev/null >{log} 2>&1"
    return ["bash", "-c", f"{run} & exec tail -q -n +1 --pid=$! -f {told}"]


def watch(command: Sequence[str], report: Report, log: Path, *, say: bool, limit_s: float = _LIMIT_S) -> None:
    """Run the machine until it has ended, or limit_s have passed; its console goes into `log`."""
    end = time.monotonic() + limit_s
    with log.open("wb") as console:
        qemu = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert qemu.stdout is not None
        try:
            with selectors.DefaultSelector() as waiting:
                waiting.register(qemu.stdout, selectors.EVENT_READ)
                while (left := end - time.monotonic()) > 0:
                    if not waiting.select(min(left, 5.0)):
                        continue
                    data = qemu.stdout.read1(65536)  # type: ignore[attr-defined]
                    if not data:
                        break
                    console.write(data)
                    console.flush()
                    for part in report.feed(data):
                        if say:
                            print(part.line(), flush=True)
        finally:
            qemu.kill()
            qemu.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/continuonbrain-units"), help="its folder")
    parser.add_argument("--reuse", action="store_true", help="start the disk that is there, as it was left")
    parser.add_argument(
        "--only", default="", help="parts to run, with commas between; for a disk that is left"
    )
    parser.add_argument("--container", action="store_true", help="no emulation: this computer's systemd")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    report = Report(cpu=_CPU)
    try:
        if options.container:
            report = Report(cpu=platform.machine(), emulated=False)
            command = told_by(prepare(_TREE, options.work, parts_here(options.only)), options.work)
        else:
            built = Built(options.work / "vmlinuz", options.work / "initrd", options.work / "disk.img")
            if not options.reuse:
                built = build(_TREE, options.work, lambda words: print(f"... {words}", file=sys.stderr))
            command = machine(built, options.only)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 2
    watch(command, report, options.work / "console.log", say=not options.json)
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print(report.summary())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
