"""The slack of the control loop: the time between the end of one tick and the beginning of the next.

Threads of the loop's process hold the interpreter now and then, for a status file or a watcher's picture. Whoever waits
here first begins when a tick has just ended and is done, as a rule, long before the next; one that began at any time
would make about one tick in a hundred late.
"""

from __future__ import annotations

import contextlib
import threading


class Slack:
    """Where other threads wait for the end of a tick."""

    def __init__(self) -> None:
        self._waiting: list[threading.Event] = []

    def begin(self) -> None:
        """A tick has ended; microseconds. For the loop's thread."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for event in waiting:
                event.set()

    def wait(self, at_most_s: float) -> None:
        """Until a tick has ended, or so long: a loop that stands or hangs does not end the others' work."""
        event = threading.Event()
        # The loop may just have taken the list: then this one's tick is missed, and the time is the answer.
        self._waiting.append(event)
        if not event.wait(at_most_s):
            with contextlib.suppress(ValueError):
                self._waiting.remove(event)
