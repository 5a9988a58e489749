"""The control process's account of every adapter: counted in the loop, kept on disk by a thread of its own.

The loop only adds to numbers; it takes no lock and touches no file. The thread writes what changed: a copy in `run/`
every second, for who watches a probation, and every half minute, and at the end, durably below the adapters.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

from continuonbrain.errors import BrainError
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.safety.reasons import CORRECTIONS, Reason
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.driving_record import DrivingRecord, read_record, write_record
from continuonbrain.storage.layout import BrainLayout

log = logging.getLogger(__name__)

Blame = Literal["correction", "warning", "block", "stop", "nobody"]

BLAME: dict[Reason, Blame] = {
    Reason.STEERING_BOUND: "correction",
    Reason.THROTTLE_BOUND: "correction",
    Reason.STEERING_SLEW: "correction",
    Reason.THROTTLE_SLEW: "correction",
    Reason.SAFETY_HEAD_WARN: "warning",
    Reason.SAFETY_HEAD_BLOCK: "block",
    Reason.WORLD_HEAD_VETO: "block",
    Reason.STALE_PATH: "stop",
    Reason.NOT_FINITE: "stop",
    Reason.WRONG_KEYS: "stop",
    Reason.WRONG_TYPE: "stop",
    # A person's, the machine's or the beginning's: such a tick says nothing about the adapter.
    Reason.NO_PATH: "nobody",
    Reason.DEADMAN: "nobody",
    Reason.CLOCK: "nobody",
    Reason.EMERGENCY_STOP: "nobody",
    Reason.INSTRUCTION_STOP: "nobody",
    Reason.SENSOR_FAULT: "nobody",
    Reason.LOW_BATTERY: "nobody",
}
"""What a reason says about the adapter."""
BLAMED: dict[str, Blame] = {
    str(reason): BLAME.get(reason, "correction" if reason in CORRECTIONS else "nobody") for reason in Reason
}

_ONCE_A_S = 1.0
"""An incident that lasts is counted once a second: ticks that follow each other are one thing, not twenty."""
_LONGEST_TICK_S = 0.25
_LONGEST_DECISION_MS = 1e6
_EVERY_S, _DURABLY_EVERY = 1.0, 30


class _Counts:
    """Of one adapter. Only the loop's thread writes; what another reads may be a tick apart."""

    __slots__ = ("decision_ms", "decision_ms2", "decisions", "incidents", "last_s", "seconds", "ticks")

    def __init__(self) -> None:
        self.ticks = self.decisions = 0
        self.seconds = self.decision_ms = self.decision_ms2 = 0.0
        self.incidents: dict[str, int] = {}
        self.last_s: dict[str, float] = {}

    def blame(self, name: str, now_s: float) -> None:
        if now_s - self.last_s.get(name, -1e9) >= _ONCE_A_S:
            self.last_s[name] = now_s
            self.incidents[name] = self.incidents.get(name, 0) + 1

    def record(self) -> DrivingRecord:
        return DrivingRecord(
            self.ticks,
            self.seconds,
            dict(self.incidents),
            self.decisions,
            self.decision_ms,
            self.decision_ms2,
        )


class DrivingCounter:
    """Counts ticks of mode "autopilot". wanted: sha256 of the adapter that should drive, "" the base, None unknown: a
    stop because nothing new arrives is the wanted one's, whoever laid the last path."""

    def __init__(self) -> None:
        self.wanted: str | None = None
        self._counts: dict[str, _Counts] = {}
        self._mode = ""
        self._now_s = 0.0
        self._observed_s: float | None = None
        self._answered_by = 0
        self._off_road = 0
        self._drove = ""
        self._has_driven = self._blocked_there = False

    def tick(
        self,
        *,
        now_s: float,
        mode: str,
        reasons: Iterable[str],
        chunk: ActionChunk | None,
        off_road: int = 0,
        served_by: int = 0,
    ) -> None:
        """One tick. now_s: monotonic; off_road: how often the robot has been off the road so far; served_by: which
        policy process of this drive answers, counted from 1, 0 when none does."""
        since_s, self._now_s = now_s - self._now_s, now_s
        before, self._mode = self._mode, mode
        left, self._off_road = off_road > self._off_road, off_road
        if mode == "teleop" and before == "autopilot" and self._drove in self._counts:
            self._of(self._drove).blame("takeover", now_s)
        if mode != "autopilot" or chunk is None:
            self._has_driven = self._blocked_there = False
            return
        if chunk.observed_s != self._observed_s:
            self._answered_by = served_by
        told = set(reasons)
        blamed = {BLAMED.get(reason, "nobody") for reason in told}
        sha256 = chunk.adapter_sha256
        if "stop" in blamed:
            if served_by != self._answered_by:
                blamed = {"nobody"}  # one that died, or is coming up: its restarts are counted elsewhere
            elif self.wanted is not None:
                sha256 = self.wanted
        counts = self._of(sha256)
        self._drove = sha256
        if left:
            counts.blame("off_road", now_s)
        if "nobody" in blamed:  # whatever else was said: a head that is silent blocks, whoever drives
            if Reason.EMERGENCY_STOP in told and self._has_driven:
                counts.blame("takeover", now_s)  # somebody had to stop it while it drove by itself
            self._has_driven = False
            return
        if not blamed & {"block", "stop"}:  # who stands still shows nothing of how they drive
            counts.ticks += 1
            self._has_driven = True
        elif "stop" not in blamed and not self._has_driven:
            # Where somebody left the robot may be what is wrong: it is blamed once, however long it stands there.
            if not self._blocked_there:
                counts.blame("block", now_s)
            self._blocked_there = True
            return
        self._blocked_there = False
        if before == "autopilot":
            counts.seconds += min(max(0.0, since_s), _LONGEST_TICK_S)
        for name in blamed:
            counts.blame(name, now_s)
        if chunk.observed_s != self._observed_s:
            self._observed_s = chunk.observed_s
            if 0.0 <= chunk.decision_ms < _LONGEST_DECISION_MS:
                counts.decisions += 1
                counts.decision_ms += chunk.decision_ms
                counts.decision_ms2 += chunk.decision_ms**2

    def records(self) -> dict[str, DrivingRecord]:
        """Counted so far, by sha256. For another thread."""
        return {sha256: counts.record() for sha256, counts in list(self._counts.items())}

    def _of(self, sha256: str) -> _Counts:
        counts = self._counts.get(sha256)
        if counts is None:
            counts = self._counts[sha256] = _Counts()
        return counts


class DrivingKeeper:
    """Keeps a counter's numbers on disk, added to what earlier runs left there."""

    def __init__(self, layout: BrainLayout, counter: DrivingCounter) -> None:
        self._layout, self._counter = layout, counter
        self._store = AdapterStore(layout)
        self._before: dict[str, DrivingRecord] = {}
        self._written: dict[tuple[str, bool], int] = {}
        self._history: tuple[int, int] | None = None
        self._fault = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="driving-record", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write a last time, durably, and end the thread."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        self.save(durably=True)

    def save(self, *, durably: bool) -> None:
        """Write what changed. A full disk is logged; the counts are kept in memory meanwhile."""
        self._note_wanted()
        for sha256, counted in self._counter.records().items():
            seen = counted.ticks + sum(counted.incidents.values())
            if self._written.get((sha256, durably)) == seen:
                continue
            if sha256 not in self._before:
                self._before[sha256] = read_record(
                    self._layout.driving_dir, sha256, now=self._layout.driving_now_dir
                )
            if self._said(partial(self._put, sha256, counted, durably)):
                self._written[sha256, durably] = seen

    def _put(self, sha256: str, counted: DrivingRecord, durably: bool) -> None:
        whole = self._before[sha256].plus(counted)
        write_record(self._layout.driving_now_dir, sha256, whole, durably=False)
        if durably:
            write_record(self._layout.driving_dir, sha256, whole)

    def _note_wanted(self) -> None:
        def read() -> None:
            stat = self._layout.history_path.stat()
            mark = (stat.st_size, stat.st_mtime_ns)
            if mark != self._history:
                self._counter.wanted = self._store.standing().sha256 or ""
                self._history = mark

        if self._layout.history_path.exists():
            self._said(read)

    def _said(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except (OSError, ValueError, BrainError) as error:
            if str(error) != self._fault:
                log.error("driving record: %s", error)
            self._fault = str(error)
            return False
        return True

    def _run(self) -> None:
        count = 0
        while not self._done.wait(_EVERY_S):
            count += 1
            self.save(durably=count % _DURABLY_EVERY == 0)
