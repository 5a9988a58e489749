"""The same checks without an emulated machine: this computer's own Debian and its systemd, in a container.

A copy of everything (an overlay in memory) is thrown away afterwards; nothing of this computer is changed. It is as
quick as the computer is, and shows systemd, units and walls, but no arm64, no devices and no kernel of Debian's.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from vm_image import CHECK, GROUPS, GUEST, VENV, BuildError

PARTS = (
    *(
        "installs",
        "slows_down",
        "becomes_ready",
        "drives_and_stops",
        "comes_back_from_kill",
        "watchdog_restarts",
    ),
    *("memory_limit", "walls_hold", "choices_stay", "uninstalls"),
)
"""Not `devices`: the kernel's are not to be had."""
_OUT = "/opt/told"
_SYSTEM_PYTHON = Path("/usr/bin/python3.11")
_UNIT = """\
[Unit]
After=basic.target

[Service]
Type=exec
ExecStart={python} -u /{check}/vm_guest.py --port {out}/port --parts {parts}
TimeoutStartSec=infinity
ExecStopPost=/bin/systemctl poweroff --force
"""
_TARGET = """\
[Unit]
Requires=basic.target
After=basic.target
Wants=continuonbrain-check.service
AllowIsolate=yes
"""
_SCRIPT = """\
set -e
mount --make-rprivate /
mount -t tmpfs -o size=2g tmpfs {work}/upper
mkdir {work}/upper/files {work}/upper/work
mount -t overlay overlay -o lowerdir=/,upperdir={work}/upper/files,workdir={work}/upper/work {work}/root
mkdir -p {work}/root/opt/continuonos {work}/root/home
rm -f {work}/root/etc/systemd/system/*.wants/*
rm -rf {work}/root/etc/systemd/system/continuonbrain* {work}/root/var/lib/continuonbrain
for group in {groups}; do
  grep -q "^$group:" /etc/group || groupadd --root {work}/root --system $group
done
exec systemd-nspawn --quiet --register=no --keep-unit -M continuonbrain-check -D {work}/root --private-network \\
  --console=pipe {binds} /usr/lib/systemd/systemd --unit=continuonbrain-check.target --show-status=no
"""


def parts_here(only: str = "", cgroups: Path = Path("/sys/fs/cgroup")) -> tuple[str, ...]:
    """Those that are asked for, else all that can be shown: a memory limit only where the kernel's groups are those of
    a Raspberry Pi OS (version 2)."""
    if only:
        return tuple(only.split(","))
    unified = (cgroups / "cgroup.controllers").exists()
    return tuple(part for part in PARTS if unified or part != "memory_limit")


def need_tools(which: Callable[[str], str | None] = shutil.which) -> None:
    """Raises BuildError naming what is missing."""
    missing = [] if which("systemd-nspawn") else ["sudo apt install systemd-container"]
    missing += (
        []
        if _SYSTEM_PYTHON.exists()
        else [f"{_SYSTEM_PYTHON} (the environment's own Python is hidden by the walls)"]
    )
    if missing:
        raise BuildError("missing: " + "; ".join(missing))


def prepare(tree: Path, work: Path, parts: Sequence[str] = PARTS) -> list[str]:
    """Make what the container sees in `work`; the command that runs it. What it tells comes into `work`/told/port.

    Raises BuildError.
    """
    if os.geteuid() != 0:
        raise BuildError("a container with a system in it needs root")
    need_tools()
    for name in ("upper", "root", "told", "check", "units"):
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).mkdir(parents=True)
    site = work / "venv/lib/python3.11/site-packages"
    shutil.rmtree(work / "venv", ignore_errors=True)
    site.mkdir(parents=True)
    (work / "venv/bin").mkdir()
    (work / "venv/bin/python").symlink_to(_SYSTEM_PYTHON)
    (work / "venv/pyvenv.cfg").write_text(
        "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n"
    )
    (site / "all.pth").write_text("/opt/continuonos/tree\n/opt/continuonos/packages\n")
    for name in GUEST:
        shutil.copy(Path(__file__).parent / name, work / "check" / name)
    (work / "told/port").touch()
    (work / "units/check.service").write_text(service(parts))
    (work / "units/check.target").write_text(_TARGET)
    (work / "run.sh").write_text(script(tree, work))
    return ["unshare", "--mount", "bash", str(work / "run.sh")]


def service(parts: Sequence[str]) -> str:
    """The unit that runs the checks inside."""
    return _UNIT.format(python=f"/{VENV}/bin/python", check=CHECK, out=_OUT, parts=",".join(parts))


def script(tree: Path, work: Path) -> str:
    """What makes the copy and starts systemd in it."""
    units = "/usr/lib/systemd/system/continuonbrain-check"
    read_only = {
        sysconfig.get_path("purelib"): "/opt/continuonos/packages",
        str(tree): "/opt/continuonos/tree",
        str(work / "venv"): f"/{VENV}",
        str(work / "check"): f"/{CHECK}",
        str(work / "units/check.service"): f"{units}.service",
        str(work / "units/check.target"): f"{units}.target",
    }
    binds = [f"--bind-ro={here}:{there}" for here, there in read_only.items()] + [
        f"--bind={work / 'told'}:{_OUT}"
    ]
    return _SCRIPT.format(work=work, groups=" ".join(GROUPS), binds=" ".join(binds))
