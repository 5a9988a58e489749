"""What learning may cost a robot in a day: energy of its battery and writes to its disk. Pure rules.

A day is a date of the machine's clock. A clock that goes back grants nothing: only a later date begins a new day. On a
robot that never learns the time, days pass while it is switched on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from continuonbrain.trainer.gate_rules import GateState, shown

NAME = "budget"
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a day; None does not limit. watts: what the machine draws more while it trains, assumed, as nothing
    measures it."""

    energy_wh: float | None
    write_mib: float | None
    watts: float


@dataclass(frozen=True, slots=True)
class Spent:
    """day: ISO date. seconds: of work on it, written_bytes: by the trainer."""

    day: str
    seconds: float = 0.0
    written_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return {"day": self.day, "seconds": round(self.seconds, 1), "written_bytes": self.written_bytes}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Spent:
        """What `to_json` gave. Raises ValueError for anything else."""
        day, seconds, written = value.get("day"), value.get("seconds"), value.get("written_bytes")
        if (
            not isinstance(day, str)
            or not isinstance(seconds, int | float)
            or not isinstance(written, int)
            or isinstance(seconds, bool)
            or isinstance(written, bool)
            or not 0 <= seconds < inf
            or written < 0
        ):
            raise ValueError(f"{dict(value)!r} is not what a day has cost")
        return cls(day, float(seconds), written)


def charged(spent: Spent, *, today: str, seconds: float, written_bytes: int) -> Spent:
    """After so much more. Negative amounts (a clock, a counter that began anew) cost nothing."""
    if today > spent.day:
        spent = Spent(today)
    return Spent(spent.day, spent.seconds + max(0.0, seconds), spent.written_bytes + max(0, written_bytes))


def budget_gate(budget: Budget, spent: Spent) -> GateState:
    """Whether the day has anything left for learning."""
    energy_wh, written_mib = spent.seconds * budget.watts / 3600, spent.written_bytes / _MIB
    parts, left = [], []
    for used, limit, unit in (
        (energy_wh, budget.energy_wh, "Wh"),
        (written_mib, budget.write_mib, "MiB written"),
    ):
        if limit is None:
            continue
        parts.append(f"{shown(round(used, 2))} of {shown(limit)} {unit} today")
        left.append(1.0 - used / limit)
    if not parts:
        return GateState(NAME, True, None, "no limits a day")
    share = min(left)
    reason = ", ".join(parts)
    if share <= 0:
        reason += "; learning goes on tomorrow (training.daily_energy_wh, training.daily_write_mib)"
    return GateState(NAME, share > 0, max(0.0, share), reason)
