"""A camera that shows one picture for ever, stamped anew each time: nothing is late, and nothing is seen.

A driver that hands out its last buffer, or a sensor that hangs behind a living bus, does that. No two frames of a
camera that moves are the same to the bit: its pixels are noisy also where the road looks alike. No I/O.
"""

from __future__ import annotations

from collections import deque

_BUFFERS = 8
"""A driver that hangs may hand out a ring of old pictures by turns."""


class FrozenView:
    """Call `look` with every frame's checksum, in order.

    after_s: for how long the robot may move without a change of a single pixel.
    """

    __slots__ = ("_after_s", "_frozen", "_last", "_since_s")

    def __init__(self, after_s: float = 0.5) -> None:
        self._after_s = after_s
        self._last: deque[int] = deque(maxlen=_BUFFERS)
        self._since_s: float | None = None
        self._frozen = False

    def look(self, checksum: int, *, now_s: float, moving: bool) -> bool:
        """Whether the view is frozen. Once it is, it stays so, also at rest, until the picture changes: otherwise the
        robot would stop, believe its camera, and drive on blindly.

        Args:
            checksum: of the frame's pixels.
            now_s: time of the frame on the monotonic clock, s.
            moving: the robot moves; while it stands, the same picture may be right.
        """
        if checksum not in self._last:
            self._last.append(checksum)
            self._frozen = False
            self._since_s = now_s if moving else None
        elif not self._frozen:
            if not moving:
                self._since_s = None
            elif self._since_s is None:
                self._since_s = now_s
            else:
                self._frozen = now_s - self._since_s >= self._after_s
        return self._frozen
