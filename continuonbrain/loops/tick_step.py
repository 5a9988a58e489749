"""A control tick as a step of an episode."""

from __future__ import annotations

import time
from math import isfinite

from continuonbrain.loops.loop_tick import LoopTick
from continuonbrain.policy.veto import WORLD_SCORE
from continuonbrain.policy.watch import Watch
from continuonbrain.rlds.checked import finite_pair
from continuonbrain.rlds.step import (
    SAFETY_BY,
    SAFETY_FLAG,
    SAFETY_LOGIT,
    SAFETY_SCORE,
    SOURCE_AUTOPILOT,
    SOURCE_HUMAN,
    SURPRISE,
    Step,
)
from continuonbrain.robot.protocol import Observation


def step_of(tick: LoopTick, instruction: str, watch: Watch | None) -> Step:
    """The step that is recorded of a tick. watch: whose risk it carries. Raises `EpisodeError` for what no reader would
    take."""
    seen, chunk = tick.observation, tick.chunk
    return Step(
        command=(tick.guarded.steering, tick.guarded.throttle),
        source=SOURCE_HUMAN if tick.mode == "teleop" else SOURCE_AUTOPILOT,
        instruction=instruction,
        frame=None if seen is None else seen.frame,
        speed_mps=None if seen is None else _finite(seen.speed_mps),
        yaw_rate_rps=None if seen is None else _finite(seen.yaw_rate_rps),
        proposed=None if tick.proposed is None else finite_pair(*tick.proposed),
        reasons=tick.guarded.reasons,
        adapter_sha256="" if chunk is None else chunk.adapter_sha256,
        latency_ms=None if chunk is None else round((tick.now_s - chunk.observed_s) * 1000, 3),
        tick=tick.number,
        monotonic_ns=int((tick.now_s if seen is None else measured_s(seen)) * 1e9),
        frame_monotonic_ns=None if seen is None else int(seen.monotonic_s * 1e9),
        wall_time_ms=int(time.time() * 1000),
        extra=_notes(tick, watch),
    )


def measured_s(observation: Observation) -> float:
    """When speed and yaw rate were measured."""
    apart = observation.state_monotonic_s
    return observation.monotonic_s if apart is None else apart


def _notes(tick: LoopTick, watch: Watch | None) -> dict[str, str]:
    """What else a step's metadata say."""
    notes = {"path_by": "reflex"} if tick.reflex else {}
    if watch is not None and tick.risk is not None:
        p, logit = tick.risk.probability, tick.risk.logit
        notes |= {SAFETY_SCORE: f"{p:.4f}", SAFETY_FLAG: watch.caution.thresholds.flag(p)}
        if logit is not None:
            notes |= {SAFETY_LOGIT: f"{logit:.3f}", SAFETY_BY: watch.head.sha256[:8]}
    if tick.foreseen is not None:
        notes[WORLD_SCORE] = f"{tick.foreseen.probability:.4f}"
    if tick.surprise is not None:
        notes[SURPRISE] = f"{tick.surprise:.4f}"
    return notes


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
