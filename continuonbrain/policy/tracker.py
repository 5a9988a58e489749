"""From a path that the model saw some time ago to a command for now: odometry and path tracking.

The model's chunk is geometry in the frame of the observation that it answers. The car has moved since: dead
reckoning from wheel speed and gyro says how far, and the tracker follows the path from where the car is now.
Without motion sensors the commanded motion stands in for the measured one (then path, odometry and recorded
commands all live in the same commanded space, and stay consistent).

Steering: curvature of the path where the car will be after the actuation delay, plus lateral and heading error
fed back as a critically damped second-order law over distance (e'' = -k1 e - k2 e').
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from continuonbrain.policy.calibration import THROTTLE_PER_MPS, Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.codec import CURVATURE_KNOTS_M, SPEED_KNOTS_S
from continuonbrain.policy.response import slow_response

_STEP_M = 0.05
_K_LATERAL = 3.0  # 1/m^2
_K_HEADING = 2 * math.sqrt(_K_LATERAL)  # 1/m, critically damped
_HISTORY = 128  # ticks of poses kept: 6.4 s at 20 Hz, more than any chunk may be old
ACCELERATION, DRAG = 3.0, 1.2
"""v' = ACCELERATION * throttle - DRAG * v, in m/s and seconds, where the throttle is not measured."""
_MAX_CURVATURE = 1.8
_MAX_SPEED_MPS = 10.0
_RESTS_MPS, _MUST_MOVE_MPS, _DISBELIEVED_AFTER_S = 0.05, 0.4, 0.25
_MAX_YAW_RATE_RPS = 35.0  # 2000 degrees/s, the range of a common gyro


def _between(x: float, xs: tuple[float, ...]) -> tuple[int, int, float]:
    """Numbers of the neighbours of x among xs, and its share of the way from the first to the second."""
    if x <= xs[0]:
        return 0, 0, 0.0
    if x >= xs[-1]:
        return len(xs) - 1, len(xs) - 1, 0.0
    i = bisect_left(xs, x)
    return i - 1, i, (x - xs[i - 1]) / (xs[i] - xs[i - 1])


def _interpolate(x: float, xs: tuple[float, ...], ys: tuple[float, ...]) -> float:
    low, high, share = _between(x, xs)
    return ys[low] + share * (ys[high] - ys[low])


_LAID = tuple(
    _between(i * _STEP_M, CURVATURE_KNOTS_M) for i in range(round(CURVATURE_KNOTS_M[-1] / _STEP_M) + 1)
)
"""Where a path's points are among the chunk's distances."""


@dataclass(frozen=True, slots=True)
class Pose:
    """x, y in metres, heading in radians, in the odometry frame (where the robot was switched on)."""

    x: float = 0.0
    y: float = 0.0
    heading: float = 0.0

    def ahead(self, distance: float, curvature: float) -> Pose:
        """The pose after driving `distance` metres at a curvature."""
        turned = distance * curvature
        middle = self.heading + turned / 2
        return Pose(
            self.x + distance * math.cos(middle), self.y + distance * math.sin(middle), self.heading + turned
        )


@dataclass(slots=True)
class Odometry:
    """Dead reckoning. `update` once a tick; `at` looks up where the car was at a past time."""

    calibration: Calibration
    pose: Pose = field(default_factory=Pose)
    speed_mps: float = 0.0
    curvature: float = 0.0
    _history: deque[tuple[float, Pose]] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    _last_s: float | None = None
    _expected_mps: float = 0.0
    _contradicted_s: float = 0.0

    def update(
        self,
        *,
        now_s: float,
        speed_mps: float | None,
        yaw_rate_rps: float | None,
        commanded: tuple[float, float],
    ) -> Pose:
        """Advance to now. commanded: steering and throttle that were in force since the last update."""
        elapsed = 0.0 if self._last_s is None else max(0.0, min(0.5, now_s - self._last_s))
        self._last_s = now_s
        steering, throttle = commanded
        change = (
            ACCELERATION * self.calibration.throttle_gain * throttle - DRAG * self._expected_mps
        ) * elapsed
        self._expected_mps = min(3.0, max(0.0, self._expected_mps + change))
        self.speed_mps = self._expected_mps if self._disbelieves(speed_mps, elapsed) else speed_mps or 0.0
        if yaw_rate_rps is None or not abs(yaw_rate_rps) <= _MAX_YAW_RATE_RPS:
            self.curvature = self.calibration.curvature(steering)
            yaw_rate = self.curvature * self.speed_mps
        else:
            yaw_rate = yaw_rate_rps
            bend = yaw_rate / self.speed_mps if self.speed_mps > 0.15 else 0.0
            self.curvature = max(-_MAX_CURVATURE, min(_MAX_CURVATURE, bend))
        turned = yaw_rate * elapsed
        middle = self.pose.heading + turned / 2
        moved = self.speed_mps * elapsed
        self.pose = Pose(
            self.pose.x + moved * math.cos(middle),
            self.pose.y + moved * math.sin(middle),
            self.pose.heading + turned,
        )
        self._history.append((now_s, self.pose))
        return self.pose

    def _disbelieves(self, speed_mps: float | None, elapsed: float) -> bool:
        """Whether there is no speed to believe. A reading that no such car can have is a broken sensor's, as good as a
        missing one (NaN too); so is rest, after the throttle should have moved the car for a while: believed, it would
        open the throttle fully."""
        if speed_mps is None or not abs(speed_mps) <= _MAX_SPEED_MPS:
            return True
        if abs(speed_mps) > _RESTS_MPS:
            self._expected_mps, self._contradicted_s = max(0.0, speed_mps), 0.0
        elif self._expected_mps < _MUST_MOVE_MPS:
            self._contradicted_s = 0.0
        else:
            self._contradicted_s += elapsed
        return self._contradicted_s >= _DISBELIEVED_AFTER_S

    def forget(self) -> None:
        """Nobody knows how the robot moved meanwhile: poses of before mean nothing now."""
        self._history.clear()

    def at(self, when_s: float) -> Pose | None:
        """Pose at the last update not after `when_s`, or None when that is no longer (or not yet) known."""
        for time_s, pose in reversed(self._history):
            if time_s <= when_s + 1e-6:
                return pose
        return None


class Path:
    """A chunk laid into the odometry frame as points every 5 cm."""

    __slots__ = ("_progress", "chunk", "curvature", "heading", "x", "y")

    def __init__(self, chunk: ActionChunk, start: Pose) -> None:
        self.chunk = chunk
        bends = chunk.curvature
        self.curvature = [bends[low] + share * (bends[high] - bends[low]) for low, high, share in _LAID]
        x, y, heading = start.x, start.y, start.heading
        self.x, self.y, self.heading = [x], [y], [heading]
        for bend in self.curvature[:-1]:  # `Pose.ahead`, without a pose for each of 60 points
            turned = _STEP_M * bend
            middle = heading + turned / 2
            x += _STEP_M * math.cos(middle)
            y += _STEP_M * math.sin(middle)
            heading += turned
            self.x.append(x)
            self.y.append(y)
            self.heading.append(heading)
        self._progress = 0

    def nearest(self, pose: Pose) -> int:
        """Index of the path point nearest to `pose`; never goes back."""
        self._progress = self.nearest_from(self._progress, pose, 24)
        return self._progress

    def nearest_from(self, start: int, pose: Pose, points: int) -> int:
        """Index of the nearest of so many points from `start` on."""
        best = start
        shortest = math.inf
        for i in range(start, min(start + points, len(self.x))):
            squared = (self.x[i] - pose.x) ** 2 + (self.y[i] - pose.y) ** 2
            if squared < shortest:
                best, shortest = i, squared
        return best

    def bend(self, i: int, pose: Pose) -> float:
        """Curvature (1/m) that brings a car at `pose` back to the path at its point `i`: the tracker's law."""
        cos, sin = math.cos(self.heading[i]), math.sin(self.heading[i])
        lateral = -sin * (pose.x - self.x[i]) + cos * (pose.y - self.y[i])
        turned = math.remainder(pose.heading - self.heading[i], 2 * math.pi)
        curvature = self.curvature[i] - _K_LATERAL * lateral - _K_HEADING * math.sin(turned)
        return max(-_MAX_CURVATURE, min(_MAX_CURVATURE, curvature))

    @property
    def progress(self) -> int:
        """Index of the point that the car has come to."""
        return self._progress

    @property
    def exhausted(self) -> bool:
        """The car has come to the end of what the model saw."""
        return self._progress >= len(self.x) - 4


def asked_speed(chunk: ActionChunk, *, now_s: float) -> float:
    """What a chunk asks for now, m/s (see `PathTracker.target_speed`)."""
    ahead_s = max(0.0, now_s - chunk.observed_s) + SPEED_KNOTS_S[0]
    return _interpolate(ahead_s, SPEED_KNOTS_S, chunk.speed)


class PathTracker:
    """Follows the freshest path. `command` returns None when there is nothing left to follow."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.correction = slow_response()
        self.path: Path | None = None

    def steering(self, curvature: float) -> float:
        """The command in [-1, 1] for a curvature (1/m): by the calibration, and by how the car has answered lately."""
        return self.calibration.steering(self.correction.expected_for(curvature))

    def follow(self, chunk: ActionChunk, start: Pose) -> None:
        """Follow a new chunk whose observation was made at pose `start`."""
        self.path = Path(chunk, start)

    def target_speed(self, *, now_s: float) -> float:
        """What the path asks for now, m/s; 0 without one.

        The driver's speed law closes most of the gap to its cruise speed within half a second, so the speed expected
        half a second from now stands in for the cruise speed.
        """
        return 0.0 if self.path is None else asked_speed(self.path.chunk, now_s=now_s)

    def command(
        self, *, now_s: float, odometry: Odometry, speed_limit_mps: float | None = None
    ) -> tuple[float, float] | None:
        """Steering and throttle for now, or None without a path or at its end."""
        path = self.path
        if path is None:
            return None
        speed, delay = odometry.speed_mps, self.calibration.delay_s
        pose = odometry.pose.ahead(speed * delay, odometry.curvature)
        i = path.nearest(pose)
        if path.exhausted:
            return None
        steering = self.steering(path.bend(i, pose))
        target = self.target_speed(now_s=now_s)
        if speed_limit_mps is not None:
            target = min(target, speed_limit_mps)
        throttle = (THROTTLE_PER_MPS * target + (target - speed)) / self.calibration.throttle_gain
        if target < 0.05 and speed < 0.05:
            throttle = 0.0
        return steering, max(-0.5, min(1.0, throttle))
