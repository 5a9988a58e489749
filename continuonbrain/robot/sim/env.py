"""The simulator as a gymnasium environment: `import continuonbrain.robot.sim`, then
`gymnasium.make("continuonbrain/DonkeyTrack-v0")`.

Observation: `image` uint8 `[120, 160, 3]` and `state` float32 `[2]` = measured speed (m/s) and yaw rate (rad/s).
Action: float32 `[2]` = steering (positive left) and throttle in [-1, 1]. Reward per tick: metres of lane driven
at the instructed place and speed. An episode terminates off the road and is truncated after `max_steps`.

`reset(seed=..., options={"instruction": "keep left", "track": 7})`; without options both are drawn.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from continuonbrain.robot.protocol import CONTROL_DT_S, FRAME_SHAPE
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.instructions import BY_PHRASING, NAMES
from continuonbrain.robot.sim.shifts import World, world
from continuonbrain.robot.sim.track import TrackSet

_TRACKS = 10_000
# 3 m/s is the fastest that the car can go; at that speed full lock turns it by 4.9 rad/s.
_STATE_LOW = np.array([0.0, -20.0], np.float32)
_STATE_HIGH = np.array([5.0, 20.0], np.float32)


class DonkeyTrackEnv(gymnasium.Env[dict[str, NDArray[Any]], NDArray[np.float32]]):
    """One car on one track. shift: name of a `shifts.SHIFTS` world, or a `World` of one's own."""

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # gymnasium annotates an instance variable
        "render_modes": ["rgb_array"],
        "render_fps": round(1 / CONTROL_DT_S),
    }

    def __init__(
        self, *, shift: str | World = "none", max_steps: int = 1200, render_mode: str | None = None
    ) -> None:
        self.world = world(shift) if isinstance(shift, str) else shift
        self.max_steps = max_steps
        self.render_mode = render_mode
        # gymnasium types Dict by its values, Env by the whole observation.
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, FRAME_SHAPE, np.uint8),
                "state": spaces.Box(_STATE_LOW, _STATE_HIGH, dtype=np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._tracks: dict[int, TrackSet] = {}
        self.fleet: Fleet | None = None
        self._frame: NDArray[np.uint8] = np.zeros(FRAME_SHAPE, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        super().reset(seed=seed)
        chosen = options or {}
        unknown = set(chosen) - {"instruction", "track"}
        if unknown:
            raise ValueError(f"unknown reset options {sorted(unknown)}; known: instruction, track")
        track = int(chosen.get("track", self.np_random.integers(_TRACKS)))
        instruction = str(chosen.get("instruction", NAMES[self.np_random.integers(len(NAMES))]))
        if instruction not in BY_PHRASING:
            raise ValueError(f"unknown instruction {instruction!r}; known: {', '.join(BY_PHRASING)}")
        if track not in self._tracks:
            self._tracks = {track: TrackSet([track], self.world)}
        self.fleet = Fleet(self._tracks[track], [0], seed=int(self.np_random.integers(1 << 31)))
        self.fleet.place(
            lateral_m=self.np_random.uniform(-0.08, 0.08),
            heading_error=self.np_random.uniform(-0.08, 0.08),
            instruction=BY_PHRASING[instruction].name,
        )
        self._track, self._instruction, self._steps = track, instruction, 0
        return self._observe(), self._info()

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        fleet = self._running()
        steering, throttle = float(action[0]), float(action[1])
        if not (np.isfinite(steering) and np.isfinite(throttle)):
            raise ValueError(f"action {action!r} is not finite; a guard belongs between policy and robot")
        fleet.step([steering], [throttle])
        self._steps += 1
        advanced = float(fleet.advanced[0]) * float(fleet.tracks.spacing_m[0])
        lane = max(0.0, 1 - float(fleet.lane_error_m[0]) / float(fleet.tracks.half_m[0]))
        goal = float(fleet.target_speed[0])
        pace = max(0.0, 1 - abs(float(fleet.speed[0]) - goal) / max(goal, 0.5))
        reward = advanced * lane * pace if goal > 0 else pace * CONTROL_DT_S
        terminated = bool(fleet.off_road[0])
        return self._observe(), reward, terminated, self._steps >= self.max_steps, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        return self._frame if self.render_mode == "rgb_array" else None

    def expert_action(self) -> NDArray[np.float32]:
        """What the expert driver would do now, float32 `[2]`."""
        steering, throttle = self._running().expert()
        return np.array([steering[0], throttle[0]], np.float32)

    def _running(self) -> Fleet:
        if self.fleet is None:
            raise RuntimeError("call reset() first")
        return self.fleet

    def _observe(self) -> dict[str, NDArray[Any]]:
        fleet = self._running()
        self._frame = fleet.render()[0]
        speed, yaw_rate = fleet.measured()
        state = np.array([speed[0], yaw_rate[0]], np.float32).clip(_STATE_LOW, _STATE_HIGH)
        return {"image": self._frame, "state": state}

    def _info(self) -> dict[str, Any]:
        fleet = self._running()
        return {
            "instruction": self._instruction,
            "track": self._track,
            "lateral_m": float(fleet.lateral_m[0]),
            "lane_error_m": float(fleet.lane_error_m[0]),
            "road_half_m": float(fleet.tracks.half_m[0]),
            "off_road": bool(fleet.off_road[0]),
        }
