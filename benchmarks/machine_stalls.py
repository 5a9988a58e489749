"""How punctual is the machine itself? On each core a thread of the highest priority only sleeps, as cyclictest does.

What they are late by, no program on this machine can be punctual about: a virtual machine's host takes its cores away,
one at a time, and firmware does. Child processes of `benchmarks.fast_loop`.
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

_EVERY_S = 0.004
_HIGHEST = 99


def stolen_s() -> float:
    """Seconds, over all cores, in which this virtual machine wanted to run and was not let."""
    ticks = int(Path("/proc/stat").read_text().split()[8])
    return ticks / os.sysconf("SC_CLK_TCK")


class MachineStalls:
    """Watches inside a with block; `figures` are there after it: p999_us and max_us of the worst core's sleeping thread
    of the highest priority, stolen_s."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def __enter__(self) -> MachineStalls:
        self._stolen = stolen_s()
        self._children = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.machine_stalls", str(core)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for core in sorted(os.sched_getaffinity(0))
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cores: list[dict[str, float]] = []
        for child in self._children:
            out, _ = child.communicate("\n", timeout=30)
            with suppress(ValueError):
                cores.append(json.loads(out))
        if cores:
            self.figures = {name: max(core[name] for core in cores) for name in cores[0]}
        self.figures["stolen_s"] = round(stolen_s() - self._stolen, 2)


def main() -> None:
    """Watch the core that the argument names until standard input has a line."""
    import select

    prefer_this_thread(priority=_HIGHEST, cpu=int(sys.argv[1]))
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
