"""The body of a simulated robot: a car on a track, and a machine that is simulated with it."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from continuonbrain.loops.loop_tick import LoopTick, Teleop
from continuonbrain.loops.sim_machine import SimulatedMachine
from continuonbrain.robot.sim.robot import SimRobot
from continuonbrain.robot.sim.shifts import World

_TRAIL_POINTS = 400
_TRAIL_EVERY = 2


class SimBody:
    """One simulated car. disk_path: where the machine's free disk is measured."""

    robot_model = "sim-donkeycar"
    teleop: Teleop | None = None
    presses = 0

    def __init__(
        self, world: World, *, shift: str, track: int, seed: int, instruction: str, hz: float, disk_path: Path
    ) -> None:
        self.robot = SimRobot(world, track_seed=track, seed=seed, period_s=1 / hz)
        self.robot.instruct(instruction)
        self.machine = SimulatedMachine(disk_path)
        self.environment = f"sim/{shift}/track-{track}"
        self._shift, self._track = shift, track
        self._trail: deque[tuple[float, float]] = deque(maxlen=_TRAIL_POINTS)

    @property
    def off_road(self) -> int:
        """How often it has left the road."""
        return self.robot.off_road

    @property
    def astray(self) -> str:
        """It has left the road, and its owner puts it back."""
        return "it left the road: it is put back" if self.robot.astray else ""

    def open(self) -> None:
        """It always is."""

    def asked(self) -> None:
        """Nobody stands beside it."""

    def release(self) -> str:
        """It has no switch of its own."""
        return ""

    def unfit(self) -> str:
        """Its battery never ends."""
        return ""

    def instruct(self, instruction: str) -> None:
        """What the scoring is to go by."""
        self.robot.instruct(instruction)

    def put_back(self) -> None:
        """Onto its lane. Whoever drove it off is not who drives now."""
        self.robot.put_back()
        self._trail.clear()

    def ticked(self, tick: LoopTick) -> None:
        """Remember where it was."""
        if tick.number % _TRAIL_EVERY == 0 and tick.mode != "park":
            fleet = self.robot.fleet
            self._trail.append((round(float(fleet.x[0]), 3), round(float(fleet.y[0]), 3)))

    def tell(self) -> dict[str, Any]:
        """See `Body.tell`."""
        fleet = self.robot.fleet
        return {
            "laps": round(self.robot.laps, 3),
            "off_road": self.robot.off_road,
            "astray": self.astray,
            "lane_error_m": round(self.robot.lane_error_m, 4),
            "pose": [round(float(v[0]), 3) for v in (fleet.x, fleet.y, fleet.heading)],
            "trail": list(self._trail),
            "shift": self._shift,
            "track": self._track,
        }
