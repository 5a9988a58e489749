"""Counterfactual states: what would have happened. A car is put somewhere on a road, drives on for a second along a way
that it plans, good or bad, and the simulator says whether it left the road. A robot's own episodes hold next to none of
these: whoever drives, keeps it on the road.

Teaches and judges the safety head (`policy/safety_head.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.codec import CURVATURE_KNOTS_M
from continuonbrain.policy.response import Response
from continuonbrain.policy.safety_head import GRID_AHEAD_M, GRID_LEFT_M, HORIZON_S, POINTS
from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.robot.sim.camera import Cameras
from continuonbrain.robot.sim.fleet import ACCELERATION, DRAG, Fleet, speed_command
from continuonbrain.robot.sim.ideal import ideal_curvature
from continuonbrain.robot.sim.instructions import NAMES
from continuonbrain.robot.sim.shifts import BASE, World
from continuonbrain.robot.sim.track import TrackSet

Array = NDArray[np.float64]
_MAX_CURVATURE = 1.6
_WARM_UP_TICKS = 20
_HORIZON_TICKS = round(HORIZON_S / CONTROL_DT_S)


@dataclass(frozen=True, slots=True)
class Counterfactuals:
    """n states. frames uint8 `[n, 120, 160, 3]`; off `[n, 13, 17]`: which points of the road grid are off the road;
    ways `[n, POINTS, 2]`: where the car's plan takes it, (ahead, left) in metres; speeds_mps `[n]` as measured;
    left_road `[n]`: what happened within the horizon."""

    frames: NDArray[np.uint8]
    off: NDArray[np.bool_]
    ways: NDArray[np.float32]
    speeds_mps: NDArray[np.float32]
    left_road: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def join(cls, parts: Sequence[Counterfactuals]) -> Counterfactuals:
        """All of several."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})


def calibration_of(world: World) -> Calibration:
    """What a robot of this world knows of its servo once it has been calibrated."""
    return Calibration(
        steering_gain=world.steering_gain,
        steering_trim_rad=world.steering_trim_rad,
        throttle_gain=world.throttle_gain,
        delay_s=world.delay_ticks * CONTROL_DT_S + 0.05,
    )


def draw(
    tracks: TrackSet,
    count: int,
    *,
    seed: int,
    cameras: Cameras | None = None,
    calibration: Calibration | None = None,
    warm_up: bool = False,
) -> Counterfactuals:
    """`count` cars on these tracks that are on the road now.

    calibration: the robot's (default: the world's own). warm_up: each car has driven unsteadily for a second before, so
    that its `Response` is known; otherwise it is what the calibration says.
    """
    rng = np.random.default_rng(seed)
    known = calibration or calibration_of(tracks.world)
    fleet, responses = placed(tracks, count, rng, known, cameras=cameras, warm_up=warm_up)
    frames, off = fleet.render(), road_grid(fleet)
    speed, yaw_rate = fleet.measured()
    on_road = ~fleet.off_road
    planned, target = draw_plans(fleet, rng)
    ways = plan_ways(_answered(planned, responses), target, speed, yaw_rate, known.delay_s)
    left = np.zeros(count, bool)
    moved = np.zeros(count)
    for _ in range(_HORIZON_TICKS):
        ahead = moved + fleet.speed * known.delay_s
        bend = _at(planned, ahead)
        before = fleet.speed
        _drive(fleet, bend, target, known)
        moved += (before + fleet.speed) / 2 * CONTROL_DT_S
        left |= fleet.off_road
    rows = np.flatnonzero(on_road)
    as32 = np.float32
    return Counterfactuals(
        frames[rows], off[rows], ways[rows].astype(as32), speed[rows].astype(as32), left[rows]
    )


def placed(
    tracks: TrackSet,
    count: int,
    rng: np.random.Generator,
    known: Calibration,
    *,
    cameras: Cameras | None,
    warm_up: bool,
) -> tuple[Fleet, list[Response]]:
    """`count` cars somewhere on these tracks that have been driving a while (see `draw`), and how each answers."""
    fleet = Fleet(
        tracks,
        rng.integers(len(tracks), size=count),
        seed=int(rng.integers(1 << 31)),
        cameras=cameras,
    )
    half = tracks.half_m[fleet.track]
    fleet.place(
        lateral_m=rng.uniform(-1.0, 1.0, count) * half * (0.5 if warm_up else 1.0),
        heading_error=rng.normal(0, 0.35, count).clip(-0.9, 0.9) * (0.3 if warm_up else 1.0),
        speed_mps=rng.uniform(0.0, 1.9, count),
        instruction=[NAMES[i] for i in rng.integers(len(NAMES), size=count)],
    )
    responses = [Response() for _ in range(count)]
    if warm_up:
        _drive_unsteadily(fleet, rng, known, responses)
    else:
        bend = rng.uniform(-0.9, 0.9, count)
        for _ in range(4):
            _drive(fleet, bend, fleet.speed, known)
    return fleet, responses


def _at(planned: Array, distance_m: Array) -> Array:
    """Curvature `[cars]` of each plan at a distance."""
    knots = np.asarray(CURVATURE_KNOTS_M)
    i = np.clip(np.searchsorted(knots, distance_m) - 1, 0, len(knots) - 2)
    share = ((distance_m - knots[i]) / (knots[i + 1] - knots[i])).clip(0, 1)
    rows = np.arange(len(planned))
    out: Array = planned[rows, i] * (1 - share) + planned[rows, i + 1] * share
    return out


def _drive(fleet: Fleet, curvature: Array, target_mps: Array, known: Calibration) -> Array:
    """One tick; the steering sent."""
    steering = np.array([known.steering(float(c)) for c in curvature])
    fleet.step(steering, speed_command(target_mps, fleet.speed) / known.throttle_gain)
    return steering


def _drive_unsteadily(
    fleet: Fleet, rng: np.random.Generator, known: Calibration, responses: list[Response]
) -> None:
    """A second of aiming at the lane with an unsteady hand, by a driver who believes the calibration."""
    n = fleet.cars
    hand: Array = np.zeros(n)
    for tick in range(_WARM_UP_TICKS):
        hand = 0.8 * hand + rng.normal(0, 0.35, n)
        bend = fleet.pursuit_curvature(fleet.x, fleet.y, fleet.heading, fleet.index) + hand
        steering = _drive(fleet, bend, fleet.speed, known)
        speed, yaw_rate = fleet.measured()
        for i, response in enumerate(responses):
            response.update(
                now_s=tick * CONTROL_DT_S,
                steering=float(steering[i]),
                speed_mps=float(speed[i]),
                yaw_rate_rps=float(yaw_rate[i]),
                calibration=known,
            )


def _answered(planned: Array, responses: list[Response]) -> Array:
    """What planned curvatures `[cars, knots]` become on cars that answer so."""
    return np.array([[r.curvature(float(c)) for c in row] for r, row in zip(responses, planned, strict=True)])


def draw_plans(fleet: Fleet, rng: np.random.Generator) -> tuple[Array, Array]:
    """Curvatures `[cars, knots]` and speeds `[cars]` that the cars drive for: a third of them well, the others with
    errors of every size."""
    n = fleet.cars
    ideal = ideal_curvature(fleet, CURVATURE_KNOTS_M)
    kind = rng.random(n)
    skewed = ideal + rng.normal(0, 0.5, (n, 1)) + rng.normal(0, 0.2, ideal.shape)
    held = np.repeat(rng.uniform(-_MAX_CURVATURE, _MAX_CURVATURE, (n, 1)), ideal.shape[1], 1)
    straight = rng.normal(0, 0.1, (n, 1)) + np.zeros_like(ideal)
    planned = np.select(
        [(kind < 0.35)[:, None], (kind < 0.65)[:, None], (kind < 0.85)[:, None], (kind < 0.95)[:, None]],
        [ideal, skewed, held, straight],
        -ideal,
    )
    return planned.clip(-_MAX_CURVATURE, _MAX_CURVATURE), rng.uniform(0.3, 1.9, n)


def plan_ways(
    planned: Array, target_mps: Array, speed_mps: Array, yaw_rate_rps: Array, delay_s: float
) -> Array:
    """Where plans take cars, `[cars, POINTS, 2]`: the motion of now until the delay is over, the plan behind it."""
    n = len(planned)
    x, y, heading, moved = (np.zeros(n) for _ in range(4))
    speed = np.array(speed_mps, float)
    now = np.where(speed > 0.15, yaw_rate_rps / np.maximum(speed, 0.15), 0.0).clip(-1.8, 1.8)
    out = np.empty((n, POINTS, 2))
    ticks = _HORIZON_TICKS // POINTS
    for tick in range(_HORIZON_TICKS):
        late = tick * CONTROL_DT_S < delay_s
        bend = now if late else _at(planned, moved)
        step = speed * CONTROL_DT_S
        middle = heading + bend * step / 2
        x, y, heading = x + step * np.cos(middle), y + step * np.sin(middle), heading + bend * step
        moved = moved + step
        drive = speed_command(target_mps, speed)
        speed = (speed + (ACCELERATION * drive - DRAG * speed) * CONTROL_DT_S).clip(0, 3)
        if tick % ticks == ticks - 1:
            out[:, tick // ticks] = np.stack([x, y], 1)
    return out


def road_grid(fleet: Fleet) -> NDArray[np.bool_]:
    """Which points of each car's road grid are off the road, `[cars, 13, 17]`."""
    ahead, left = np.meshgrid(GRID_AHEAD_M, GRID_LEFT_M, indexing="ij")
    cos, sin = np.cos(fleet.heading)[:, None], np.sin(fleet.heading)[:, None]
    x = fleet.x[:, None] + cos * ahead.ravel() - sin * left.ravel()
    y = fleet.y[:, None] + sin * ahead.ravel() + cos * left.ravel()
    line = fleet.tracks.points[:, ::4]  # 17 cm apart: the distance to a line of 0.4 m width is exact to 1 cm
    near = np.empty((fleet.cars, x.shape[1]))
    for i in range(fleet.cars):
        road = line[fleet.track[i]].astype(np.float32)
        dx = x[i].astype(np.float32)[:, None] - road[:, 0]
        dy = y[i].astype(np.float32)[:, None] - road[:, 1]
        near[i] = np.sqrt((dx * dx + dy * dy).min(1))
    off: NDArray[np.bool_] = near > fleet.tracks.half_m[fleet.track][:, None]
    return off.reshape(fleet.cars, len(GRID_AHEAD_M), len(GRID_LEFT_M))


class AnyWorlds:
    """Endless seeded states of worlds of every kind: colours of no place in particular, cameras mounted high and low,
    by day and in the dark; the base's own family among them. None of the named shifts is: what these tell of the head
    is about roads that it was not taught. Which way a camera looks aside cannot be seen in one picture (the road turns
    in it as it does when the car turns): that is fitted on the robot (`trainer/safety_calibration.py`)."""

    def __init__(self, seed: int, *, tracks: int = 48, chunk: int = 384) -> None:
        self._rng = np.random.default_rng([seed, 11])
        self._tracks, self._chunk = tracks, chunk
        self._used = 0
        self._set: TrackSet | None = None

    def draw(self) -> Counterfactuals:
        """One chunk; every eighth is on new roads."""
        tracks, cameras, seed = self.next_world()
        return draw(tracks, self._chunk, seed=seed, cameras=cameras)

    def next_world(self) -> tuple[TrackSet, Cameras, int]:
        """Roads, cameras and a seed for a chunk of `chunk` cars."""
        rng = self._rng
        if self._used % 8 == 0:
            look = "asphalt" if rng.random() < 0.33 else "any"
            family = replace(BASE, look=look, road_half_m=(0.22, 0.6))
            self._set = TrackSet([500_000 + int(s) for s in rng.integers(400_000, size=self._tracks)], family)
        self._used += 1
        assert self._set is not None
        ordinary = rng.random() < 0.3
        # Each light as likely as its half: half of the pictures that are not ordinary are dark.
        brightness = float(np.exp(rng.uniform(np.log(0.05), np.log(1.2))))
        seen = replace(
            self._set.world,
            camera_pitch_deg=BASE.camera_pitch_deg if ordinary else (8.0, 44.0),
            camera_height_m=BASE.camera_height_m if ordinary else (0.12, 0.34),
            light=BASE.light if ordinary else (brightness, 1.5 * brightness),
        )
        cameras = Cameras(seen, self._chunk, rng)
        return self._set, cameras, int(rng.integers(1 << 31))
