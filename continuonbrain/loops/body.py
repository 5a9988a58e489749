"""A body: a robot, the machine under it, and what its status tells beyond the control loop's own."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from continuonbrain.loops.control_status import Machine
from continuonbrain.loops.loop_tick import LoopTick, Mode, Teleop
from continuonbrain.robot.protocol import Robot


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

    @property
    def astray(self) -> str:
        """Why it obeys nobody for a moment and is somewhere else after it, where a body knows that; else ""."""
        ...

    def open(self) -> None:
        """Bring it up, at rest; may take seconds. Raises `BrainError`, with all released again, when it cannot be."""
        ...

    @property
    def presses(self) -> int:
        """How often its own emergency stop was pressed, also while it was on. Looked at after `asked`."""
        ...

    def asked(self) -> Mode | Literal["stop"] | None:
        """What a person asked for since the last time, at the body itself: a mode, or an emergency stop (said as long
        as it is on). Must be quick."""
        ...

    def release(self) -> str:
        """A person ends the emergency stop, or what made it unfit; why that cannot be (a switch is still pressed, the
        battery still empty), else ""."""
        ...

    def unfit(self) -> str:
        """Why it must stand although nobody asked for it (its battery is empty, or nobody can tell); "" when it may
        drive. Asked at every tick: must be quick. Only `release` ends it."""
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
