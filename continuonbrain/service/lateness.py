"""How old a driver's message is when it arrives, and for how long it may be driven by. Pure: times are given.

Two clocks that know nothing of each other are compared as RFC 3550 does with its sender and receiver reports: every ack
carries the service's clock, and the next message repeats it with the driver's own clock of when it came. What a network
holds back is then known to be old from the first message on, also where it held back everything.
"""

from __future__ import annotations

from math import inf, isfinite

SILENT_S = 0.15
"""After so long without a message the wheel is let go."""
GOOD_S = 0.2
"""A command is driven by for no longer after it was given. With a tick of the control loop it stays below 250 ms."""
_DRIFT = 1e-4
"""Of two quartz clocks, in seconds a second, at most."""
_COARSE_S = 0.02
"""A browser's clock may be told in steps of 16.7 ms."""
_ANEW_S = 2.0
"""After so long of nothing but late messages the clocks are compared anew."""


class Lateness:
    """Of one connection's messages.

    Let `ahead` be how far the service's clock is ahead of the driver's. A message cannot arrive before it was sent, nor
    an ack: every message bounds `ahead` from above, every ack from below. The lower bound gives the age that a message
    has at most, which includes the quickest way of an ack. Both follow as clocks may drift apart.

    A driver's clock may jump: a phone that slept, a page that was put aside. Put forward, the bounds contradict each
    other; put back, everything seems late from then on. Either way it begins anew, with acks of after that moment
    alone, and nobody drives until one has come back.
    """

    def __init__(self) -> None:
        self._most, self._least = inf, -inf
        self._seen_s = 0.0
        self._acks_from_s = -inf
        self._late_since_s: float | None = None

    def of(self, sent_ms: float, *, now_s: float, echo: tuple[float, float] | None = None) -> float | None:
        """Seconds that a message of `sent_ms` (the driver's clock) is old at most, >= 0; inf for what no clock says.
        None while no ack has come back: then nobody knows.

        now_s: the service's clock. echo: the service's clock as the newest ack said it and the driver's when it came,
        ms.
        """
        drift_s = _DRIFT * max(0.0, now_s - self._seen_s)
        took = now_s - sent_ms / 1000
        self._most, self._least = min(took, self._most + drift_s), self._least - drift_s
        self._seen_s = now_s
        if echo is not None:
            clock_s, heard_s = echo[0] / 1000, echo[1] / 1000
            if clock_s > now_s or heard_s > sent_ms / 1000:
                return inf  # an ack of later, or one that came after the message that repeats it
            if clock_s >= self._acks_from_s:
                self._least = max(self._least, clock_s - heard_s)
        if self._least - self._most > _COARSE_S:
            self._anew(took, now_s)
            return None
        if self._least == -inf:
            return None
        self._least = min(self._least, self._most)
        late = took - self._least
        if late < GOOD_S:
            self._late_since_s = None
        elif self._late_since_s is None:
            self._late_since_s = now_s
        elif now_s - self._late_since_s > _ANEW_S:
            self._anew(took, now_s)
            return None
        return late if isfinite(late) else inf

    def _anew(self, took: float, now_s: float) -> None:
        self._most, self._least = took, -inf
        self._acks_from_s, self._late_since_s = now_s, None


def good_for_s(late_s: float) -> float:
    """Seconds from when a command was given within which it is driven by; 0 for one that arrives too late."""
    return 0.0 if late_s >= GOOD_S else min(GOOD_S, late_s + SILENT_S)
