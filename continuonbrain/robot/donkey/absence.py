"""Whether somebody who looks again and again was away meanwhile. No I/O; times are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GAP_S: Final = 0.5
"""A shorter gap is a hiccup: the car may have stopped, and goes on with the hand that is still there."""


@dataclass(slots=True)
class Absence:
    """Of one who looks: the loop that obeys a remote control, the thread that reads it."""

    _looked_s: float | None = None

    def is_over(self, now_s: float) -> bool:
        """They look now; whether they had not for longer than a hiccup. The first look follows nothing."""
        before, self._looked_s = self._looked_s, now_s
        # A comparison that NaN fails, too; and a clock that is put back tells nothing of how long it was.
        return before is not None and not 0.0 <= now_s - before <= GAP_S
