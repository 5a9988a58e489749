"""What of a drive is recorded, and as what. No I/O.

| who drives | is recorded | as |
|---|---|---|
| a person, in mode "teleop" | when they have switched lessons on | a lesson: it teaches |
| a person who takes the wheel in mode "assisted" | unless drives are switched off | a correction: it teaches |
| the policy | unless drives are switched off | a drive: it is kept, and teaches nothing |

Lessons begin switched off: who tries the wheel teaches nothing. They stay on over a change of the mode, until the
process ends: whoever drives sees it, and a gamepad has no key for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from continuonbrain.loops.loop_tick import Mode

Part = Literal["lessons", "drives"]
PARTS: tuple[Part, ...] = ("lessons", "drives")
Kind = Literal["lesson", "correction", "drive", ""]


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
