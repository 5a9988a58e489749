"""What a control loop has counted: faults by kind, reasons, which adapter drove and when it changed."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from continuonbrain.loops.loop_report import Swap
from continuonbrain.loops.loop_tick import LoopTick

Fault = Literal["sensor", "actuator", "reflex", "safety head"]
_TOLD_EVERY = 200


@dataclass(slots=True)
class Tally:
    """Counts of one loop. log: where faults are told, the first of a kind and then every two hundredth."""

    log: logging.Logger
    chunks: int = 0
    overrun_stops: int = 0
    stopped_ticks: int = 0
    reflex_ticks: int = 0
    world_vetoes: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    adapter_ticks: Counter[str] = field(default_factory=Counter)
    swaps: list[Swap] = field(default_factory=list)
    _last: tuple[str, int, float, int] | None = None

    def fault(self, kind: Fault, told: object) -> None:
        """Count a fault."""
        self.faults[kind] += 1
        count = self.faults[kind]
        if count == 1 or count % _TOLD_EVERY == 0:
            self.log.error("%s fault %d: %s", kind, count, told)

    def followed(self, adapter_sha256: str, *, tick: int, missed: int, now_s: float) -> None:
        """A chunk is followed from this tick on. missed: ticks that were, so far."""
        self.chunks += 1
        last = self._last
        if last is not None and last[0] != adapter_sha256:
            self.swaps.append(
                Swap(
                    previous_sha256=last[0],
                    adapter_sha256=adapter_sha256,
                    monotonic_s=now_s,
                    tick=tick,
                    ticks_between=tick - last[1],
                    missed_ticks=missed - last[3],
                    gap_ms=round((now_s - last[2]) * 1000, 3),
                )
            )
        self._last = (adapter_sha256, tick, now_s, missed)

    def tick(self, tick: LoopTick) -> None:
        """Count a tick; a parked one counts for nothing."""
        if tick.mode == "park":
            return
        self.stopped_ticks += tick.guarded.stopped
        for reason in tick.guarded.reasons:
            self.reasons[str(reason)] += 1
        if tick.chunk is not None:
            self.adapter_ticks[tick.chunk.adapter_sha256] += 1
        self.reflex_ticks += tick.reflex
