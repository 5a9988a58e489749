"""The harness that breaks sensors: it finds nothing open in ours, and finds what stays open."""

from __future__ import annotations

import pytest

from benchmarks import fake_pi, gates
from continuonbrain.trainer import gate_rules
from continuonbrain.trainer.build_gates import StuckWindows

QUICK = [s for s in fake_pi.SENSORS if s.name in ("idle time", "load", "disk pressure")]


def test_every_fault_of_some_sensors_closes_and_the_repair_opens() -> None:
    found = gates.run(QUICK, hours=0.05)
    assert found["control"]["closed"] == 0
    assert found["control"]["polls"] > 20
    assert (found["cases"], found["open"], found["not_reopened"]) == (33, 0, 0), found["list"]


@pytest.mark.slow
def test_every_sensor_that_is_stuck_closes() -> None:
    found = gates.run(faults=["stuck"], hours=0.05)
    assert (found["cases"], found["open"], found["not_reopened"]) == (13, 0, 0), found["list"]


def test_a_detector_that_waits_too_long_is_found_out() -> None:
    memory = [s for s in fake_pi.SENSORS if s.name == "memory"]
    found = gates.run(memory, ["stuck"], hours=0.05, windows=StuckWindows(memory_s=1e6))
    assert (found["cases"], found["open"]) == (1, 1)


def test_gates_that_do_not_look_at_the_age_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_rules, "untimely", lambda *_a, **_k: "")
    teleop = [s for s in fake_pi.SENSORS if s.name == "throttle bits"]
    assert gates.run(teleop, ["stale"], hours=0.05)["open"] == 2
