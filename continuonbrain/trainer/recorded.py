"""Held-out recordings and frozen states as evidence: errors by block and by track, and what the guard would have done.

A block is about two seconds of one episode: what a driver does keeps its sign for about as long (a bend, a push of the
floor), so that blocks are nearly independent where steps are not.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.codec import CURVATURE_KNOTS_M, FULL_SPEED_MPS
from continuonbrain.policy.convolution import F32
from continuonbrain.policy.engine import Decisions
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.watch import Watch
from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.safety.guards import Limits
from continuonbrain.safety.reasons import HEADS, Reason
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.evidence import Exam, Figures, HeldOut, Replay
from continuonbrain.trainer.exam import Paper, with_best

BLOCK_S = 2.0
_SETTLING = 2
"""Steps of an episode in which the guard's slew says only that the pilot has just begun."""
_LOOK_EVERY = 64
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def steering_of(decisions: Decisions, samples: Samples, calibration: Calibration) -> F64:
    """The steering command that each decision asks for at its own step, `[n]` in [-1, 1].

    Measured robots: the curvature where the car is once the command takes effect; others: the first one.
    """
    out = np.empty(len(samples))
    for i, speed in enumerate(samples.speeds):
        distance = 0.0 if speed is None else speed * calibration.delay_s
        out[i] = calibration.steering(float(np.interp(distance, CURVATURE_KNOTS_M, decisions.curvature[i])))
    return out


def speed_error(decisions: Decisions, samples: Samples) -> F64:
    """How far each decision's speeds are from the driver's, `[n]`, as a share of full speed:

        error = mean over the known knots k of |v_k - driven_k| / FULL_SPEED_MPS

    so that it stands beside an error of steering, which is a share of full lock. A knot is known where the recording
    says what was driven by then; where it says it of none, at the end of a drive, the error is 0 for everybody.
    """
    known = samples.weights[:, len(CURVATURE_KNOTS_M) :] > 0
    gap = np.abs(decisions.speed.astype(float) - samples.speed_ahead) / FULL_SPEED_MPS
    out: F64 = np.where(known, gap, 0.0).sum(1) / known.sum(1).clip(1)
    return out


def seconds_between(samples: Samples) -> F64:
    """Time since the sample before in the same episode, `[n]` s; 0 for the first of an episode. Where the stamps say
    nothing usable (none, or not rising) a control tick."""
    gap = np.diff(samples.stamps.astype(float), prepend=samples.stamps[:1].astype(float)) / 1e9
    gap = np.where((gap > 0) & (gap < 60.0), gap, CONTROL_DT_S)
    first = np.diff(samples.episode, prepend=samples.episode[:1] - 1) != 0
    out: F64 = np.where(first, 0.0, gap)
    return out


def blocks_of(samples: Samples) -> I64:
    """Number of each sample's block, `[n]`, counted through all episodes. A rest of less than half a block belongs to
    the block before it."""
    between = seconds_between(samples)
    out = np.zeros(len(samples), np.int64)
    number = -1
    for rows in _runs(samples):
        since = np.cumsum(between[rows])
        block = (since // BLOCK_S).astype(np.int64)
        last = int(block[-1])
        if last > 0 and since[-1] - last * BLOCK_S < BLOCK_S / 2:
            block[block == last] = last - 1
        _, block = np.unique(
            block, return_inverse=True
        )  # a hole in an episode may leave a block without a step
        out[rows] = block + number + 1
        number = int(out[rows[-1]])
    return out


class Acted(NamedTuple):
    """Where the guard, and where a head, acted on what a contender proposed, `[n]` each in {0, 1}; and on how many
    steps by each of the guard's reasons (a step may have several)."""

    guard: F64
    head: F64
    reasons: Mapping[str, int] = {}


def held_out(samples: Samples, errors: dict[str, F64], acted: dict[str, Acted]) -> HeldOut:
    """Means by block. errors: absolute steering error `[n]` of "candidate", "current" and "mean", speed error of the
    first two under "speed_candidate" and "speed_current"; acted: of these two."""
    block = blocks_of(samples)
    steps = np.bincount(block)

    def means(values: F64) -> Figures:
        return tuple((np.bincount(block, weights=values) / steps).tolist())

    starts = np.searchsorted(block, np.arange(len(steps)))
    return HeldOut(
        episode=tuple(int(e) for e in samples.episode[starts]),
        steps=tuple(float(s) for s in steps),
        candidate=means(errors["candidate"]),
        current=means(errors["current"]),
        mean=means(errors["mean"]),
        guard_candidate=means(acted["candidate"].guard),
        guard_current=means(acted["current"].guard),
        head_candidate=means(acted["candidate"].head),
        head_current=means(acted["current"].head),
        speed_candidate=means(errors["speed_candidate"]),
        speed_current=means(errors["speed_current"]),
        guard_reasons={
            name: count / len(samples) for name, count in Counter(acted["candidate"].reasons).most_common()
        },
    )


def guarded_on(
    decisions: Decisions,
    samples: Samples,
    calibration: Calibration,
    limits: Limits,
    look: Callable[[], None] = lambda: None,
    watch: tuple[Callable[[], Watch], F32] | None = None,
) -> Acted:
    """Where the guard, and where a head, would have acted on the decisions.

    The recorded frames and speeds go on as they were driven; the pilot that drives tracks each decision from where the
    car was, so this counts what a contender proposes on the driver's own road, not where it would have gone. watch:
    makes watches that do not act, and the safety head's grids of the frames `[n, 13, 17]`.

    Where the driver themself gave a throttle outside of the bounds (a recording of another car, or of before the bounds
    were narrowed), asking for as much is what was taught: the guard drives it at the bound, and it is not held against
    a contender there. Without this no such recording could ever teach anything.
    """
    driven = samples.command[:, 1].astype(float)
    beyond = (driven > limits.throttle_max) | (driven < limits.throttle_min)
    guard, head = np.zeros(len(samples)), np.zeros(len(samples))
    why: Counter[str] = Counter()
    between = seconds_between(samples).clip(0.0, 0.8 * limits.max_gap_s)
    for rows in _runs(samples):
        pilot = Pilot(calibration=calibration, limits=limits, watch=None if watch is None else watch[0]())
        now = 0.0
        for k, i in enumerate(rows):
            if k % _LOOK_EVERY == 0:
                look()
            now += float(between[i])
            pilot.instruct(samples.instructions[i])
            pilot.observe(now_s=now, speed_mps=samples.speeds[i], yaw_rate_rps=None)
            bends, speeds = decisions.curvature[i], decisions.speed[i]
            if not (np.isfinite(bends).all() and np.isfinite(speeds).all()):
                guard[i] = (
                    1.0  # no chunk is made of it: the car would drive on the one before until that is stale
                )
                why[Reason.NOT_FINITE.value] += 1
                continue
            pilot.accept(ActionChunk(tuple(map(float, bends)), tuple(map(float, speeds)), now, "held out"))
            grid = None if watch is None else watch[1][i]
            reasons = pilot.tick(now_s=now, grid=grid).guarded.reasons
            if k >= _SETTLING:
                taught = {*HEADS, Reason.THROTTLE_BOUND} if beyond[i] else HEADS
                own = [str(r) for r in reasons if r not in taught]
                why.update(own)
                guard[i] = bool(own)
                head[i] = any(r in HEADS for r in reasons)
    return Acted(guard, head, dict(why))


def replayed(frozen: Samples, candidate: Decisions, base: Decisions, sha256: str) -> Replay:
    """Errors on frozen states by track, under the nominal calibration: the servo is not what is remembered."""
    ideal = Decisions(frozen.curvature, frozen.speed_ahead)
    wanted = steering_of(ideal, frozen, Calibration())
    _, track = np.unique(frozen.episode, return_inverse=True)
    states = np.bincount(track)

    def means(errors: F64) -> Figures:
        return tuple((np.bincount(track, weights=errors) / states).tolist())

    def steering(decisions: Decisions) -> Figures:
        return means(np.abs(steering_of(decisions, frozen, Calibration()) - wanted))

    return Replay(
        sha256,
        tuple(float(s) for s in states),
        steering(candidate),
        steering(base),
        means(speed_error(candidate, frozen)),
        means(speed_error(base, frozen)),
    )


def examined(paper: Paper, candidate: Decisions, current: Decisions, sha256: str) -> Exam:
    """Errors by episode, under the nominal calibration, as of `replayed`, beside the best that was reached."""
    samples = paper.samples
    both = replayed(samples, candidate, current, sha256)
    episodes = [int(e) for e in np.unique(samples.episode)]
    exam = Exam(
        sha256,
        tuple(paper.lessons[e] for e in episodes),
        both.states,
        both.candidate,
        both.base,
        both.speed_candidate,
        both.speed_base,
        trained=tuple(e in paper.trained for e in episodes),
        names=tuple(paper.names[e] for e in episodes),
        unread=paper.unread,
    )
    return with_best(exam, paper.best)


def name_of(*parts: str) -> str:
    """The evaluation's name: sha256 over the names of its parts, "" where one is missing."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _runs(samples: Samples) -> list[I64]:
    """Rows of each episode, in order."""
    edges = np.flatnonzero(np.diff(samples.episode)) + 1
    return [rows for rows in np.split(np.arange(len(samples)), edges) if len(rows)]
