"""What a supervisor runs: the processes of one brain, and what leaves the robot stopped when one of them is gone."""

from __future__ import annotations

from dataclasses import dataclass

from continuonbrain.loops.drive_session import CONTROL_MODULE, POLICY_MODULE
from continuonbrain.loops.heartbeats import LIMITS, Limits
from continuonbrain.storage.layout import BrainLayout

SIDECAR_MODULE = "continuonbrain.loops.mid"
SERVICE_MODULE = "continuonbrain"


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """What to run. name: "control", "policy", "sidecar" or "service"; also the log file's. limits: the time that it may
    take. afterwards: module and arguments of what is run, to its end, whenever this process is gone, however it went.
    needed: False, the others go on where a person must put it right."""

    name: str
    module: str
    arguments: tuple[str, ...]
    limits: Limits = LIMITS["policy"]
    afterwards: tuple[str, ...] = ()
    needed: bool = True


def standard_plans(
    layout: BrainLayout,
    *,
    kind: str = "sim-donkey",
    shift: str | None = None,
    track: int | None = None,
    seed: int = 0,
    decision_time_s: float | None = None,
) -> tuple[ChildPlan, ...]:
    """The three processes of a robot's life, in the order in which they start. kind: `robot.kind` of config.json."""
    root = ("--root", str(layout.root))
    control = [*root, "--cycle", "--seed", str(seed)]
    control += [] if shift is None else ["--shift", shift]
    control += [] if track is None else ["--track", str(track)]
    policy = [*root] + ([] if decision_time_s is None else ["--decision-time", str(decision_time_s)])
    return (
        ChildPlan("control", CONTROL_MODULE, tuple(control), LIMITS["control"], left_stopped(layout, kind)),
        ChildPlan("policy", POLICY_MODULE, tuple(policy), LIMITS["policy"]),
        ChildPlan("sidecar", SIDECAR_MODULE, root, LIMITS["sidecar"]),
    )


def service_plan(layout: BrainLayout, *, port: int, listen: str | None = None) -> ChildPlan:
    """The service with its dashboard, on a TCP port of loopback, or of `listen` behind a pairing code."""
    where = ["--tcp", str(port)] + ([] if listen is None else ["--listen", listen])
    arguments = ("serve", "--root", str(layout.root), "--json", *where)
    return ChildPlan("service", SERVICE_MODULE, arguments, LIMITS["service"], needed=False)


def left_stopped(layout: BrainLayout, kind: str) -> tuple[str, ...]:
    """What stops a robot whose control process is gone, as ExecStopPost= of control's unit does: a car's PWM chip goes
    on with its last pulses. A simulated robot ends with its process."""
    return ("continuonbrain", "calibrate", "--off", "--root", str(layout.root)) if kind == "donkey" else ()
