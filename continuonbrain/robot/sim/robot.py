"""A simulated car as a `Robot`: what the fast loop drives when there is no hardware.

Each `act` advances the simulation by one control period; wall time is the caller's business, as on a robot.
After leaving the road the car is put back onto it after a moment, as its owner would do.
"""

from __future__ import annotations

import time

from continuonbrain.robot.protocol import CONTROL_DT_S, Observation
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.instructions import BY_PHRASING
from continuonbrain.robot.sim.shifts import World
from continuonbrain.robot.sim.track import POINTS, TrackSet

_PUT_BACK_S = 1.0


class SimRobot:
    """One car on one track. laps and off_road count what happened since the start."""

    def __init__(
        self,
        world: World,
        *,
        track_seed: int,
        seed: int,
        instruction: str = "drive",
        period_s: float = CONTROL_DT_S,
    ) -> None:
        self.fleet = Fleet(TrackSet([track_seed], world), [0], seed=seed, period_s=period_s)
        self.fleet.place(instruction=BY_PHRASING[instruction].name)
        self.laps = 0.0
        self.off_road = 0
        self._astray = 0

    def instruct(self, instruction: str) -> None:
        """Tell the scoring (and the expert) what is asked; phrasings that the simulator does not know are "drive"."""
        known = BY_PHRASING.get(instruction)
        self.fleet.instruct([known.name if known else "drive"])

    def observe(self) -> Observation:
        speed, yaw_rate = self.fleet.measured()
        return Observation(self.fleet.render()[0], float(speed[0]), float(yaw_rate[0]), time.monotonic())

    @property
    def astray(self) -> bool:
        """It has left the road, and stands there until it is put back."""
        return self._astray > 0

    def act(self, steering: float, throttle: float) -> None:
        fleet = self.fleet
        if self._astray:
            self._astray -= 1
            if self._astray == 0:
                fleet.place(index=int(fleet.index[0]), instruction=list(fleet.instruction))
            return
        fleet.step([steering], [throttle])
        self.laps += float(fleet.advanced[0]) / POINTS
        if fleet.off_road[0]:
            self.off_road += 1
            self._astray = round(_PUT_BACK_S / fleet.period_s)
            fleet.speed[:] = 0.0

    def put_back(self) -> None:
        """Onto the instructed lane where it is on the track, at rest, as its owner would; no lap and no fault."""
        fleet = self.fleet
        self._astray = 0
        fleet.place(
            index=int(fleet.index[0]),
            lateral_m=fleet.target_lateral_m,
            instruction=list(fleet.instruction),
        )

    def expert(self) -> tuple[float, float]:
        """Steering and throttle of a driver who knows everything."""
        steering, throttle = self.fleet.expert()
        return float(steering[0]), float(throttle[0])

    @property
    def lane_error_m(self) -> float:
        """Distance from the instructed lane in metres."""
        return float(self.fleet.lane_error_m[0])

    def stop(self) -> None:
        self.fleet.speed[:] = 0.0

    def close(self) -> None:
        self.stop()
