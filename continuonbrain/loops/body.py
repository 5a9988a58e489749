"""A body: a robot, the machine under it, and what its status tells beyond the control loop's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from continuonbrain.errors import BrainError
from continuonbrain.loops.control_status import Machine
from continuonbrain.loops.loop_tick import LoopTick, Teleop
from continuonbrain.robot.protocol import Robot
from continuonbrain.robot.sim.shifts import SHIFTS, World


class BusyMachine(Machine, Protocol):
    """A machine that is told what the robot does."""

    def alive(self, *, driving: bool, teleop: bool = False) -> None:
        """A sign of life: the loop ticked. driving: the robot is in use (teleop: by a person)."""
        ...


class Body(Protocol):
    """What the control process drives. `tell` is called on the status thread."""

    @property
    def robot(self) -> Robot:
        """What moves."""
        ...

    @property
    def machine(self) -> BusyMachine:
        """What it moves with."""
        ...

    @property
    def robot_model(self) -> str:
        """Of the episodes."""
        ...

    @property
    def environment(self) -> str:
        """Of the episodes: `environment_id`."""
        ...

    @property
    def teleop(self) -> Teleop | None:
        """The command of whoever drives by a remote control of the body's own; None where it has none."""
        ...

    @property
    def off_road(self) -> int:
        """How often it has left the road, where the body knows; else 0."""
        ...

    def instruct(self, instruction: str) -> None:
        """Another instruction is followed from now on."""
        ...

    def ticked(self, tick: LoopTick) -> None:
        """A tick is over. Must be quick."""
        ...

    def tell(self) -> dict[str, Any]:
        """Of itself, for the status: `laps`, `off_road`, `lane_error_m`, `pose`, `trail`, `shift` and `track` where it
        knows them. Only reads."""
        ...


def simulated_world(name: str) -> World:
    """The world of a named shift. `BrainError` names the known ones."""
    if name not in SHIFTS:
        raise BrainError(f"robot.shift = {name!r} is unknown", remedy=f"choose from {', '.join(SHIFTS)}")
    return SHIFTS[name]


def no_driver(config_path: Path, kind: str) -> BrainError:
    """The error of a kind of robot that nothing drives."""
    return BrainError(
        f"{config_path}: robot.kind = {kind!r}: the donkey hardware driver is not part of this release",
        remedy="use the sim-donkey preset",
    )
