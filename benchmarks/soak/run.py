"""One soak: start the system, let days pass, break things, look, and say what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

from benchmarks.soak.body import FLIGHT_FILE
from benchmarks.soak.checks import (
    Flight,
    ended_at_rest,
    episode_faults,
    fastest_mps,
    still_moves,
    stopped_after,
    store_faults,
    unsafe_ticks,
)
from benchmarks.soak.days import Days
from benchmarks.soak.faults import Running, begin, go_on, mend, worked_on
from benchmarks.soak.plan import Plan
from benchmarks.soak.timeline import Timeline
from benchmarks.soak.unit import Unit
from benchmarks.soak.watch import System
from continuonbrain.rlds.recovery import recover_unfinished
from continuonbrain.storage.layout import BrainLayout

_TURN_S, _SAMPLE_S, _WELL_EVERY_S = 0.2, 1.0, 1.0
RECOVERY_LIMIT_S = 60.0
_NEWEST = 8


class Soak:
    """See `__main__`. without: kinds of faults that this machine cannot have; calm: there are none."""

    def __init__(
        self,
        layout: BrainLayout,
        work: Path,
        *,
        seed: int,
        day_s: float,
        without: tuple[str, ...],
        calm: bool = False,
        say: Callable[[str], None],
    ) -> None:
        self.layout, self.work = layout, work
        self._say = say
        self._unit = Unit(layout.root, seed, work)
        self.system = System(layout, work)
        self.flight = Flight(work / FLIGHT_FILE)
        self.plan = Plan(seed, mean_gap_s=inf if calm else day_s / 3, without=without)
        self.began_s = time.monotonic()
        self.timeline = Timeline(self.system, self.began_s)
        self.days = Days(self.system, self.timeline, seed=seed, day_s=day_s, now_s=self.began_s)
        self._running: Running | None = None
        self._well_s = self._before_s = -1.0
        self._before: dict[str, Any] = {}
        self._recovering = True
        self._gone = 0
        self._since_s = self.began_s
        self.faults: list[dict[str, Any]] = []
        self.unsafe: list[str] = []
        self.violations: list[str] = []
        self.ended_s = 0.0

    def run(self, seconds: float) -> None:
        """Until `seconds` are over and the last fault is recovered from; then end in good order."""
        self._unit.start()
        try:
            while time.monotonic() - self.began_s < seconds or self._running or self._recovering:
                turn_s = time.monotonic()
                self._turn(over=turn_s - self.began_s >= seconds)
                time.sleep(max(0.0, _TURN_S - (time.monotonic() - turn_s)))
        finally:
            if self._running:
                mend(self._running, self.system)
            took = self._unit.stop()
            self.ended_s = time.monotonic()
        self._end(took)

    def _turn(self, *, over: bool) -> None:
        now = time.monotonic()
        self._unit.look()
        self.system.supervisor = self._unit.pid
        if self.timeline.due(now, _SAMPLE_S):
            self.timeline.sample(now, self.days)
            self.unsafe += unsafe_ticks(self.flight.read())
        if self._running is not None:
            if go_on(self._running, self.system, now):
                self._fault_over(self._running)
                self._running = None
        elif self._recovering:
            self._look_whether_well(now)
        elif over:
            return
        elif changed := self.days.turn(now):
            self._told(changed)
            self._recover(now)
        else:
            fault = self.plan.next(now, self.system.phases())
            if fault is not None:
                self._running = begin(fault, self.system, now)
                if self._running is None:
                    self.plan.ready(now)
                else:
                    self._told(f"{fault.name} ({', '.join(self._running.phases)})")

    def _told(self, text: str) -> None:
        self._say(f"{time.monotonic() - self.began_s:7.1f} s  {text}")

    # After a fault.

    def _recover(self, since_s: float, *, gone: int = 0) -> None:
        """From now on until it is well. gone: a process that must be another one then."""
        self._recovering, self._since_s, self._before, self._before_s = True, since_s, {}, -1.0
        self._gone = gone

    def _fault_over(self, running: Running) -> None:
        fault = running.fault
        ends = fault.killed or fault.kind in ("kill", "end", "disk and kill")
        self._recover(running.ended_s, gone=running.pid if ends else 0)
        self.unsafe += unsafe_ticks(self.flight.read())
        lines = self.flight.between(running.began_s, running.ended_s)
        entry: dict[str, Any] = {
            "at_s": round(running.began_s - self.began_s, 2),
            "until_s": round(running.ended_s - self.began_s, 2),
            "kind": fault.kind,
            "target": fault.target,
            "phases": running.phases,
            "world": self.days.world,
        }
        if fault.stops_s is not None:
            after = stopped_after(lines, fault, running.began_s, running.ended_s)
            entry["stopped_after_s"] = after
            if after is None or after > fault.stops_s:
                self._not_safe(f"{fault.name}: stopped after {after} s, not {fault.stops_s:g} s")
            elif still_moves(lines, fault, running.began_s, running.ended_s):
                self._not_safe(f"{fault.name}: told to stop, it did not come to rest")
        if fault.most_mps is not None:
            entry["fastest_mps"] = fastest_mps(lines)
            if entry["fastest_mps"] > fault.most_mps:
                self._not_safe(f"{fault.name}: it drove {entry['fastest_mps']:.2f} m/s")
        if running.hung_on:
            self._not_safe(f"{fault.name}: nobody saw it for {fault.lasts_s:.0f} s")
        if did := worked_on(running):
            self._not_safe(f"{fault.name}: {did}")
        self.faults.append(entry)

    def _not_safe(self, text: str) -> None:
        self.unsafe.append(text)
        self._told(f"NOT SAFE: {text}")

    def _look_whether_well(self, now: float) -> None:
        if now - self._before_s < _WELL_EVERY_S:
            return
        why = self.system.unwell(now, self._before)
        if not why and self._gone and self._gone in self.system.pids().values():
            why = f"process {self._gone} has not ended yet"
        self._before, self._before_s = self.system.control(), now
        took = now - self._since_s
        if why and took < RECOVERY_LIMIT_S:
            return
        if why:
            self._told(f"NOT RECOVERED after {took:.0f} s: {why}")
        if not self.faults or "recovery_s" in self.faults[-1]:
            if why:  # the start, or another world
                self.violations.append(f"not at work after {took:.0f} s: {why}")
        else:
            self.faults[-1] |= {"recovery_s": None if why else round(took, 2), "why": why}
        self._recovering = False
        for problem in (
            *store_faults(self.layout),
            *episode_faults(self.layout, newest=_NEWEST),
        ):
            if problem not in self.violations:  # what stays wrong is one thing
                self.violations.append(problem)
                self._told(f"VIOLATION: {problem}")
        self.plan.ready(time.monotonic())

    def _end(self, took: float) -> None:
        """After the last: at rest, nobody left, everything whole."""
        self.unsafe += unsafe_ticks(self.flight.read())
        if not ended_at_rest(self.flight.lines):
            self._not_safe(f"the last command was no stop: {self.flight.lines[-1]}")
        if took > 10.0:
            self.violations.append(f"ending took {took:.0f} s")
        self.violations += [f"outlived its supervisor: {orphan}" for orphan in self._unit.orphans]
        for recovered in recover_unfinished(self.layout.episodes_dir):
            if recovered.problem:
                self.violations.append(f"{recovered.path.name}: {recovered.problem}")
        found = (*store_faults(self.layout), *episode_faults(self.layout, ended=True))
        self.violations += [problem for problem in found if problem not in self.violations]

    @property
    def supervisor_ends(self) -> list[tuple[float, int]]:
        """When which exit code came, seconds of the run."""
        return [(round(at - self.began_s, 1), code) for at, code in self._unit.ended]
