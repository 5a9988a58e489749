"""Readings of a host with which every gate is open, and the ways in which one of them is faulty."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from continuonbrain.robot.host import HostReadings, Reading, SimulatedHost
from continuonbrain.trainer.build_gates import build_gates
from continuonbrain.trainer.gate_rules import GateState
from continuonbrain.trainer.gates import GateReport, GateSet

NOW = 1000.0
GATE_OF = {
    "battery_fraction": "battery",
    "cpu_temp_c": "thermal",
    "throttled": "throttled",
    "idle_s": "idle",
    "teleop_active": "teleop",
    "docked": "docked",
    "load": "load",
    "memory_available_mib": "memory",
    "memory_pressure": "memory_pressure",
    "io_pressure": "io_pressure",
    "disk_free_mib": "disk",
}


def all_gates() -> GateSet:
    return build_gates(
        require_throttled=True,
        require_pressure=True,
        docked=True,
        max_load=1.0,
        dwell_s=0.0,
        thermal_dwell_s=0.0,
    )


def good() -> HostReadings:
    return SimulatedHost(clock=lambda: NOW, jitter=False).read()


def with_reading(name: str, reading: Any) -> HostReadings:
    return replace(good(), **{name: reading})


def gate(report: GateReport, name: str) -> GateState:
    state = report.state(name)
    assert state is not None
    return state


class RaisingReading:
    """Raises when looked at."""

    def __getattr__(self, name: str) -> object:
        raise OSError("bus error")


FAULTS: dict[str, Any] = {
    "missing": Reading.missing("probe", "no such sensor", monotonic_s=NOW, absent=True),
    "missing for another reason": Reading.missing("probe", "bus error", monotonic_s=NOW),
    "without a sign of life": Reading(0.0, NOW, "probe"),  # and a value that closes where none is asked for
    "missing without a reason": Reading(None, NOW, "probe"),
    "stale": Reading(0.9, NOW - 5.1, "probe"),
    "untimed": Reading(0.9, None, "probe"),
    "from the future": Reading(0.9, NOW + 60.0, "probe"),
    "NaN time": Reading(0.9, math.nan, "probe"),
    "NaN": Reading(math.nan, NOW, "probe"),
    "infinite": Reading(math.inf, NOW, "probe"),
    "out of range": Reading(1e15, NOW, "probe"),
    "below range": Reading(-1.0, NOW, "probe"),
    "value with an error": Reading(0.9, NOW, "probe", "checksum"),
    "a string": Reading("0.9", NOW, "probe"),  # type: ignore[arg-type]
    "a bool": Reading(True, NOW, "probe"),
    "not a reading": 0.9,
    "raising": RaisingReading(),
}
