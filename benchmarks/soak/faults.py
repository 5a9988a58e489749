"""Doing a fault, and mending it."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, field
from typing import Any

from benchmarks.soak.body import BROKEN_FILE, Broken, write_broken
from benchmarks.soak.disk import fill, free
from benchmarks.soak.plan import Fault
from benchmarks.soak.watch import System

_DAY_S = 86_400.0
_CLOCK = {"a day ahead": _DAY_S, "a day back": -_DAY_S}
_GRACE_S, _GRACE_STUCK_S = 4.0, 9.0
"""Until a gate that closes has stopped the work: a host file a second old, a look half a second later, a step under
way; what stands still is seen after `StuckWindows.heartbeat_s` more."""
_WORK = ("read", "cache", "train", "reflex", "judge", "consolidate")


@dataclass
class Running:
    """A fault that goes on. hung_on: nobody saw that it hangs. worked: what the sidecar was at during a fault of its
    sensors: (time, phase, step)."""

    fault: Fault
    began_s: float
    phases: list[str]
    pid: int = 0
    worked: list[tuple[float, str, int]] = field(default_factory=list)
    hung_on: bool = False
    ended_s: float = 0.0


def begin(fault: Fault, system: System, now_s: float) -> Running | None:
    """Do it; None when its target is not there."""
    running = Running(fault, now_s, sorted(system.phases() - {""}))
    if fault.kind in ("kill", "end", "hang"):
        running.pid = system.pids().get(fault.target, 0)
        if not running.pid:
            return None
        _signal(
            running.pid, {"kill": signal.SIGKILL, "end": signal.SIGTERM, "hang": signal.SIGSTOP}[fault.kind]
        )
    elif fault.kind in ("disk", "disk and kill"):
        fill(system.layout.root)
    else:
        broken = Broken(
            camera=fault.target if fault.kind == "camera" else "",
            speed=fault.target if fault.kind == "speed" else "",
            host=fault.target if fault.kind == "host" else "",
            clock_s=_CLOCK.get(fault.target, 0.0),
        )
        write_broken(system.work / BROKEN_FILE, broken)
    return running


def go_on(running: Running, system: System, now_s: float) -> bool:
    """While it lasts; True when it is over, and mended."""
    fault, since = running.fault, now_s - running.began_s
    if fault.kind in ("disk", "disk and kill"):
        fill(system.layout.root)
        if fault.kind == "disk and kill" and not running.pid and since > 2.0:
            running.pid = system.pids().get(fault.target, 0)
            _signal(running.pid, signal.SIGKILL)
    if fault.kind == "host":
        told: dict[str, Any] = system.training()
        running.worked.append((since, str(told.get("phase")), int(told.get("step") or 0)))
    # What hangs until it is ended is over with its end: its successor may drive.
    ended = fault.kind == "hang" and fault.killed and _gone(running.pid)
    if since < fault.lasts_s and not ended:
        return False
    mend(running, system)
    running.ended_s = now_s
    return True


def mend(running: Running, system: System) -> None:
    """Whatever it was, it is over."""
    fault = running.fault
    if fault.kind == "hang":
        # Not by what the status names: that is a moment old.
        running.hung_on = fault.killed and not _gone(running.pid)
        if running.hung_on or not fault.killed:
            _signal(running.pid, signal.SIGKILL if fault.killed else signal.SIGCONT)
    elif fault.kind in ("disk", "disk and kill"):
        free(system.layout.root)
    elif fault.kind in ("camera", "speed", "host", "clock"):
        write_broken(system.work / BROKEN_FILE, Broken())


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def worked_on(running: Running) -> str:
    """What the sidecar did although a gate's sensor was broken; "" when nothing."""
    grace = _GRACE_STUCK_S if running.fault.target == "stuck" else _GRACE_S
    late = [(phase, step) for since, phase, step in running.worked if since >= grace and phase in _WORK]
    return "" if len(set(late)) <= 1 else f"the sidecar went from {late[0]} to {late[-1]}"


def _signal(pid: int, number: signal.Signals) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
