"""What a control loop says about itself: how punctual it was, why the guard stepped in, which adapter drove."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from continuonbrain.errors import BrainError

_KEPT = 65536
"""Newest ticks that the percentiles look at: 55 minutes at 20 Hz."""
STAGES = ("look", "policy", "heads", "decide", "act", "record")
"""What a tick spends its time on: the robot's observation; the policy's answers and questions; reflex and safety head;
tracker and guard; the command; handing the step to the recorder."""
_QUANTILES = (("p50", 0.50), ("p99", 0.99), ("p99.9", 0.999))


class Durations:
    """Durations in microseconds in a ring of fixed size: an endless loop must not grow. Written by one thread, read by
    any."""

    __slots__ = ("_count", "_kept", "_largest", "_ring")

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._ring = array("d", bytes(8 * kept))
        self._count = 0
        self._largest = 0.0

    def add(self, seconds: float) -> None:
        us = seconds * 1e6
        self._ring[self._count % self._kept] = us
        self._count += 1
        if us > self._largest:
            self._largest = us

    def percentiles(self) -> dict[str, float]:
        """p50, p99, p99.9 (nearest rank) over the newest ticks, max over all; zeros before the first."""
        kept = np.frombuffer(self._ring)[: min(self._count, self._kept)]
        if not len(kept):
            return {**{name: 0.0 for name, _ in _QUANTILES}, "max": 0.0}
        kept = np.sort(kept)  # without the interpreter's lock: the loop goes on meanwhile
        out = {name: round(float(kept[min(len(kept) - 1, int(q * len(kept)))]), 1) for name, q in _QUANTILES}
        return {**out, "max": round(self._largest, 1)}


class Profile:
    """How long each stage of a tick takes. `begin` a tick, then name each stage when it is over."""

    __slots__ = ("_clock", "_since", "_stages")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._stages = {name: Durations(_KEPT // 8) for name in STAGES}
        self._since = 0.0

    def begin(self) -> None:
        """A tick begins."""
        self._since = self._clock()

    def over(self, stage: str) -> None:
        """`stage` of `STAGES` is over; what follows is another."""
        now = self._clock()
        self._stages[stage].add(now - self._since)
        self._since = now

    def percentiles(self) -> dict[str, dict[str, float]]:
        """By stage, as `Durations.percentiles`."""
        return {name: durations.percentiles() for name, durations in self._stages.items()}


@dataclass(frozen=True, slots=True)
class Swap:
    """One change of adapter as the control loop saw it.

    monotonic_s, tick: when the first chunk of the new adapter was followed. ticks_between: ticks from the last
    chunk of the old adapter to it, all of them driven along the old path. missed_ticks: how many the loop missed
    meanwhile. gap_ms: the same interval in time.
    """

    previous_sha256: str
    adapter_sha256: str
    monotonic_s: float
    tick: int
    ticks_between: int
    missed_ticks: int
    gap_ms: float


@dataclass(frozen=True, slots=True)
class FastReport:
    """A control loop's account.

    ticks: commands computed. missed_ticks: control periods that went by without one. overrun_stops: ticks that
    stopped because three were late in a row. stopped_ticks: ticks on which the guard's safe stop replaced the
    command. sensor_faults, actuator_faults: exceptions of the robot. chunks: decisions followed. reflex_ticks: ticks
    on a path that the reflex head laid; reflex_faults: answers of it that were no path; safety_faults: frames that the
    safety head failed on; world_vetoes: chunks that the world head forbade, world_faults: those that it failed on.
    lateness_us: start of a tick after its deadline; work_us: from start to end of a tick; stages_us: the parts of it.
    reasons: ticks per guard reason.
    adapter_ticks: ticks driven on a path of each adapter ("" is the base alone). recorded_steps, dropped_steps,
    episodes: what the recorder took, did not take, and wrote.
    """

    hz: float
    ticks: int = 0
    missed_ticks: int = 0
    overrun_stops: int = 0
    stopped_ticks: int = 0
    sensor_faults: int = 0
    actuator_faults: int = 0
    chunks: int = 0
    reflex_ticks: int = 0
    reflex_faults: int = 0
    safety_faults: int = 0
    world_vetoes: int = 0
    world_faults: int = 0
    seconds: float = 0.0
    lateness_us: dict[str, float] = field(default_factory=dict)
    work_us: dict[str, float] = field(default_factory=dict)
    stages_us: dict[str, dict[str, float]] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    adapter_ticks: dict[str, int] = field(default_factory=dict)
    swaps: tuple[Swap, ...] = ()
    recorded_steps: int = 0
    dropped_steps: int = 0
    episodes: tuple[str, ...] = ()

    @property
    def swap(self) -> dict[str, Any]:
        """The last change of adapter with `ticks_on_new`, the ticks driven on it; {} when there was none."""
        if not self.swaps:
            return {}
        last = self.swaps[-1]
        return {**asdict(last), "ticks_on_new": self.adapter_ticks.get(last.adapter_sha256, 0)}

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FastReport:
        """Read what `to_json` gave. `BrainError` when it is something else."""
        try:
            known = {f.name: value[f.name] for f in fields(cls) if f.name in value}
            known["swaps"] = tuple(Swap(**swap) for swap in known.get("swaps", ()))
            known["episodes"] = tuple(known.get("episodes", ()))
            return cls(**known)
        except (TypeError, KeyError) as error:
            raise BrainError(f"this is not a report of a control loop: {error}") from error

    @classmethod
    def from_file(cls, path: Path) -> FastReport:
        """Read `run/control_report.json`. `BrainError` names the file."""
        try:
            value = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise BrainError(
                f"{path}: the control process left no report: {error}",
                remedy="see control.log in the brain's log folder",
            ) from error
        return cls.from_json(value)
