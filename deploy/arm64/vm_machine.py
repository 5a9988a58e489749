"""Asking a machine's systemd, from a script that runs on it as root. The standard library alone."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PYTHON = "/opt/continuonos/venv/bin/python"
ROOT = Path("/opt/continuonos/brain")
USER = "continuon"
TARGET = "continuonbrain.target"
PROCESSES = ("control", "policy", "sidecar", "service")
UNITS = Path("/etc/systemd/system")

_SHOWN = (
    "ActiveState,SubState,Result,NRestarts,MainPID,Type,WatchdogUSec,MemoryMax,MemoryCurrent,MemoryPeak,ControlGroup,"
    "ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic,UnitFileState,NotifyAccess"
)


class Failed(Exception):
    """What was to be shown is not so."""


def need(so: bool, words: str) -> None:
    """Raises Failed with these words unless it is so."""
    if not so:
        raise Failed(words)


def run(command: Sequence[str], *, check: bool = True, timeout_s: float = 900.0) -> str:
    """What the command prints on both its outputs. Raises Failed when it exits with another code than 0."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit {done.returncode}: {done.stdout.strip()[-600:]}")
    return done.stdout


def brain(*words: str) -> str:
    """`continuonbrain WORDS` as root."""
    return run([PYTHON, "-m", "continuonbrain", *words])


def as_account(*words: str) -> str:
    """A program as the services' account."""
    return run(["runuser", "-u", USER, "--", *words])


def unit(process: str) -> str:
    return f"continuonbrain-{process}.service"


def show(process: str) -> dict[str, str]:
    """What systemd says of a process's unit."""
    return properties(run(["systemctl", "show", unit(process), "-p", _SHOWN]))


def properties(text: str) -> dict[str, str]:
    """KEY=value lines, as `systemctl show` prints them."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, equals, value in pairs if equals}


def asked_for(kernel_words: str) -> list[str]:
    """The parts that the kernel's command line names; none where all are meant."""
    named = [word for word in kernel_words.split() if word.startswith("parts=")]
    return [name for word in named for name in word.removeprefix("parts=").split(",") if name]


def wait_for(what: str, so: Callable[[], bool], limit_s: float, every_s: float = 0.5) -> float:
    """Seconds until it was so. Raises Failed after limit_s."""
    began = time.monotonic()
    while not so():
        need(time.monotonic() - began < limit_s, f"{what}: not within {limit_s:g} s")
        time.sleep(every_s)
    return time.monotonic() - began


def is_active(process: str) -> bool:
    return show(process)["ActiveState"] == "active"


def all_active(limit_s: float = 1800.0) -> float:
    """Seconds until every process has told systemd that it is ready."""
    told = ", ".join
    return wait_for(
        f"active: {told(PROCESSES)}",
        lambda: all(is_active(process) for process in PROCESSES),
        limit_s,
    )


def forget_failures() -> None:
    """Or the checks' own restarts would use up what StartLimitBurst= allows."""
    run(["systemctl", "reset-failed"])


def journal(process: str) -> str:
    """What the unit's processes and systemd said about it since the start."""
    return run(["journalctl", "--no-pager", "-o", "cat", "-u", unit(process)])


def status() -> dict[str, Any]:
    """`run/control.json`; empty while there is none."""
    try:
        told: dict[str, Any] = json.loads((ROOT / "run/control.json").read_text())
    except (OSError, ValueError):
        return {}
    return told


def command_control(message: dict[str, object]) -> None:
    """Send control a command on its socket, as the account does. Raises Failed when it says no."""
    words = (
        "import sys, json; from pathlib import Path\n"
        "from continuonbrain.brain_root import BrainRoot\n"
        "from continuonbrain.loops.drive_session import command_control\n"
        "from continuonbrain.storage.layout import BrainLayout\n"
        "command_control(BrainLayout(Path(sys.argv[1])), json.loads(sys.argv[2]))\n"
    )
    as_account(PYTHON, "-I", "-c", words, str(ROOT), json.dumps(message))


def snapshot(*folders: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below: mode, size and time of change."""
    found = {}
    for folder in folders:
        for path in [folder, *sorted(folder.rglob("*"))]:
            seen = path.lstat()
            found[str(path)] = (seen.st_mode, seen.st_size, seen.st_ctime_ns)
    return found


def join(process: str) -> None:
    """Put this process into the unit's group: what the kernel binds that to, it is bound to."""
    group = show(process)["ControlGroup"].lstrip("/")
    Path("/sys/fs/cgroup", group, "cgroup.procs").write_text(str(os.getpid()))
