"""The system's processes as the soak starts them: the product's own modules, with breakable parts around them.

    python -m benchmarks.soak.system supervisor --root R --seed N    supervisor over control, policy, sidecar, service
    python -m benchmarks.soak.system control ...                     the control process with the soak's body
    python -m benchmarks.soak.system MODULE ...                      any other of them

In all of them the wall clock can be moved (`Broken.clock_s`), for code that asks `time.time`.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.soak.body import BROKEN_FILE, WORK_VARIABLE, BrokenFile, soak_body
from benchmarks.soak.plan import HANGS_S
from continuonbrain.brain_root import open_brain
from continuonbrain.loops import control_process
from continuonbrain.loops.child_plan import ChildPlan, standard_plans
from continuonbrain.loops.child_process import exit_code
from continuonbrain.loops.heartbeats import LIMITS
from continuonbrain.loops.supervisor import Supervisor
from continuonbrain.storage.lock import ProcessLock

SYSTEM_FILE = "system.json"
_POLL_S, _TELL_S = 0.1, 0.5
_MODULE = "benchmarks.soak.system"


def movable_clock(work: Path) -> None:
    """From now on `time.time` is off by what the benchmark says."""
    broken, real = BrokenFile(work / BROKEN_FILE), time.time
    looked_s, off_s = -1.0, 0.0

    def moved() -> float:
        nonlocal looked_s, off_s
        if time.monotonic() - looked_s > 0.5:
            looked_s, off_s = time.monotonic(), broken.now().clock_s
        return real() + off_s

    time.time = moved


def plans(root: Path, seed: int) -> tuple[ChildPlan, ...]:
    """The product's plans and the service, each through this module."""
    brain = open_brain(root)
    made = []
    for plan in standard_plans(brain.layout, seed=seed):
        entry = "control" if plan.name == "control" else plan.module
        limits = replace(plan.limits, silent_s=HANGS_S.get(plan.name, plan.limits.silent_s))
        made.append(replace(plan, module=_MODULE, arguments=(entry, *plan.arguments), limits=limits))
    service = ("continuonbrain", "serve", "--root", str(root))
    made.append(ChildPlan("service", _MODULE, service, LIMITS["service"]))
    return tuple(made)


def supervise(root: Path, seed: int, work: Path) -> None:
    """As `continuonbrain run` does, until a signal. Raises `BrainError`."""
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _frame: stopping.append(n))
    brain = open_brain(root)
    with (
        ProcessLock(brain.layout.run_dir / "run.lock", purpose=f"run the robot of {root}"),
        Supervisor(brain, plans(root, seed)) as supervisor,
    ):
        told_s = -1.0
        while not stopping:
            supervisor.poll()
            if time.monotonic() - told_s >= _TELL_S:
                told_s = time.monotonic()
                _tell(work / SYSTEM_FILE, {"pid": os.getpid(), "at_s": told_s, **supervisor.snapshot()})
            time.sleep(_POLL_S)
        supervisor.stop()


def _tell(path: Path, shot: dict[str, object]) -> None:
    staging = path.with_suffix(".new")
    staging.write_text(json.dumps(shot))
    os.replace(staging, path)


def main(arguments: list[str]) -> int:
    """Become the process that is named."""
    entry, rest = arguments[0], arguments[1:]
    work = Path(os.environ[WORK_VARIABLE])
    movable_clock(work)
    if entry == "control":
        return control_process.main(rest, open_body=soak_body)
    if entry == "supervisor":
        parser = argparse.ArgumentParser(prog=f"{_MODULE} supervisor")
        parser.add_argument("--root", type=Path, required=True)
        parser.add_argument("--seed", type=int, default=0)
        given = parser.parse_args(rest)
        run: Callable[[], object] = lambda: supervise(given.root, given.seed, work)  # noqa: E731
        return exit_code(run)
    sys.argv = [entry, *rest]
    runpy.run_module(entry, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
