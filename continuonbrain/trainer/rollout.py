"""Closed-loop rollouts in the simulator: the engine decides, pilots drive, the fleet answers, in lockstep.

Simulated time: a decision about the frame of tick k takes effect `decision_ticks` later, as it would on a
robot. Each car has the same `Pilot` as the fast loop. The score is exact: lane measures come from the
simulator's truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.intent import Intents
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.veto import Veto
from continuonbrain.policy.watch import Watch
from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.instructions import BY_PHRASING
from continuonbrain.robot.sim.shifts import World
from continuonbrain.robot.sim.track import POINTS, TrackSet
from continuonbrain.safety.guards import Limits
from continuonbrain.safety.reasons import HEADS

DECISION_EVERY = 2
"""Ticks between decisions when no decision time is imposed: 10 Hz."""
SPEED_TOLERANCE_MPS = 0.15
LATERAL_TOLERANCE = 0.2  # of a half-width
STANDING_MPS = 0.05
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """Per car, `[cars]`: completion (fraction of a lap before leaving the road, at most 1), lateral_error_m
    (mean distance from the instructed lane while on the road), obeyed (speed and lane kept in the second half,
    or standing for "stop"), interventions (share of ticks in which the guard changed the command for a reason of its
    own), blocks (in which a head slowed or stopped the car), reasons (of each reason that occurred).
    trajectory `[ticks, cars, 2]` in metres, NaN after a car has left the road or finished its lap. left_road: it did;
    mean_speed_mps: while it was on the road; vetoed: share of its chunks that the world head forbade.
    """

    completion: Array
    lateral_error_m: Array
    obeyed: NDArray[np.bool_]
    interventions: Array
    blocks: Array
    reasons: dict[str, Array]
    trajectory: Array
    left_road: NDArray[np.bool_]
    mean_speed_mps: Array
    vetoed: Array


def decision_ticks(decision_time_s: float) -> tuple[int, int]:
    """(ticks between decisions, ticks until one takes effect) for an imposed decision time."""
    if decision_time_s <= CONTROL_DT_S:
        return DECISION_EVERY, 1
    ticks = max(1, round(decision_time_s / CONTROL_DT_S))
    return ticks, ticks


def count_reasons(
    reasons: Sequence[str], car: int, touched: Array, slowed: Array, by_reason: dict[str, Array]
) -> None:
    """Count a tick of a car in which the guard acted (touched) or a head did (slowed), and each reason."""
    touched[car] += any(r not in HEADS for r in reasons)
    slowed[car] += any(r in HEADS for r in reasons)
    for reason in set(reasons):
        by_reason.setdefault(reason, np.zeros(len(touched)))[car] += 1


def rollout(
    engine: Engine,
    world: World,
    track_seeds: Sequence[int],
    instructions: Sequence[str],
    *,
    calibration: Calibration,
    limits: Limits,
    seed: int,
    laps: bool = True,
    seconds: float = 9.0,
    start_speed_mps: float = 0.0,
    decision_time_s: float = 0.0,
    stop_without_model: Sequence[bool] | None = None,
    reflex: bool = True,
    watch_with: Callable[[], Watch] | None = None,
    watch_every: int = 1,
    veto_with: Callable[[], Veto] | None = None,
    on_tick: Callable[[int, int], None] | None = None,
) -> RolloutResult:
    """Drive car i on track i under instruction i.

    laps: until one lap is done, else for `seconds`. Instructions are phrasings that the simulator knows.
    stop_without_model: per car, whether "stop" may be obeyed without the model (default: all).
    reflex: between slow decisions the engine's reflex head carries the cars, as in the fast loop; False: paths of
    the model alone. watch_with: makes each car's watch, all with one safety head; None drives without;
    watch_every: ticks from one look of the head to the next (more than 1 for watches that do not act).
    veto_with: makes each car's veto, all with one world head; needs a watch. on_tick(tick, ticks) reports progress.
    """
    n = len(track_seeds)
    tracks = TrackSet(track_seeds, world)
    fleet = Fleet(tracks, np.arange(n), seed=seed)
    goals = [BY_PHRASING[i] for i in instructions]
    rng = np.random.default_rng([seed, 17])
    spread = 0.08 if laps else 0.03
    fleet.place(
        lateral_m=rng.uniform(-spread, spread, n),
        heading_error=rng.uniform(-spread, spread, n),
        speed_mps=start_speed_mps,
        instruction=[g.name for g in goals],
    )
    brakes = [True] * n if stop_without_model is None else list(stop_without_model)
    watches = [None if watch_with is None else watch_with() for _ in brakes]
    safety = None if watches[0] is None else watches[0].head
    pilots = [
        Pilot(
            calibration=calibration,
            limits=limits,
            stop_without_model=b,
            watch=w,
            veto=None if veto_with is None else veto_with(),
        )
        for b, w in zip(brakes, watches, strict=True)
    ]
    every, late = decision_ticks(decision_time_s)
    head = engine.reflex if reflex and late > 1 else None
    intents = Intents(engine).of_all(instructions) if head is not None else None
    for pilot, instruction in zip(pilots, instructions, strict=True):
        pilot.instruct(instruction)
    cruise = np.maximum(fleet.target_speed, 0.3)
    ticks = (
        int((1.2 * (tracks.length_m / cruise).max() + 4) / CONTROL_DT_S)
        if laps
        else int(seconds / CONTROL_DT_S)
    )
    progress, alive = np.zeros(n), np.ones(n, bool)
    errors, on_road = np.zeros(n), np.zeros(n)
    touched, slowed, driven = np.zeros(n), np.zeros(n), np.zeros(n)
    by_reason: dict[str, Array] = {}
    shown, vetoed = np.zeros(n), np.zeros(n)
    moved = np.zeros(n)
    trajectory = np.full((ticks, n, 2), np.nan)
    speeds, places = np.zeros((ticks, n)), np.zeros((ticks, n))
    waiting: list[tuple[int, NDArray[np.int64], list[ActionChunk]]] = []
    steering, throttle = np.zeros(n), np.zeros(n)
    done = 0
    for tick in range(ticks):
        now = tick * CONTROL_DT_S
        driving = alive & ((progress < POINTS) | (not laps))
        rows = np.flatnonzero(driving)
        if len(rows) == 0:
            break
        done = tick + 1
        speed, yaw_rate = fleet.measured()
        for i in rows:
            pilots[i].observe(now_s=now, speed_mps=float(speed[i]), yaw_rate_rps=float(yaw_rate[i]))
        while waiting and waiting[0][0] <= tick:
            _, cars, chunks = waiting.pop(0)
            for i, chunk in zip(cars, chunks, strict=True):
                pilots[i].accept(chunk)
                shown[i] += 1
                vetoed[i] += pilots[i].vetoed is chunk
        looks = safety is not None and tick % watch_every == 0
        frames = fleet.render() if looks or head is not None or tick % every == 0 else None
        if tick % every == 0 and frames is not None:
            answers = engine.decide(
                frames[rows], [instructions[int(i)] for i in rows], [float(speed[i]) for i in rows]
            )
            chunks = [
                ActionChunk(
                    tuple(map(float, c)),
                    tuple(map(float, v)),
                    now,
                    engine.adapter_sha256,
                    intent=() if intents is None else tuple(map(float, intents[i])),
                )
                for i, c, v in zip(rows, *answers, strict=True)
            ]
            waiting.append((tick + late, rows, chunks))
        if head is not None and intents is not None and frames is not None:
            carried = np.array([i for i in rows if pilots[i].wants_reflex(now_s=now)], np.int64)
            if len(carried):
                bends = head.curvatures(frames[carried], intents[carried])
                for i, bend in zip(carried, bends, strict=True):
                    pilots[i].carry(bend.tolist(), now_s=now)
        grids = safety.grids(frames[rows]) if safety is not None and looks and frames is not None else None
        steering[:], throttle[:] = 0.0, 0.0
        for row, i in enumerate(rows):
            guarded = pilots[i].tick(now_s=now, grid=None if grids is None else grids[row]).guarded
            steering[i], throttle[i] = guarded.steering, guarded.throttle
            driven[i] += 1
            if tick > late + 1:
                count_reasons(guarded.reasons, int(i), touched, slowed, by_reason)
        fleet.step(steering, throttle)
        progress += np.where(driving, fleet.advanced, 0)
        alive &= ~(fleet.off_road & driving)
        running = driving & alive
        errors += np.where(running, fleet.lane_error_m, 0)
        on_road += running
        moved += np.where(running, fleet.speed, 0)
        trajectory[tick, running, 0], trajectory[tick, running, 1] = fleet.x[running], fleet.y[running]
        speeds[tick], places[tick] = fleet.speed, fleet.lateral_m / tracks.half_m[fleet.track]
        if on_tick is not None:
            on_tick(tick, ticks)
    half = slice(done // 2, done)
    goal_speed = np.array([g.speed_mps for g in goals])
    goal_place = np.array([g.lateral for g in goals])
    standing = speeds[max(0, done - 20) : done].max(0) < STANDING_MPS if done else np.zeros(n, bool)
    kept_speed = np.abs(speeds[half].mean(0) - goal_speed) < SPEED_TOLERANCE_MPS
    kept_lane = np.abs(places[half].mean(0) - goal_place) < LATERAL_TOLERANCE
    obeyed = alive & np.where(goal_speed == 0, standing, kept_speed & kept_lane)
    return RolloutResult(
        completion=np.clip(progress / POINTS, 0, 1),
        lateral_error_m=errors / np.maximum(on_road, 1),
        obeyed=obeyed,
        interventions=touched / np.maximum(driven, 1),
        blocks=slowed / np.maximum(driven, 1),
        reasons={name: counts / np.maximum(driven, 1) for name, counts in sorted(by_reason.items())},
        trajectory=trajectory[:done],
        left_road=~alive,
        mean_speed_mps=moved / np.maximum(on_road, 1),
        vetoed=vetoed / np.maximum(shown, 1),
    )
