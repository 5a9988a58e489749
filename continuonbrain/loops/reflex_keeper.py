"""Fetches reflex heads from disk on a thread of its own: the control loop asks and never waits.

The policy process names the head that belongs to its adapter (folder and sha256) with every decision; until that very
file is in memory, or when it is damaged, the car follows the model's own paths.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from continuonbrain.errors import BrainError
from continuonbrain.policy.reflex import FRAME_SHAPE, INTENT, REFLEX_FILE, Reflex

_RETRY_S = 5.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReflexName:
    """Which head: the adapter's version id ("" for the base's own), and the sha256 of the file."""

    version: str
    sha256: str


class ReflexSource(Protocol):
    """Where the loop gets heads from."""

    def get(self, name: ReflexName) -> Reflex | None: ...


class ReflexKeeper:
    """Keeps the head asked for last. folder_of: version id -> folder."""

    def __init__(self, folder_of: Callable[[str], Path]) -> None:
        self._folder_of = folder_of
        self._asked: ReflexName | None = None
        self._ready: tuple[ReflexName, Reflex | None] | None = None
        self._orders: queue.SimpleQueue[ReflexName | None] = queue.SimpleQueue()
        self._again_s = 0.0
        self.problem = ""
        """Why the head asked for last cannot be used, "" while all is well."""
        self._thread = threading.Thread(target=self._work, name="reflex-keeper", daemon=True)
        self._thread.start()

    def get(self, name: ReflexName) -> Reflex | None:
        """The head, or None while it is not there; it is fetched meanwhile."""
        ready = self._ready
        if ready is not None and ready[0] == name and ready[1] is not None:
            return ready[1]
        if name != self._asked or time.monotonic() > self._again_s:  # a disk may be well again
            self._asked, self._again_s = name, time.monotonic() + _RETRY_S
            self._orders.put(name)
        return None

    def close(self) -> None:
        """End the thread."""
        self._orders.put(None)
        self._thread.join(2.0)

    def _work(self) -> None:
        while (name := self._orders.get()) is not None:
            try:
                head = self._fetch(name)
                self.problem = ""
            except Exception as error:  # whatever it is, this thread must live for the next head
                head, self.problem = None, str(error) or repr(error)
                log.error("the reflex head of %s is not used: %s", name.version or "the base", error)
            self._ready = (name, head)

    def _fetch(self, name: ReflexName) -> Reflex:
        path = self._folder_of(name.version) / REFLEX_FILE
        head = Reflex.from_file(path)
        if head.sha256 != name.sha256:
            raise BrainError(
                f"{path} is not the file that the policy process has (sha256 {head.sha256[:12]}, "
                f"wanted {name.sha256[:12]})",
                remedy="restart the brain",
            )
        # numpy's first pass allocates; not in a tick.
        head.curvatures(np.zeros((1, *FRAME_SHAPE), np.uint8), np.zeros((1, INTENT), np.float32))
        return head
