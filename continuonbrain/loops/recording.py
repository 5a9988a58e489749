"""What of a drive is recorded, and as what. No I/O.

| who drives | is recorded | as |
|---|---|---|
| a person, in mode "teleop" | when they have switched lessons on | a lesson: it teaches |
| a person who takes the wheel in mode "assisted" | unless drives are switched off | a correction: it teaches |
| the policy | unless drives are switched off | a drive: it is kept, and teaches nothing |

Lessons begin switched off: who tries the wheel teaches nothing. They stay on over a change of the mode, until the
process ends: whoever drives sees it, and a gamepad has no key for it.

An episode is what somebody drove (`Attended`): while nobody has the wheel, or something holds the robot of whoever has
it, nothing is recorded, and where that lasts, or the robot is put somewhere else, the episode ends and the next one
begins when it is driven again. Of what stops the policy the first step is part of its drive: how that ended is what a
safety head learns from (`trainer/safety_evidence.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from continuonbrain.loops.loop_tick import LoopTick, Mode
from continuonbrain.rlds.step import Step
from continuonbrain.safety.reasons import NOBODY_DRIVES, Reason

Part = Literal["lessons", "drives"]
PARTS: tuple[Part, ...] = ("lessons", "drives")
Kind = Literal["lesson", "correction", "drive", ""]
HANDS_OFF_S: Final = 2.0
"""Who drives by keys lets go of them again and again: so long is part of the same episode."""


def kind_of(mode: Mode, by: Mode) -> Kind:
    """What driving is, where it is recorded; "" for standing. by: who holds the wheel ("autopilot" or "teleop")."""
    if mode == "park" or by == "park":
        return ""
    if by != "teleop":
        return "drive"
    return "correction" if mode == "assisted" else "lesson"


@dataclass(slots=True)
class Recording:
    """The two switches of a control process. able: whether it can record at all (`--no-record`)."""

    lessons: bool = False
    drives: bool = True
    able: bool = True

    def switch(self, part: Part, on: bool) -> bool:
        """Whether that changed anything."""
        before = getattr(self, part)
        setattr(self, part, on)
        return bool(before != on)

    def takes(self, kind: Kind) -> bool:
        """Whether that kind of driving is recorded now."""
        return self.able and kind != "" and (self.lessons if kind == "lesson" else self.drives)


@dataclass(slots=True)
class Driven:
    """Tells of every tick whether somebody drives it."""

    _stood: bool = True
    """The guard had stopped it in the tick before."""

    def by_somebody(self, tick: LoopTick, *, absent: bool = False) -> bool:
        """Not by a hand that is off, nor by a person whose robot is held, whatever holds it (an emergency stop, an
        empty battery, a camera that is gone: then nobody asks where their hand is); nor by a policy that the guard has
        stopped, but for the tick in which it does. absent: nobody is there to assist, which the guard does not say
        either while something else holds the robot."""
        stood, self._stood = self._stood, tick.guarded.stopped
        if tick.mode == "teleop":
            return not NOBODY_DRIVES.intersection(tick.guarded.reasons)
        if absent or Reason.DEADMAN in tick.guarded.reasons:
            return False
        return not (stood and tick.guarded.stopped)


@dataclass(slots=True)
class Attended:
    """Which steps of a drive are kept. Those in which nobody drives wait: they belong to the episode when it is driven
    on within `HANDS_OFF_S`, and are left out when it is not. So an episode begins and ends with somebody who drives,
    and its steps follow each other without a gap, as readers take for granted."""

    begun: bool = False
    """It is being driven, or was a moment ago."""
    _waiting: list[Step] = field(default_factory=list)

    def take(self, step: Step, *, driven: bool) -> tuple[list[Step], bool]:
        """The steps to record now, oldest first; and whether the episode has ended instead."""
        waiting = self._waiting
        if driven:
            self._waiting, self.begun = [], True
            # What another leaves behind, or was told before, is nobody's.
            same = [s for s in waiting if (s.source, s.instruction) == (step.source, step.instruction)]
            return [*same, step], False
        if not self.begun:
            return [], False
        if waiting and step.monotonic_ns - waiting[0].monotonic_ns >= HANDS_OFF_S * 1e9:
            self.end()
            return [], True
        waiting.append(step)
        return [], False

    def end(self) -> None:
        """What is driven from now on is another episode."""
        self._waiting, self.begun = [], False
