"""Keeps what a day's learning has cost, and says whether there is anything left (`trainer/budget.py`)."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil

from continuonbrain.storage.durable import replace_file
from continuonbrain.trainer.budget import NAME, Budget, Spent, budget_gate, charged
from continuonbrain.trainer.gate_rules import GateState

_SAVE_EVERY_S = 10.0


def _today() -> str:
    return datetime.date.today().isoformat()


def _written_bytes() -> int:
    return int(psutil.Process().io_counters().write_bytes)


class Spending:
    """One trainer's costs. Its file is replaced, not synced: a power cut forgets what a disk held back, SIGKILL the
    last ten seconds.

    Args:
        path: where they are kept.
        budget: the day's limits.
        clock: monotonic seconds. today: ISO date. written: bytes that this process has had written so far.
    """

    def __init__(
        self,
        path: Path,
        budget: Budget,
        *,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], str] = _today,
        written: Callable[[], int] = _written_bytes,
    ) -> None:
        self._path, self._budget = path, budget
        self._clock, self._today, self._written = clock, today, written
        self._looked_s, self._looked_bytes = clock(), written()
        self._saved_s = self._looked_s
        self._spent, self._fault = self._read()

    def look(self, *, working: bool) -> GateState:
        """Charge what went by since the last look, if the trainer was at work then, and say what is left."""
        if self._fault:
            self._spent, self._fault = self._read()
        now, written = self._clock(), self._written()
        seconds, count = now - self._looked_s, written - self._looked_bytes
        self._looked_s, self._looked_bytes = now, written
        self._spent = charged(
            self._spent,
            today=self._today(),
            seconds=seconds if working else 0.0,
            written_bytes=count if working else 0,
        )
        if self._fault:
            return GateState(NAME, False, None, self._fault)
        if working and now - self._saved_s >= _SAVE_EVERY_S:
            self.save()
        gate = budget_gate(self._budget, self._spent)
        if not gate.open and self._spent.day > self._today():
            told = f"{gate.reason}; it is charged to {self._spent.day}, which is still to come"
            return replace(gate, reason=f"{told}: if the clock was wrong then, remove {self._path}")
        return gate

    def save(self) -> None:
        """Write what has been charged. A full disk keeps it in memory."""
        self._saved_s = self._clock()
        if self._fault:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, (json.dumps(self._spent.to_json()) + "\n").encode())
        except OSError:
            return

    def _read(self) -> tuple[Spent, str]:
        try:
            value = json.loads(self._path.read_bytes())
            if not isinstance(value, dict):
                raise ValueError("not a JSON object")
            return Spent.from_json(value), ""
        except FileNotFoundError:
            return Spent(self._today()), ""
        except (OSError, ValueError, RecursionError) as error:
            told = (
                f"{self._path} does not say what today has cost ({error}): remove it, and the day begins anew"
            )
            return Spent(self._today()), told
