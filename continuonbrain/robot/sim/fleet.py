"""Cars on tracks: a kinematic bicycle with actuation delay, servo lag, noise and disturbance; and the expert.

Everything is a numpy array over cars; one car is a fleet of one. The world's truth (pose, lane measures) is
public for scoring and for the expert; what a robot may know is `speed_mps`, `yaw_rate_rps` (measured, with a
per-car gain error) and the frame.

Bicycle model: heading' = v / wheelbase * tan(wheel angle), see e.g. Rajamani, Vehicle Dynamics and Control,
ch. 2. Longitudinal: v' = 3 throttle - 1.2 v (full throttle settles at 2.5 m/s).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.robot.sim.camera import Cameras
from continuonbrain.robot.sim.instructions import BY_NAME
from continuonbrain.robot.sim.track import POINTS, TrackSet

MAX_WHEEL_RAD = 0.4
"""Front-wheel angle at steering 1 and nominal gain."""
ACCELERATION = 3.0
DRAG = 1.2
NOMINAL_WHEELBASE_M = 0.26
_SERVO_LAG_S = 0.06
_LOOKAHEAD_M = 0.6
_SEARCH = 12  # centreline points each way in which a car's nearest point is looked for after a tick

Array = NDArray[np.float64]


def speed_command(target_mps: Array, speed_mps: Array) -> Array:
    """The driver's throttle: feedforward for the cruise speed plus a proportional part, in [-0.5, 1]."""
    return (0.4 * target_mps + (target_mps - speed_mps)).clip(-0.5, 1.0)


class Fleet:
    """cars = len(track_index); car i drives on track track_index[i].

    instruction: names, set by `place`. off_road: the car's centre is beyond the road's edge.
    lateral_m: signed distance from the centreline (left positive). advanced: centreline points passed in the
    last tick. period_s: time that a tick takes; delays and pushes last as long in seconds whatever it is. All
    deterministic by seed.
    """

    def __init__(
        self,
        tracks: TrackSet,
        track_index: ArrayLike,
        *,
        seed: int,
        cameras: Cameras | None = None,
        period_s: float = CONTROL_DT_S,
    ) -> None:
        self.period_s = period_s
        self._share = period_s / CONTROL_DT_S
        self.tracks = tracks
        self.world = tracks.world
        self.track = np.asarray(track_index, np.int64)
        self.cars = n = len(self.track)
        self.rng = np.random.default_rng(seed)
        self.cameras = cameras or Cameras(self.world, n, self.rng)
        self.speed_error = 1 + self.rng.normal(0, self.world.odometry_error, n)
        self.yaw_error = 1 + self.rng.normal(0, self.world.odometry_error, n)
        self.x: Array
        self.y: Array
        self.heading: Array
        self.speed: Array
        self.x, self.y, self.heading, self.speed = (np.zeros(n) for _ in range(4))
        self.yaw_rate: Array = np.zeros(n)
        self.index = np.zeros(n, np.int64)
        self.place()

    def place(
        self,
        *,
        lateral_m: ArrayLike = 0.0,
        heading_error: ArrayLike = 0.0,
        speed_mps: ArrayLike = 0.0,
        index: ArrayLike | None = None,
        instruction: str | list[str] = "drive",
    ) -> None:
        """Put every car on its track: offset from the centreline, heading against it, speed, point of the lap."""
        n = self.cars
        names = [instruction] * n if isinstance(instruction, str) else list(instruction)
        self.instruct(names)
        self.index = (
            self.rng.integers(POINTS, size=n) if index is None else np.broadcast_to(index, n).astype(np.int64)
        )
        point, normal, tangent = (
            a[self.track, self.index] for a in (self.tracks.points, self.tracks.normal, self.tracks.tangent)
        )
        offset = np.broadcast_to(np.asarray(lateral_m, float), n)
        self.x, self.y = (point + offset[:, None] * normal).T.copy()
        self.heading = np.arctan2(tangent[:, 1], tangent[:, 0]) + np.asarray(heading_error, float)
        self.speed = np.broadcast_to(np.asarray(speed_mps, float), n).copy()
        self.yaw_rate = np.zeros(n)
        self._wheel = np.zeros(n)
        delay = round(self.world.delay_ticks / self._share)
        self._pending = [(np.zeros(n), np.zeros(n)) for _ in range(delay)]
        self._push: Array = np.zeros(n)
        self._pushed: Array = np.zeros(n)
        self._ticks = 0
        self._locate()

    def instruct(self, names: list[str]) -> None:
        """Give each car an instruction by name; `KeyError` for an unknown one."""
        self.instruction = list(names)
        self.target_speed = np.array([BY_NAME[k].speed_mps for k in names])
        self.target_lateral_m = np.array([BY_NAME[k].lateral for k in names]) * self.tracks.half_m[self.track]

    def _locate(self) -> None:
        window = np.arange(-_SEARCH, _SEARCH + 1)
        near = (self.index[:, None] + window) % POINTS
        points = self.tracks.points[self.track[:, None], near]
        squared = (points[..., 0] - self.x[:, None]) ** 2 + (points[..., 1] - self.y[:, None]) ** 2
        best = squared.argmin(1)
        self.advanced = best - _SEARCH
        self.index = (self.index + self.advanced) % POINTS
        point, normal = self.tracks.points[self.track, self.index], self.tracks.normal[self.track, self.index]
        self.lateral_m = (self.x - point[:, 0]) * normal[:, 0] + (self.y - point[:, 1]) * normal[:, 1]
        self.off_road = np.sqrt(squared.min(1)) > self.tracks.half_m[self.track]

    @property
    def lane_error_m(self) -> Array:
        """Distance from where the instruction wants the car, `[cars]`."""
        return np.abs(self.lateral_m - self.target_lateral_m)

    def step(self, steering: ArrayLike, throttle: ArrayLike) -> None:
        """One control tick. Commands `[cars]` in [-1, 1] (clipped as a servo would)."""
        w, dt, n = self.world, self.period_s, self.cars
        self._pending.append(
            (np.clip(np.broadcast_to(steering, n), -1, 1), np.clip(np.broadcast_to(throttle, n), -1, 1))
        )
        steer, drive = self._pending.pop(0)
        if w.disturbance > 0:
            if self._ticks % round(40 / self._share) == 0:
                self._pushed = (self.rng.random(n) < 0.5).astype(np.float64)
            kept = 0.9**self._share
            spread = (
                (1 - kept**2) / (1 - 0.9**2)
            ) ** 0.5  # of a longer or shorter tick: the same push in the long run
            self._push = kept * self._push + self.rng.normal(0, 0.45 * w.disturbance * spread, n)
        self._ticks += 1
        wanted = MAX_WHEEL_RAD * (w.steering_gain * steer + self._push * self._pushed) + w.steering_trim_rad
        self._wheel += (wanted - self._wheel) * (1 - np.exp(-dt / _SERVO_LAG_S))
        wheel = self._wheel + self.rng.normal(0, w.wheel_noise_rad, n) if w.wheel_noise_rad else self._wheel
        self.speed = (self.speed + (ACCELERATION * w.throttle_gain * drive - DRAG * self.speed) * dt).clip(
            0, 3
        )
        self.yaw_rate = self.speed / w.wheelbase_m * np.tan(wheel.clip(-0.9, 0.9))
        middle = self.heading + self.yaw_rate * (dt / 2)
        self.x = self.x + self.speed * np.cos(middle) * dt
        self.y = self.y + self.speed * np.sin(middle) * dt
        self.heading = self.heading + self.yaw_rate * dt
        self._locate()

    def measured(self) -> tuple[Array, Array]:
        """Wheel speed in m/s and yaw rate in rad/s as the car's own sensors give them, `[cars]` each."""
        speed = self.speed * self.speed_error
        speed = np.where(self.speed > 0, speed + self.rng.normal(0, 0.02, self.cars), 0.0).clip(0)
        return speed, self.yaw_rate * self.yaw_error + self.rng.normal(0, 0.02, self.cars)

    def render(self) -> NDArray[np.uint8]:
        """What the cameras see, `[cars, 120, 160, 3]`."""
        return self.cameras.render(self.tracks, self.track, self.x, self.y, self.heading, self.rng)

    def pursuit_curvature(self, x: Array, y: Array, heading: Array, index: NDArray[np.int64]) -> Array:
        """Curvature (1/m, left positive) towards the instructed lane, 0.6 m ahead: pure pursuit, 2 sin(a) / d."""
        ahead = (index + np.round(_LOOKAHEAD_M / self.tracks.spacing_m[self.track]).astype(np.int64)) % POINTS
        goal = (
            self.tracks.points[self.track, ahead]
            + self.target_lateral_m[:, None] * self.tracks.normal[self.track, ahead]
        )
        dx, dy = goal[:, 0] - x, goal[:, 1] - y
        angle = np.arctan2(dy, dx) - heading
        return 2 * np.sin(angle) / np.maximum(np.hypot(dx, dy), 0.2)

    def expert(self) -> tuple[Array, Array]:
        """Steering and throttle `[cars]` of a driver who knows state, delay, trim and gains exactly."""
        w = self.world
        # Look ahead in time by delay and lag, as a practised driver does.
        late = (w.delay_ticks + 0.5 * self._share) * CONTROL_DT_S + _SERVO_LAG_S / 2
        middle = self.heading + self.yaw_rate * (late / 2)
        x, y = self.x + self.speed * np.cos(middle) * late, self.y + self.speed * np.sin(middle) * late
        moved = np.round(self.speed * late / self.tracks.spacing_m[self.track]).astype(np.int64)
        curvature = self.pursuit_curvature(
            x, y, self.heading + self.yaw_rate * late, (self.index + moved) % POINTS
        )
        wheel = np.arctan(w.wheelbase_m * curvature)
        steering = (wheel - w.steering_trim_rad) / (w.steering_gain * MAX_WHEEL_RAD)
        return steering.clip(-1, 1), (speed_command(self.target_speed, self.speed) / w.throttle_gain).clip(
            -1, 1
        )
