"""Processes that want SIGUSR1 when what drives has changed: each puts its pid into a file of its own.

    run/listeners/<name>.pid      the pid in decimal, written by the process itself after it has set its handler

A process that has no handler for SIGUSR1 dies of it, so a pid is only believed when its process is older than the file:
the number of one that has ended may belong to another by now. The file of one that has gone is removed.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

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
            pid, written_s = int(file.read_text()), file.stat().st_mtime
            if pid <= 1 or pid == os.getpid():
                continue
            if psutil.Process(pid).create_time() > written_s + _SLACK_S:
                raise psutil.NoSuchProcess(pid)
            os.kill(pid, signal.SIGUSR1)
            told.append(file.stem)
        except (psutil.NoSuchProcess, ProcessLookupError):
            file.unlink(missing_ok=True)
        except (OSError, ValueError, psutil.Error):
            continue  # no pid, or a process of somebody else
    return told
