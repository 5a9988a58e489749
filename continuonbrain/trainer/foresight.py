"""What the world head is taught and judged by: a car sees a road, takes up a path, good or bad, and follows it with the
robot's own tracker and odometry; the simulator says what the ground looks like a second on and whether the car left the
road within two.

The **target grid is the simulator's truth**, not the safety head's answer to the frame a second later: the head is to
be a second opinion, and its teacher must not share the error of what it reads. Nothing is lost by it: it is built where
the truth is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.codec import SPEED_KNOTS_S
from continuonbrain.policy.response import Response
from continuonbrain.policy.safety_head import HORIZON_S, SafetyHead
from continuonbrain.policy.tracker import Odometry, PathTracker
from continuonbrain.policy.veto import plan_of
from continuonbrain.policy.world_head import FORESEEN_S, seen_plans
from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.robot.sim.camera import Cameras
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.ideal import ideal_speed
from continuonbrain.robot.sim.track import TrackSet
from continuonbrain.trainer.counterfactual import calibration_of, draw_plans, placed, road_grid

_TICKS = round(FORESEEN_S / CONTROL_DT_S)
_FEATURES_AT = round(HORIZON_S / CONTROL_DT_S) - 1
_HEAD_BATCH = 128


@dataclass(frozen=True, slots=True)
class Foresights:
    """n states, numbers as `WorldHead.foresee` takes them, plans and grids as the camera sees them. grids
    `[n, 13, 17]`: logits of the safety head; plans `[n, FORESEEN_POINTS, 3]`; motions `[n, 2]`; chunks `[n, 10]`;
    later_off `[n, 13, 17]`: which points are off the road a second on; driven `[n, 3]`: where the car was then (ahead,
    left, heading); left_road `[n]`: within `FORESEEN_S`."""

    grids: NDArray[np.float32]
    plans: NDArray[np.float32]
    motions: NDArray[np.float32]
    chunks: NDArray[np.float32]
    later_off: NDArray[np.bool_]
    driven: NDArray[np.float32]
    left_road: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.grids)

    @classmethod
    def join(cls, parts: Sequence[Foresights]) -> Foresights:
        """All of several."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})


def foresee_states(
    head: SafetyHead,
    tracks: TrackSet,
    count: int,
    *,
    seed: int,
    cameras: Cameras | None = None,
    calibration: Calibration | None = None,
    warm_up: bool = False,
    mount_yaw_rad: float = 0.0,
) -> Foresights:
    """Of `count` cars those that are on the road now. calibration, warm_up: as `counterfactual.draw` has them.
    mount_yaw_rad: what the robot knows of its camera; truth is told as the camera looks."""
    rng = np.random.default_rng(seed)
    known = calibration or calibration_of(tracks.world)
    fleet, responses = placed(tracks, count, rng, known, cameras=cameras, warm_up=warm_up)
    frames, (speed, yaw_rate) = fleet.render(), fleet.measured()
    planned, target = draw_plans(fleet, rng)
    chunks = np.concatenate([planned, ideal_speed(target, speed, SPEED_KNOTS_S)], 1)
    rows = np.flatnonzero(~fleet.off_road)
    plans = [
        plan_of(
            _chunk(chunks[i]),
            speed_mps=float(speed[i]),
            yaw_rate_rps=float(yaw_rate[i]),
            calibration=known,
            response=responses[i],
        )
        for i in rows
    ]
    x, y, heading = fleet.x.copy(), fleet.y.copy(), fleet.heading.copy()
    later_off, driven, left = _follow(fleet, chunks, known, responses, (speed, yaw_rate), (x, y, heading))
    grids = np.concatenate(
        [head.grids(frames[rows[i : i + _HEAD_BATCH]]) for i in range(0, len(rows), _HEAD_BATCH)]
    )
    as32 = np.float32
    return Foresights(
        grids,
        seen_plans(np.array(plans, as32), mount_yaw_rad),
        np.stack([speed, yaw_rate], 1)[rows].astype(as32),
        chunks[rows].astype(as32),
        later_off[rows],
        seen_plans(driven[rows, None].astype(as32), mount_yaw_rad)[:, 0],
        left[rows],
    )


def _chunk(numbers: NDArray[np.float64]) -> ActionChunk:
    values = [float(v) for v in numbers]
    return ActionChunk(tuple(values[:-2]), tuple(values[-2:]), 0.0)


def _follow(
    fleet: Fleet,
    chunks: NDArray[np.float64],
    known: Calibration,
    responses: Sequence[Response],
    seen: tuple[NDArray[np.float64], NDArray[np.float64]],
    start: tuple[NDArray[np.float64], ...],
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_]]:
    """Each car follows its chunk for `FORESEEN_S`, or to the chunk's end, behind which nothing counts."""
    n = fleet.cars
    odometries, trackers = [Odometry(known) for _ in range(n)], [PathTracker(known) for _ in range(n)]
    steering, throttle = np.zeros(n), np.zeros(n)
    left, following = np.zeros(n, bool), np.ones(n, bool)
    later_off, driven = np.zeros((n, 13, 17), bool), np.zeros((n, 3))
    speed, yaw_rate = seen
    for tick in range(_TICKS):
        now = tick * CONTROL_DT_S
        for i in range(n):
            odometries[i].update(
                now_s=now,
                speed_mps=float(speed[i]),
                yaw_rate_rps=float(yaw_rate[i]),
                commanded=(steering[i], throttle[i]),
            )
            if tick == 0:
                trackers[i].follow(_chunk(chunks[i]), odometries[i].pose)
            command = trackers[i].command(now_s=now, odometry=odometries[i])
            following[i] &= command is not None
            steering[i], throttle[i] = command or (0.0, -0.5)
        fleet.step(steering, throttle)
        left |= fleet.off_road & following
        if tick == _FEATURES_AT:
            later_off = road_grid(fleet)
            dx, dy, turned = fleet.x - start[0], fleet.y - start[1], fleet.heading - start[2]
            cos, sin = np.cos(start[2]), np.sin(start[2])
            driven = np.stack([cos * dx + sin * dy, cos * dy - sin * dx, turned], 1)
        speed, yaw_rate = fleet.measured()
    return later_off, driven, left
