"""Where the car will be within the next second, from its motion now and what it is about to be told.

The way is laid in the frame's car coordinates: (ahead, left) in metres, `POINTS` places, the first a tenth of a second
from now. Until the actuation delay is over the motion of now goes on; behind it the tracker's own law follows the path,
or a person's command is held, each as the car answers it (`response.py`). No I/O; some 60 microseconds.
"""

from __future__ import annotations

import math

from continuonbrain.policy.calibration import THROTTLE_PER_MPS, Calibration
from continuonbrain.policy.response import Response
from continuonbrain.policy.safety_head import HORIZON_S, POINTS
from continuonbrain.policy.tracker import ACCELERATION, DRAG, Odometry, PathTracker, Pose

_DT_S = HORIZON_S / POINTS
_FASTEST_MPS = 3.0
_LOOK_POINTS = 10  # of 5 cm: further than a car gets in a tenth of a second

Way = list[tuple[float, float]]


def way_along_path(
    tracker: PathTracker,
    odometry: Odometry,
    response: Response,
    *,
    now_s: float,
    speed_limit_mps: float | None,
) -> Way:
    """The way along the path that is followed. Without one, or at its end, the car brakes as it rolls."""
    poses = poses_along_path(
        tracker, odometry, response, now_s=now_s, speed_limit_mps=speed_limit_mps, points=POINTS
    )
    return [(pose.x, pose.y) for pose in poses]


def poses_along_path(
    tracker: PathTracker,
    odometry: Odometry,
    response: Response,
    *,
    now_s: float,
    speed_limit_mps: float | None,
    points: int,
) -> list[Pose]:
    """So many places of that way, a tenth of a second apart, with headings, all as seen from the car now."""
    path, known = tracker.path, tracker.calibration
    here = odometry.pose
    pose, speed, at = here, odometry.speed_mps, 0 if path is None else path.progress
    poses: list[Pose] = []
    for i in range(points):
        time_s = i * _DT_S
        bend, target = odometry.curvature, 0.0
        if path is not None:
            at = path.nearest_from(at, pose, _LOOK_POINTS)
            if time_s >= known.delay_s:
                bend = response.curvature(known.curvature(tracker.steering(path.bend(at, pose))))
            if at < len(path.x) - 4:
                target = tracker.target_speed(now_s=now_s + time_s)
        if speed_limit_mps is not None:
            target = min(target, speed_limit_mps)
        throttle = max(-0.5, min(1.0, THROTTLE_PER_MPS * target + (target - speed)))
        pose, speed = _moved(pose, speed, bend, throttle)
        poses.append(Pose(*_seen_from(here, pose), pose.heading - here.heading))
    return poses


def way_of_command(
    command: tuple[float, float], odometry: Odometry, response: Response, known: Calibration
) -> Way:
    """The way when a command (steering, throttle) is held."""
    here = pose = odometry.pose
    speed = odometry.speed_mps
    held = response.curvature(known.curvature(max(-1.0, min(1.0, command[0]))))
    way: Way = []
    for i in range(POINTS):
        bend = held if i * _DT_S >= known.delay_s else odometry.curvature
        pose, speed = _moved(pose, speed, bend, known.throttle_gain * max(-1.0, min(1.0, command[1])))
        way.append(_seen_from(here, pose))
    return way


def _moved(pose: Pose, speed: float, bend: float, throttle: float) -> tuple[Pose, float]:
    after = min(_FASTEST_MPS, max(0.0, speed + (ACCELERATION * throttle - DRAG * speed) * _DT_S))
    return pose.ahead((speed + after) / 2 * _DT_S, bend), after


def _seen_from(here: Pose, pose: Pose) -> tuple[float, float]:
    dx, dy = pose.x - here.x, pose.y - here.y
    cos, sin = math.cos(here.heading), math.sin(here.heading)
    return cos * dx + sin * dy, cos * dy - sin * dx
