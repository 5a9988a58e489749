"""What the robot's own driving tells its safety head.

Which way the camera looks aside cannot be told from one picture. But who drives well keeps the road under the wheels:
the angle at which the ways that a person really drove lie best inside the road that the head sees is the camera's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.safety_head import HORIZON_S, POINTS, SafetyHead, along_ways, turned_ways
from continuonbrain.policy.watch import OFFSET_BOUND, SLOPE_BOUNDS
from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.shifts import World
from continuonbrain.robot.sim.track import TrackSet

_ANGLES_RAD = np.radians(np.arange(-32.0, 32.5, 1.0))
MIN_VIEWS = 60
_MIN_WAY_M = 0.4
_MIN_BETTER = 0.3
"""Logit, in the mean, by which the road must look surer at an angle than straight ahead."""


@dataclass(frozen=True, slots=True)
class Mount:
    """yaw_rad: the camera looks so far to the left of straight ahead. views: pictures that this rests on; better: how
    much surer the road then looks, logit in the mean."""

    yaw_rad: float
    views: int
    better: float


def fit_mount(head: SafetyHead, frames: NDArray[np.uint8], ways: NDArray[np.float32]) -> Mount:
    """The camera's angle. frames `[n, 120, 160, 3]`; ways `[n, POINTS, 2]`: where the car then really went. 0 where too
    little was driven, or no angle is clearly better."""
    used = np.flatnonzero(np.hypot(*ways[:, -1].T) >= _MIN_WAY_M)
    if len(used) < MIN_VIEWS:
        return Mount(0.0, len(used), 0.0)
    grids = np.concatenate([head.grids(frames[used[i : i + 128]]) for i in range(0, len(used), 128)])
    fits = np.array([_fit(grids, turned_ways(ways[used], float(-angle))) for angle in _ANGLES_RAD])
    best = float(_ANGLES_RAD[fits.argmax()])
    better = float(fits.max() - fits[len(fits) // 2])
    return Mount(best if better >= _MIN_BETTER else 0.0, len(used), round(better, 4))


def _fit(grids: NDArray[np.float32], ways: NDArray[np.float32]) -> float:
    """How surely the ways lie on the road. Logits and not probabilities: these are nearly 1 in all of the road's width,
    while the logit falls towards its middle, where people drive in the mean."""
    return float(-along_ways(grids, ways).clip(-25, 8).mean())


def teleop_views(
    world: World, *, seed: int, tracks: Sequence[int] = range(9400, 9404), ticks: int = 240
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What a person's episodes in a simulated world give: pictures, and the ways driven after them by odometry."""
    fleet = Fleet(TrackSet(tracks, world), np.arange(len(tracks)), seed=seed)
    fleet.place(speed_mps=0.8)
    frames, motion = [], []
    rng = np.random.default_rng(seed)
    for tick in range(ticks):
        if tick % 4 == 0:
            frames.append(fleet.render())
        motion.append(fleet.measured())
        steering, throttle = fleet.expert()
        fleet.step(steering + rng.normal(0, 0.15, fleet.cars), throttle)
    speed = np.stack([m[0] for m in motion], 1)
    yaw = np.stack([m[1] for m in motion], 1)
    horizon = round(HORIZON_S / CONTROL_DT_S)
    seen, ways = [], []
    for i, tick in enumerate(range(0, ticks, 4)):
        if tick + horizon >= ticks:
            break
        seen.append(frames[i])
        ways.append(driven_ways(speed[:, tick : tick + horizon], yaw[:, tick : tick + horizon]))
    return np.concatenate(seen), np.concatenate(ways)


def driven_ways(speed_mps: NDArray[np.float64], yaw_rate_rps: NDArray[np.float64]) -> NDArray[np.float32]:
    """Dead reckoning of cars `[n, ticks]` over the horizon -> ways `[n, POINTS, 2]`."""
    step = speed_mps * CONTROL_DT_S
    turned = np.cumsum(yaw_rate_rps, 1) * CONTROL_DT_S
    middle = turned - yaw_rate_rps * CONTROL_DT_S / 2
    x, y = np.cumsum(step * np.cos(middle), 1), np.cumsum(step * np.sin(middle), 1)
    every = speed_mps.shape[1] // POINTS
    out: NDArray[np.float32] = np.stack([x, y], 2)[:, every - 1 :: every].astype(np.float32)
    return out


# ---------------------------------------------------------------------------------------------- interventions

MIN_INTERVENTIONS = 5
_BEFORE_S = HORIZON_S
_PRIOR_SLOPE, _PRIOR_OFFSET = 0.25, 0.7
_NEGATIVES_PER_POSITIVE = 20


@dataclass(frozen=True, slots=True)
class Heard:
    """What the head said of one drive. times_s, logits `[n]` of the steps that the policy drove; interventions: times
    at which a person took over or stopped the car."""

    times_s: NDArray[np.float64]
    logits: NDArray[np.float64]
    interventions: NDArray[np.float64]


def fit_probability(drives: Sequence[Heard]) -> tuple[float, float, int]:
    """(slope, offset, interventions used) of the head's logit from what this robot's driver thought of its driving.

    A step within a second before an intervention is harmful, any other that the policy drove is not. Platt scaling
    (Platt, 1999) with normal priors around "as it was made", bounded (`HeadCalibration`); fewer than five interventions
    change nothing: ordinary driving holds no positives, and a head that learned from it alone would fall silent.
    """
    harmful, harmless, count = [], [], 0
    for drive in drives:
        until = drive.interventions[:, None] - drive.times_s[None, :]
        before = ((until >= 0) & (until <= _BEFORE_S)).any(0)
        count += len(drive.interventions)
        harmful.append(drive.logits[before])
        harmless.append(drive.logits[~before])
    yes, no = (np.concatenate(v) if v else np.zeros(0) for v in (harmful, harmless))
    if count < MIN_INTERVENTIONS or not len(yes) or not len(no):
        return 1.0, 0.0, count
    most = _NEGATIVES_PER_POSITIVE * len(yes)
    if len(no) > most:
        no = no[np.linspace(0, len(no) - 1, most).astype(int)]
    slope, offset = _platt(np.concatenate([yes, no]), np.concatenate([np.ones(len(yes)), np.zeros(len(no))]))
    low, high = SLOPE_BOUNDS
    return min(high, max(low, slope)), min(OFFSET_BOUND, max(-OFFSET_BOUND, offset)), count


def _platt(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Newton steps on the penalised log-likelihood. Neighbouring steps resemble each other: four count as one."""
    weight = 0.25
    theta = np.array([1.0, 0.0])
    prior = np.array([1.0, 0.0])
    precision = np.diag([_PRIOR_SLOPE**-2, _PRIOR_OFFSET**-2])
    features = np.stack([x, np.ones_like(x)], 1)
    for _ in range(30):
        p = 1 / (1 + np.exp(-(features @ theta).clip(-30, 30)))
        gradient = weight * features.T @ (p - y) + precision @ (theta - prior)
        curvature = weight * (features * (p * (1 - p))[:, None]).T @ features + precision
        step = np.linalg.solve(curvature, gradient)
        theta = theta - step
        if np.abs(step).max() < 1e-8:
            break
    return float(theta[0]), float(theta[1])
