"""A sample a second of everything, for the picture and for the slopes."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.soak.slopes import Sample
from benchmarks.soak.watch import System, look_at, phase_of

if TYPE_CHECKING:
    from benchmarks.soak.days import Days

_RESTING = ("waiting", "gates", "promoted", "refused", "judged", "stopped", "failed", "")
_TRAINS = "train"


class Timeline:
    """What was sampled: `rows` for people, `memory` and `handles` by process. promoted_today: `current` has changed
    since the day began."""

    def __init__(self, system: System, began_s: float) -> None:
        self._system, self._began_s = system, began_s
        self._sampled_s = -1.0
        self.rows: list[dict[str, Any]] = []
        self.memory: dict[str, list[Sample]] = defaultdict(list)
        self.handles: dict[str, list[Sample]] = defaultdict(list)
        self.threads: dict[str, list[Sample]] = defaultdict(list)
        self.lessons = 0
        self.promoted_today = False
        self._phase = self._adapter = ""
        self._trained: set[int] = set()
        self.rounds: list[dict[str, Any]] = []
        """Every candidate that was judged: when, which, whether it passed and why not."""

    def due(self, now_s: float, every_s: float) -> bool:
        """Whether it is time for a sample."""
        if now_s - self._sampled_s < every_s:
            return False
        self._sampled_s = now_s
        return True

    def new_day(self) -> None:
        """The day begins."""
        self.promoted_today = False

    def sample(self, now_s: float, days: Days) -> None:
        """Look at everything."""
        system = self._system
        control, training, told = system.control(), system.training(), system.told()
        pids = system.pids()
        fresh = now_s - float(control.get("monotonic_s", -1e9)) < 2.0
        phase = phase_of(control) if fresh else ""
        docked_work = training.get("kind") == "slow"
        sidecar = "consolidate" if docked_work else str(training.get("phase", ""))
        done, of = (control.get("taught") or [0, 0])[:2]
        if self._phase == "teach" and phase not in ("teach", "") and of and done == of:
            self.lessons += 1
        self._phase = phase or self._phase
        adapter = _link(str(system.layout.current))
        if adapter and adapter != self._adapter:
            self.promoted_today |= bool(self.rows)
            self._adapter = adapter
        self._note_verdicts(now_s)
        used = shutil.disk_usage(system.layout.root)
        gates = (told.get("gates") or {}).get("gates") or {}
        row: dict[str, Any] = {
            "t": round(now_s - self._began_s, 2),
            "world": days.world,
            "day": days.over,
            "night": days.night,
            "phase": phase,
            "mode": control.get("mode", "") if fresh else "",
            "sidecar": sidecar if "sidecar" in pids else "",
            "laps": control.get("laps") if fresh else None,
            "off_road": control.get("off_road") if fresh else None,
            "adapter": adapter,
            "standing": (told.get("probation") or {}).get("state", ""),
            "closed": [name for name, gate in gates.items() if not gate.get("open")],
            "disk_mib": round((used.total - used.free) / 2**20, 1),
            "processes": {},
        }
        its_own = training.get("pid") == pids.get("sidecar")  # not what one before it left behind
        resting = self._sidecar_group(sidecar, pids.get("sidecar", 0)) if its_own else None
        group = {"control": phase, "sidecar": resting}
        for name, pid in pids.items():
            seen = look_at(pid)
            if seen is None:
                continue
            row["processes"][name] = [pid, round(seen.rss_mib, 2), seen.handles, seen.threads, seen.state]
            row["processes"][name].append(round(seen.anon_mib, 2))
            for kept, value in (
                (self.memory, seen.rss_mib),
                (self.handles, float(seen.handles)),
                (self.threads, float(seen.threads)),
            ):
                if (at := group.get(name, "")) is not None:
                    kept[name].append(Sample(now_s, pid, seen.age_s, at, value))
        self.rows.append(row)

    def _sidecar_group(self, phase: str, pid: int) -> str | None:
        """None while it works, which takes memory that is given back, and until the first round in which it trained is
        over: what it loads then it keeps. (One that only judges what another began loads less.)"""
        if phase == _TRAINS:
            self._trained.add(pid)
        return "rested" if phase in _RESTING and pid in self._trained else None

    def _note_verdicts(self, now_s: float) -> None:
        known = {one["version"] for one in self.rounds}
        for path in sorted(self._system.layout.adapters_dir.glob("versions/*/verdict.json")):
            if path.parent.name not in known and (verdict := _verdict(path)):
                told = {name: verdict.get(name) for name in ("passed", "reason")}
                self.rounds.append(
                    {"t": round(now_s - self._began_s, 2), "version": path.parent.name, **told}
                )


def _verdict(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError):  # none yet, or another takes its place
        return {}


def _link(path: str) -> str:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return ""
