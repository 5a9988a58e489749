"""How punctual is the machine itself? A thread of the highest priority that only sleeps, as cyclictest does.

What it is late by, no program on this machine can be punctual about: a virtual machine's host takes its cores away, and
firmware does. A child process of `benchmarks.fast_loop`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from continuonbrain.loops.loop_report import Durations
from continuonbrain.loops.realtime import prefer_this_thread

_EVERY_S = 0.002
_HIGHEST = 99


def stolen_s() -> float:
    """Seconds, over all cores, in which this virtual machine wanted to run and was not let."""
    ticks = int(Path("/proc/stat").read_text().split()[8])
    return ticks / os.sysconf("SC_CLK_TCK")


class MachineStalls:
    """Watches inside a with block; `figures` are there after it: p999_us and max_us of a sleeping thread of the highest
    priority, stolen_s."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def __enter__(self) -> MachineStalls:
        self._stolen = stolen_s()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.machine_stalls"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        out, _ = self._child.communicate("\n", timeout=30)
        with suppress(ValueError):
            self.figures = json.loads(out)
        self.figures["stolen_s"] = round(stolen_s() - self._stolen, 2)


def main() -> None:
    """Watch until standard input has a line."""
    import select

    prefer_this_thread(priority=_HIGHEST)
    late = Durations()
    deadline = time.monotonic()
    while True:
        deadline += _EVERY_S
        time.sleep(max(0.0, deadline - time.monotonic()))
        now = time.monotonic()
        late.add(now - deadline)
        if now - deadline > _EVERY_S:
            deadline = now
        if select.select([sys.stdin], [], [], 0)[0]:
            break
    told = late.percentiles()
    print(json.dumps({"p999_us": told["p99.9"], "max_us": told["max"]}))


if __name__ == "__main__":
    main()
