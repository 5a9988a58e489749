"""Processes that want SIGUSR1 when what drives has changed: each puts its pid into a file of its own.

    run/listeners/<name>.pid      the pid in decimal, written by the process itself after it has set its handler; better
                                  with a space and its start time behind it (field 22 of /proc/PID/stat, proc(5))

A process that has no handler for SIGUSR1 dies of it, so a pid is only believed with the start time of its process, or,
where the file does not say that, when its process is older than the file: the number of one that has ended may belong
to another by now. Files of processes that have gone are removed.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil

_MOST_BYTES = 64
_SLACK_S = 1.0
"""File times and start times come from different clocks' ticks."""


def signal_listeners(folder: Path) -> list[str]:
    """Send SIGUSR1 to every registered process; the names of those that got it. Never raises for a listener's sake."""
    told = []
    try:
        files = sorted(folder.glob("*.pid"))
    except OSError:
        return []
    for file in files:
        try:
            said = _registered(file)
            if said is None or said[0] <= 1 or said[0] == os.getpid():
                continue
            pid, started = said
            if _started(pid) != started if started is not None else _younger(pid, file):
                continue
            os.kill(pid, signal.SIGUSR1)
            told.append(file.stem)
        except (psutil.NoSuchProcess, ProcessLookupError):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        except (OSError, ValueError, psutil.Error):
            continue  # no pid, or a process of somebody else
    return told


def _registered(file: Path) -> tuple[int, int | None] | None:
    """(pid, start time in ticks) of a file; None for what is no plain file of numbers. It may be a pipe."""
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        words = opened.read(_MOST_BYTES).split()
    if not 1 <= len(words) <= 2 or not all(word.isdigit() for word in words):
        return None
    return int(words[0]), int(words[1]) if len(words) == 2 else None


def _started(pid: int) -> int:
    """Ticks from the boot to the start of a process. `ProcessLookupError` when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    return int(stat[stat.rindex(b")") + 1 :].split()[19])  # the name before may hold anything


def _younger(pid: int, file: Path) -> bool:
    return psutil.Process(pid).create_time() > file.stat().st_mtime + _SLACK_S
