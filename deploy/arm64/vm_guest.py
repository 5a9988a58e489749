"""Runs in the emulated machine when it has started: every part in turn, a line of JSON on the serial port for each."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import vm_machine
import vm_parts

MARK = "@@ "
_PORT = Path("/dev/ttyAMA0")


def tell(what: dict[str, object], port_path: Path) -> None:
    """To the computer outside."""
    with port_path.open("a") as port:
        port.write(f"\n{MARK}{json.dumps(what)}\n")


def main() -> int:
    """1 when a part failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=Path, default=_PORT, help="where lines are told")
    parser.add_argument(
        "--parts", default="", help="names with commas; else what the kernel was told, else all"
    )
    options = parser.parse_args()
    version = vm_machine.run(["systemctl", "--version"]).split()[1]
    about = {"systemd": version, "kernel": platform.release(), "machine": platform.machine()}
    tell({**about, "python": sys.version.split()[0]}, options.port)
    ok = True
    words = f"parts={options.parts}" if options.parts else Path("/proc/cmdline").read_text()
    only = vm_machine.asked_for(words)
    for part in vm_parts.ALL:
        if only and part.__name__ not in only:
            continue
        began = time.monotonic()
        told: dict[str, object] = {"name": part.__name__}
        try:
            told |= {"detail": part(), "ok": True}
        except (vm_machine.Failed, OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            told |= {"detail": f"{type(error).__name__}: {error}", "ok": False}
            ok = False
            lines = subprocess.run(
                ["journalctl", "--no-pager", "-o", "short-monotonic", "-n", "40"],
                capture_output=True,
                text=True,
            )
            told["journal"] = lines.stdout[-8000:]
        told["seconds"] = round(time.monotonic() - began, 1)
        tell(told, options.port)
        if not ok and part is vm_parts.installs:
            break
    tell({"end": True, "ok": ok}, options.port)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
