"""What a person wants of the robot, and whether any has taken part. No I/O.

A simulated life goes on by itself only where nobody has. Once a person has given it a mode, driven it, switched a
recording on or stopped it, the robot does what they say and nothing else, until they hand it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from continuonbrain.loops.loop_tick import Mode

_BY_HAND = ("teleop", "assisted")


@dataclass(slots=True)
class InHand:
    """parked: a person has parked it, or nobody has let it go yet; by_hand: "teleop" or "assisted" where a person
    drives it so; taken: a person has taken part."""

    parked: bool = False
    by_hand: Mode | None = None
    taken: bool = False

    def choose(self, mode: Mode) -> None:
        """A person gives it a mode."""
        self.taken, self.parked = True, mode == "park"
        self.by_hand = mode if mode in _BY_HAND else None

    def take_part(self, *, drives: bool) -> None:
        """A person does something that says nothing of a mode: what drives goes on, what does not stands."""
        if not self.taken:
            self.taken, self.parked = True, not drives

    def hand_back(self) -> None:
        """A simulated life goes on by itself."""
        self.taken, self.parked, self.by_hand = False, False, None

    def go_on_as(self, before: Mapping[str, Any]) -> None:
        """before: the status of a control process that was not told to end. What a person had in hand stands until they
        say so again."""
        self.taken = before.get("life") == "taken"
        if before.get("held") is True or before.get("by_hand") is True:
            self.taken = self.parked = True

    def mode(self, *, driving: bool) -> Mode:
        """Of the control loop. driving: whether a robot that no person has parked or in hand drives by itself."""
        return self.by_hand or ("autopilot" if driving and not self.parked else "park")
