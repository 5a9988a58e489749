"""What happened while an adapter drove: counts for each adapter's sha256, on disk, over restarts and reboots.

    model/adapters/driving/<sha256>.json      "base.json" for the base alone

The control process writes them, whoever compares adapters reads them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from continuonbrain.storage.durable import replace_file, write_json_durably

log = logging.getLogger(__name__)

INCIDENTS = ("correction", "warning", "block", "stop", "takeover", "off_road")
"""What counts against an adapter. correction: the guard changed a command; warning, block: the safety head's, the world
head's; stop: no fresh or no usable path; takeover: a person drove on by hand, or stopped it with the emergency stop;
off_road: where the robot knows it."""

_MOST = 2**53
_MOST_HZ, _LONGEST_S = 250, 1e9
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class DrivingRecord:
    """Counts of one adapter.

    ticks: control ticks on its paths, without those on which the robot was stopped. seconds: on its paths, without
    those on which somebody else stopped it, on the monotonic clock. incidents: how often each of `INCIDENTS` was seen,
    at most once a second while it lasts. decisions, decision_ms, decision_ms2: how many, and the sums of their
    durations and of their squares.
    """

    ticks: int = 0
    seconds: float = 0.0
    incidents: Mapping[str, int] = field(default_factory=dict)
    decisions: int = 0
    decision_ms: float = 0.0
    decision_ms2: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return {
            "ticks": self.ticks,
            "seconds": round(self.seconds, 3),
            "incidents": {name: self.incidents.get(name, 0) for name in INCIDENTS},
            "decisions": self.decisions,
            "decision_ms": round(self.decision_ms, 3),
            "decision_ms2": round(self.decision_ms2, 3),
        }

    @classmethod
    def from_json(cls, value: object) -> DrivingRecord:
        """Read what `to_json` gave. Raises ValueError for anything else."""
        if not isinstance(value, Mapping) or not isinstance(value.get("incidents", {}), Mapping):
            raise ValueError("a driving record must be an object with counts")
        incidents = value.get("incidents", {})
        counts = {name: _count(incidents.get(name, 0), name) for name in INCIDENTS}
        ticks, seconds = _count(value.get("ticks", 0), "ticks"), _amount(value.get("seconds", 0.0), "seconds")
        if ticks > _MOST_HZ * (seconds + 1.0) or seconds > _LONGEST_S:
            raise ValueError(f"no loop makes {ticks} ticks in {seconds} s")
        return cls(
            ticks,
            seconds,
            counts,
            _count(value.get("decisions", 0), "decisions"),
            _amount(value.get("decision_ms", 0.0), "decision_ms"),
            _amount(value.get("decision_ms2", 0.0), "decision_ms2"),
        )

    def __bool__(self) -> bool:
        """Whether anything was counted. Who was blocked before the first tick has no ticks, and incidents."""
        return self.ticks > 0 or any(self.incidents.values())

    def since(self, before: DrivingRecord) -> DrivingRecord:
        """What was added to `before`; never below nothing. A record that is shorter than `before` was begun anew."""
        if self.ticks < before.ticks:
            return self
        return DrivingRecord(
            max(0, self.ticks - before.ticks),
            max(0.0, self.seconds - before.seconds),
            {n: max(0, self.incidents.get(n, 0) - before.incidents.get(n, 0)) for n in INCIDENTS},
            max(0, self.decisions - before.decisions),
            max(0.0, self.decision_ms - before.decision_ms),
            max(0.0, self.decision_ms2 - before.decision_ms2),
        )

    def plus(self, other: DrivingRecord) -> DrivingRecord:
        """Both together."""
        return replace(
            self,
            ticks=self.ticks + other.ticks,
            seconds=self.seconds + other.seconds,
            incidents={n: self.incidents.get(n, 0) + other.incidents.get(n, 0) for n in INCIDENTS},
            decisions=self.decisions + other.decisions,
            decision_ms=self.decision_ms + other.decision_ms,
            decision_ms2=self.decision_ms2 + other.decision_ms2,
        )


def read_record(folder: Path, sha256: str | None, *, now: Path | None = None) -> DrivingRecord:
    """The record of an adapter, None or "" is the base; empty when there is none. One that cannot be read counts as
    none, which is logged: less is then known, and more must be seen.

    now: a folder with younger copies that a power cut may have damaged.
    """
    kept = _read(_path(folder, sha256))
    younger = DrivingRecord() if now is None else _read(_path(now, sha256))
    return younger if _counted(younger) > _counted(kept) else kept


def write_record(folder: Path, sha256: str | None, record: DrivingRecord, *, durably: bool = True) -> None:
    """Replace the record of an adapter. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"sha256": sha256 or "", **record.to_json()}
    if durably:
        write_json_durably(_path(folder, sha256), told)
    else:
        replace_file(_path(folder, sha256), json.dumps(told).encode())


def _counted(record: DrivingRecord) -> tuple[int, int]:
    return record.ticks, sum(record.incidents.values())


def _read(path: Path) -> DrivingRecord:
    try:
        return DrivingRecord.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return DrivingRecord()
    except (OSError, ValueError, RecursionError) as error:
        log.error("%s cannot be read, its counts begin anew: %s", path, error)
        return DrivingRecord()


def _path(folder: Path, sha256: str | None) -> Path:
    if sha256 and not _SHA256.fullmatch(sha256):
        raise ValueError(f"sha256 = {sha256!r} is not 64 hexadecimal digits")
    return folder / f"{sha256 or 'base'}.json"


def _count(value: object, name: str) -> int:
    if type(value) is int and 0 <= value < _MOST:
        return value
    raise ValueError(f"{name} = {value!r} is not a count")


def _amount(value: object, name: str) -> float:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else -1.0
    if isfinite(number) and 0.0 <= number < _MOST:
        return number
    raise ValueError(f"{name} = {value!r} is not a sum")
