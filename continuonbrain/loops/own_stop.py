"""What a body's own emergency stop is to the control loop: the latch is the body's, when it was pressed is said here.
No I/O.

It is told at every tick, as long as it is on. Only a press is a stop that somebody meant just now: what was asked for
before it does not end it. One that is merely still on lets a person end it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class OwnStop:
    """presses: how often the body's stop had been pressed when it was last looked at."""

    presses: int

    def just_pressed(self, presses: int, *, is_on: bool, is_obeyed: bool) -> bool:
        """Whether the robot has to be stopped in this tick: somebody has pressed it since the last one, or it is on and
        the guard does not stand for it. is_on: the latch; is_obeyed: the guard's emergency stop is on."""
        before, self.presses = self.presses, presses
        return presses != before or (is_on and not is_obeyed)
