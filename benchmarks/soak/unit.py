"""Who starts the supervisor again: what systemd does for a unit, in a few lines.

A main process that ended is started again after a second (`Restart=always`, `RestartSec=1`), once nothing of it is
left: its children end by themselves when it dies, and one that does not within `_LEFT_S` is counted as an orphan and
killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.soak.body import WORK_VARIABLE
from benchmarks.soak.watch import marked
from continuonbrain.loops.child_process import launch_command

_SYSTEM = "benchmarks.soak.system"
_RESTART_S = 1.0
_LEFT_S = 30.0
"""The units' `TimeoutStopSec` of all but the sidecar, which has more."""


class Unit:
    """The supervisor as a unit. orphans: command lines of processes that outlived it; ended: when each ended, and its
    exit code."""

    def __init__(self, root: Path, seed: int, work: Path) -> None:
        self._root, self._seed, self._work = root, seed, work
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_s: float | None = None
        self.orphans: list[str] = []
        self.ended: list[tuple[float, int]] = []

    @property
    def pid(self) -> int:
        """0 while none runs."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, as at boot."""
        with (self._work / "supervisor.log").open("ab") as log:
            self._process = subprocess.Popen(
                launch_command(_SYSTEM, ["supervisor", "--root", str(self._root), "--seed", str(self._seed)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, WORK_VARIABLE: str(self._work)},
            )

    def look(self) -> None:
        """Several times a second: see whether it ended, and start it again."""
        now = time.monotonic()
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self.ended.append((now, code))
            self._process, self._ended_s = None, now
        assert self._ended_s is not None
        gone_s = now - self._ended_s
        left = marked(self._work)
        if left and gone_s > _LEFT_S:
            self._kill(left)
        elif not left and gone_s > _RESTART_S:
            self.start()

    def stop(self) -> float:
        """End it in good order; how long that took, seconds. What outlives it is counted and killed."""
        began = time.monotonic()
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30.0)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        took = time.monotonic() - began
        until = time.monotonic() + _LEFT_S
        while (left := marked(self._work)) and time.monotonic() < until:
            time.sleep(0.2)
        self._kill(left)
        return took

    def _kill(self, left: set[int]) -> None:
        for pid in left:
            with contextlib.suppress(OSError):
                words = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                self.orphans.append(f"{pid}: {words.strip()}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
