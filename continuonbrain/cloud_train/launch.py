"""Workers, and what becomes of them.

They meet over a file (torch's `FileStore`), not over a port: torchrun's and torch's own rendezvous listen on every
interface of a machine, and whoever reaches such a store may hand its workers an object to unpickle. What gloo then
opens between them is on loopback, where they are on CPUs.

For several machines start the same module by torchrun on each of them, on a folder that all of them see, and in a
network that nobody else reaches.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from continuonbrain.cloud_train.errors import TrainInterrupted, TrainRefused
from continuonbrain.cloud_train.plan import Plan
from continuonbrain.loops.child_process import launch_command

WORKER = "continuonbrain.cloud_train.worker"
MEETING = "CONTINUONBRAIN_MEETING"
"""In a worker's environment: the file over which the workers meet. Without it torchrun has said how they do."""
_LOOK_S = 0.1
_END_S = 20.0


def has_accelerator() -> bool:
    """Whether there is anything but CPUs here. Accelerate makes workers on CPUs known to each other only where it is
    told that these are what they compute on."""
    import torch
    from accelerate.utils import is_torch_xla_available

    return bool(torch.accelerator.is_available() or is_torch_xla_available())


def command(plan: Plan) -> list[str]:
    """The command line of a worker. It ends when this process does, however that ends: nobody else looks after it, and
    it would keep the next one from going on."""
    return launch_command(WORKER, [str(plan.path)])


def environment(
    plan: Plan, worker: int, workers: int, meeting: Path, given: Mapping[str, str]
) -> dict[str, str]:
    """Of one worker, as torchrun would name it to Accelerate: cores shared out, and gloo on loopback."""
    out = dict(given)
    out.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))
    if plan.cpu:
        out.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if workers > 1:
        out |= {"RANK": str(worker), "LOCAL_RANK": str(worker)}
        out |= {"WORLD_SIZE": str(workers), "LOCAL_WORLD_SIZE": str(workers), MEETING: str(meeting)}
    return out


def run_workers(plan: Plan, workers: int) -> dict[str, Any]:
    """Train; their figures (`result.json`).

    Raises:
        TrainRefused: they say what is wrong.
        TrainInterrupted: one of them ended otherwise.
    """
    plan.error_path.unlink(missing_ok=True)
    plan.result_path.unlink(missing_ok=True)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    running: list[subprocess.Popen[bytes]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="meeting-", dir=plan.unfinished) as folder:
            for worker in range(workers):
                running.append(
                    subprocess.Popen(
                        command(plan),
                        stdout=sys.stderr,
                        env=environment(plan, worker, workers, Path(folder) / "store", os.environ),
                        start_new_session=True,  # a Ctrl-C is this process's to pass on
                    )
                )
            code = _end_of(running)
            _end(running)
    except KeyboardInterrupt:
        print(f"ended: {_goes_on(plan)}", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(running)
    if plan.result_path.exists() and code == 0:
        figures: dict[str, Any] = json.loads(plan.result_path.read_bytes())
        return figures
    if plan.error_path.exists():
        told = json.loads(plan.error_path.read_bytes())
        raise TrainRefused(str(told["message"]), remedy=str(told["remedy"]))
    raise TrainInterrupted(
        f"a worker ended before its time ({_how(code)}); the lines above say how",
        remedy=_goes_on(plan),
    )


def _goes_on(plan: Plan) -> str:
    again = "give the same command again"
    return f"{again}: it goes on from the last state that was saved" if plan.state_path.exists() else again


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _end_of(running: Sequence[subprocess.Popen[bytes]]) -> int:
    """0 when all are done; else the exit code of the first that ended otherwise: the others would wait for it."""
    while True:
        codes = [process.poll() for process in running]
        if (wrong := next((code for code in codes if code), None)) is not None:
            return wrong
        if None not in codes:
            return 0
        time.sleep(_LOOK_S)


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + _END_S
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, until - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()
