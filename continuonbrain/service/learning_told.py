"""What a trainer says of itself, made ready for a page: whether it lives, how long it takes, what the day has cost."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import psutil

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.at_work import Status
from continuonbrain.loops.child_plan import SIDECAR_MODULE
from continuonbrain.service.learn_models import BudgetOut, SpentOut
from continuonbrain.storage.plain_json import load_plain
from continuonbrain.trainer.budget import Budget, Spent, budget_gate, charged
from continuonbrain.trainer.gate_rules import GateState

_LINES = 20
_TAIL_BYTES = 16_384
_MIB = 2**20


def status_of(path: Path) -> Status:
    """`trainer/status.json`; as at the beginning where there is none, and each field that is not as it should be."""
    try:
        value = load_plain(path.read_bytes())
    except (OSError, ValueError):
        return Status()
    found = Status()
    for name, usual in vars_of(found).items():
        given = value.get(name) if isinstance(value, dict) else None
        fits = isinstance(given, type(usual)) and not (
            isinstance(given, bool) and not isinstance(usual, bool)
        )
        if fits or (name == "loss" and isinstance(given, int | float)):
            setattr(found, name, given)
    return found


def vars_of(status: Status) -> dict[str, Any]:
    """Its fields by name."""
    return {name: getattr(status, name) for name in Status.__dataclass_fields__}


def is_alive(pid: int, names: Sequence[str] = (SIDECAR_MODULE, "train", "consolidate")) -> bool:
    """Whether the process of this number is a trainer: by default the sidecar, or somebody's command."""
    try:
        words = psutil.Process(pid).cmdline()
    except (psutil.Error, ValueError, OverflowError):
        return False
    return any(name in words for name in names)


def seconds_left(log: Path, *, step: int, steps: int) -> float | None:
    """Of a training, by how long its last steps took; None when that is not known."""
    told = last_lines(log)
    if len(told) < 2 or steps <= step:
        return None
    (first_s, first, _), (last_s, last, _) = told[0], told[-1]
    if last <= first or last_s <= first_s:
        return None
    return round((steps - step) * (last_s - first_s) / (last - first), 1)


def steps_told(log: Path, told: Sequence[int]) -> tuple[int, int]:
    """Steps that the last job made, and of how many, as far as its log and its status (`told`) say; (0, 0) of none."""
    lines = last_lines(log)
    return (max(lines[-1][1], *told, 0), lines[-1][2]) if lines else (0, 0)


def last_lines(log: Path) -> list[tuple[float, int, int]]:
    """(wall seconds, step, steps) of the job that runs: from the last time on that its steps began anew."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    found: list[tuple[float, int, int]] = []
    for line in lines:
        try:
            value = json.loads(line)
            told = float(value["unix_s"]), int(value["step"]), int(value.get("steps", 0))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if found and told[1] <= found[-1][1]:
            found = []
        found.append(told)
    return found[-_LINES:]


def spent_today(brain: BrainRoot) -> tuple[BudgetOut, GateState]:
    """What today has cost, as the trainer last wrote it, and the gate that follows from it."""
    training = brain.config.training
    budget = Budget(training.daily_energy_wh, training.daily_write_mib, training.watts)
    today = datetime.date.today().isoformat()
    try:
        value = json.loads(brain.layout.spent_path.read_bytes())
        spent, fault = Spent.from_json(value), ""
    except FileNotFoundError:
        spent, fault = Spent(today), ""
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        spent, fault = Spent(today), f"{brain.layout.spent_path}: {error}"
    spent = charged(spent, today=today, seconds=0.0, written_bytes=0)
    gate = GateState("budget", False, None, fault) if fault else budget_gate(budget, spent)
    energy = SpentOut(used=round(spent.seconds * training.watts / 3600, 3), limit=training.daily_energy_wh)
    writes = SpentOut(used=round(spent.written_bytes / _MIB, 2), limit=training.daily_write_mib)
    return BudgetOut(energy_wh=energy, write_mib=writes, reason=gate.reason), gate


def numbers(values: Sequence[Any]) -> list[float]:
    """Those of a list that are numbers."""
    return [float(v) for v in values if isinstance(v, int | float) and isfinite(v)]


def texts(values: Sequence[Any]) -> list[str]:
    """Those of a list that are texts."""
    return [value for value in values if isinstance(value, str)]
