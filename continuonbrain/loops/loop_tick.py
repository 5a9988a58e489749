"""What a control loop is made of: who drives, where paths come from, what a tick was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from continuonbrain.loops.policy_client import Answer
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.veto import Foreseen
from continuonbrain.policy.watch import Risk
from continuonbrain.robot.protocol import Observation
from continuonbrain.safety.guards import Guarded

Mode = Literal["autopilot", "teleop", "assisted", "park"]
MODES: tuple[Mode, ...] = ("autopilot", "teleop", "assisted", "park")

Teleop = Callable[[], tuple[tuple[float, float], float]]
"""A person's latest (steering, throttle) and its age in seconds."""


class PathSource(Protocol):
    """Where paths come from: `PolicyClient`. Neither call may wait."""

    def offer(
        self,
        frame: NDArray[np.uint8],
        instruction: str,
        speed_mps: float | None,
        observed_s: float,
        *,
        keep: bool = False,
    ) -> bool: ...

    def poll(self) -> list[Answer]: ...


@dataclass(frozen=True, slots=True)
class LoopTick:
    """One tick as `on_tick` sees it.

    number: counts from 0 over all runs. mode: who drove in it, so never "assisted": "teleop" while the person holds
    the wheel, else "autopilot". now_s: monotonic time of the command. observation: None when the robot could not be
    looked at; fault says why, or why the body must stand, or refused. guarded: what was sent (throttle 0
    while parked). reflex: the reflex head laid the path that was followed. risk: what the safety head says, foreseen:
    what the world head said of the latest chunk that it was shown; None where they were not asked. surprise: how far a
    person's command is from what the policy would have done (`shadow.py`), None where that is not known.
    """

    number: int
    now_s: float
    mode: Mode
    observation: Observation | None
    proposed: tuple[float, float] | None
    guarded: Guarded
    chunk: ActionChunk | None
    fault: str = ""
    reflex: bool = False
    risk: Risk | None = None
    foreseen: Foreseen | None = None
    surprise: float | None = None


PARKED = Guarded(0.0, 0.0, (), True)
"""What a parked robot is sent: nothing but to stand."""
