"""Workers, started by torchrun, and what becomes of them.

All on this machine and over its loopback interface. For several machines start the same module by torchrun on each of
them, on a folder that all of them see.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from continuonbrain.cloud_train.errors import TrainInterrupted, TrainRefused
from continuonbrain.cloud_train.plan import Plan

WORKER = "continuonbrain.cloud_train.worker"


def has_accelerator() -> bool:
    """Whether there is anything but CPUs here. Accelerate makes workers on CPUs known to each other only where it is
    told that these are what they compute on."""
    import torch
    from accelerate.utils import is_torch_xla_available

    return bool(torch.accelerator.is_available() or is_torch_xla_available())


def command(plan: Plan, workers: int) -> list[str]:
    """The command line of torchrun. It restarts nobody: a run is taken up again by the same command, from its state."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
        "--max-restarts", "0", "--nproc-per-node", str(workers), "-m", WORKER, str(plan.path),
    ]  # fmt: skip


def environment(plan: Plan, workers: int, given: Mapping[str, str]) -> dict[str, str]:
    """Of the workers: cores shared out, and gloo on loopback."""
    out = dict(given)
    out.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))
    if plan.cpu:
        out.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return out


def run_workers(plan: Plan, workers: int) -> dict[str, Any]:
    """Train; their figures (`result.json`).

    Raises:
        TrainRefused: they say what is wrong.
        TrainInterrupted: one of them ended otherwise.
    """
    plan.error_path.unlink(missing_ok=True)
    plan.result_path.unlink(missing_ok=True)
    # In a group of their own, which ends with this process unless that is killed outright.
    process = subprocess.Popen(
        command(plan, workers),
        stdout=sys.stderr,
        env=environment(plan, workers, os.environ),
        start_new_session=True,
    )
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(process)
    if plan.result_path.exists() and code == 0:
        figures: dict[str, Any] = json.loads(plan.result_path.read_bytes())
        return figures
    if plan.error_path.exists():
        told = json.loads(plan.error_path.read_bytes())
        raise TrainRefused(str(told["message"]), remedy=str(told["remedy"]))
    raise TrainInterrupted(
        f"a worker ended before its time (torchrun: {code}); the lines above say how",
        remedy="give the same command again: it goes on from the last state that was saved"
        if plan.state_path.exists()
        else "give the same command again",
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
