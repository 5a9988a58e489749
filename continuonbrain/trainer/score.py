"""What a robot does, as numbers: laps driven, instructions obeyed. Used by verdicts and by the demo alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.watch import Watch
from continuonbrain.robot.sim.instructions import NAMES
from continuonbrain.robot.sim.shifts import World
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.rollout import RolloutResult, rollout

WATCH_EVERY = 4
"""Ticks between two looks of the safety head while it only counts: a fifth of a second."""
OnTick = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class DriveScore:
    """Laps under "drive". completion: mean fraction of a lap before leaving the road; laps: how many were whole;
    lateral_error_m: mean distance from the lane while on the road; guard_share: ticks in which the guard acted for a
    reason of its own. completions, guard_shares, head_shares: by track (head: ticks in which a head slowed or stopped);
    reasons: share of the ticks, by reason. trajectory `[ticks, tracks, 2]` in metres."""

    completion: float
    laps: int
    tracks: int
    lateral_error_m: float
    guard_share: float
    trajectory: NDArray[np.float64]
    completions: tuple[float, ...]
    guard_shares: tuple[float, ...]
    head_shares: tuple[float, ...]
    reasons: dict[str, float]


@dataclass(frozen=True, slots=True)
class FollowScore:
    """Instructions obeyed. following: share over all instructions and tracks; stop: share of "stop" obeyed as the
    robot runs (stop works without the model); stop_model: by the model alone; by_instruction: share of each; by_track:
    share of the instructions tried on each track."""

    following: float
    stop: float
    stop_model: float
    by_instruction: dict[str, float]
    by_track: tuple[float, ...]


def drive_score(
    engine: Engine,
    world: World,
    track_seeds: Sequence[int],
    *,
    calibration: Calibration,
    limits: Limits,
    seed: int = 7,
    decision_time_s: float = 0.0,
    reflex: bool = True,
    watch_with: Callable[[], Watch] | None = None,
    on_tick: OnTick | None = None,
) -> DriveScore:
    """One lap on each track under "drive". reflex: see `rollout`. watch_with: makes watches that do not act; each looks
    at every fourth tick, and its shares are of those."""
    result: RolloutResult = rollout(
        engine,
        world,
        track_seeds,
        ["drive"] * len(track_seeds),
        calibration=calibration,
        limits=limits,
        seed=seed,
        decision_time_s=decision_time_s,
        reflex=reflex,
        watch_with=watch_with,
        watch_every=WATCH_EVERY,
        on_tick=on_tick,
    )
    return DriveScore(
        completion=float(result.completion.mean()),
        laps=int((result.completion > 0.99).sum()),
        tracks=len(track_seeds),
        lateral_error_m=float(result.lateral_error_m.mean()),
        guard_share=float(result.interventions.mean()),
        trajectory=result.trajectory,
        completions=tuple(result.completion.tolist()),
        guard_shares=tuple(result.interventions.tolist()),
        head_shares=tuple((result.blocks * WATCH_EVERY).clip(0, 1).tolist()),
        reasons={name: float(shares.mean()) for name, shares in result.reasons.items()},
    )


def follow_score(
    engine: Engine,
    world: World,
    track_seeds: Sequence[int],
    *,
    calibration: Calibration,
    limits: Limits,
    seed: int = 3,
    decision_time_s: float = 0.0,
    reflex: bool = True,
    own_tracks: bool = False,
    on_tick: OnTick | None = None,
) -> FollowScore:
    """Every instruction on every track for nine seconds from 0.8 m/s; "stop" twice, with and without the model.

    own_tracks: each instruction on tracks of its own (their number a multiple of the instructions'), as many cars for
    as many independent trials: what one track makes hard is hard for all instructions on it.
    """
    cases = [(name, True) for name in NAMES] + [("stop", False)]
    rounds = len(track_seeds) // len(NAMES) if own_tracks else len(track_seeds)
    if own_tracks and (rounds == 0 or len(track_seeds) % len(NAMES)):
        raise ValueError(f"{len(track_seeds)} tracks cannot be shared out among {len(NAMES)} instructions")
    tracks: list[int] = []
    for i in range(rounds):
        own = list(track_seeds[i * len(NAMES) : (i + 1) * len(NAMES)])
        tracks += [*own, own[NAMES.index("stop")]] if own_tracks else [track_seeds[i]] * len(cases)
    result = rollout(
        engine,
        world,
        tracks,
        [name for _ in range(rounds) for name, _ in cases],
        calibration=calibration,
        limits=limits,
        seed=seed,
        laps=False,
        start_speed_mps=0.8,
        decision_time_s=decision_time_s,
        reflex=reflex,
        stop_without_model=[reflex for _ in range(rounds) for _, reflex in cases],
        on_tick=on_tick,
    )
    trials = result.obeyed.reshape(rounds, len(cases))
    table = trials.mean(0)
    as_it_runs = trials[:, : len(NAMES)]  # without the model's own "stop", which is a figure by itself
    by_track = as_it_runs.ravel() if own_tracks else as_it_runs.mean(1)
    by_name = {name: float(share) for (name, reflex), share in zip(cases, table, strict=True) if reflex}
    return FollowScore(
        float(np.mean(list(by_name.values()))),
        by_name["stop"],
        float(table[-1]),
        by_name,
        tuple(float(share) for share in by_track),
    )
