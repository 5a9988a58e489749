"""Claims about the gates: every doubtful reading closes its gate, and the reason can be read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.robot.host import READING_NAMES, FileHost, Reading
from continuonbrain.trainer.build_gates import build_gates
from continuonbrain.trainer.gate_rules import GateState
from continuonbrain.trainer.gates import GateReport
from tests.trainer.gate_readings import FAULTS, GATE_OF, NOW, all_gates, gate, good, with_reading


def test_with_every_sensor_well_the_gates_are_open() -> None:
    report = all_gates().evaluate(good(), NOW)
    assert report.open, report.closed
    assert {state.name for state in report.states} == set(GATE_OF.values())


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", READING_NAMES)
def test_a_faulty_sensor_closes_its_gate_alone_and_says_why(name: str, fault: str) -> None:
    report = all_gates().evaluate(with_reading(name, FAULTS[fault]), NOW)
    assert not report.open
    assert [state.name for state in report.closed] == [GATE_OF[name]]
    assert report.closed[0].reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("battery_fraction", 0.39),
        ("cpu_temp_c", 75.1),
        ("cpu_temp_c", 0.0),  # what a dead sensor reads
        ("throttled", 1.0),
        ("throttled", 8.0),
        ("throttled", 0.5),
        ("idle_s", 59.0),
        ("teleop_active", 1.0),
        ("teleop_active", 0.01),
        ("load", 1.1),
        ("memory_available_mib", 511.0),
        ("disk_free_mib", 0.0),
        ("docked", 0.0),
        ("docked", 0.99),
        ("memory_pressure", 20.5),
        ("io_pressure", 61.0),
    ],
)
def test_a_value_beyond_its_limit_closes_its_gate(name: str, value: float) -> None:
    report = all_gates().evaluate(with_reading(name, Reading(value, NOW, "probe", pulse=1.0)), NOW)
    assert [state.name for state in report.closed] == [GATE_OF[name]]


def test_throttle_bits_of_the_past_do_not_close() -> None:
    readings = with_reading("throttled", Reading(float(0x50000), NOW, "firmware", pulse=1.0))
    assert all_gates().evaluate(readings, NOW).open


def test_evaluate_is_pure() -> None:
    gates = all_gates()
    low = with_reading("battery_fraction", Reading(0.1, NOW, "probe"))
    between = with_reading("battery_fraction", Reading(0.42, NOW, "probe", pulse=1.0))
    closed = gates.evaluate(low, NOW)
    assert gates.evaluate(between, NOW).open
    assert not gates.evaluate(between, NOW, previous=closed).open
    assert gates.evaluate(between, NOW).open


@given(value=st.floats(), age=st.floats(), previous=st.booleans())
def test_no_number_raises_and_only_usable_ones_open(value: float, age: float, previous: bool) -> None:
    before = GateReport(previous, tuple(GateState(name, previous, None, "") for name in GATE_OF.values()))
    for name in READING_NAMES:
        report = all_gates().evaluate(
            with_reading(name, Reading(value, NOW - age, "p", pulse=1.0)), NOW, previous=before
        )
        state = gate(report, GATE_OF[name])
        if state.open:
            assert math.isfinite(value)
            assert -0.5 <= age <= 5.0


def test_a_host_file_whose_writer_died_closes_by_age(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    FileHost(path).write(good())
    gates = build_gates()
    assert gates.poll(FileHost(path), clock=lambda: NOW + 1.0).open
    late = gates.poll(FileHost(path), clock=lambda: NOW + 6.0)
    assert not late.open
    assert "stale" in gate(late, "idle").reason


def test_the_report_is_json_shaped() -> None:
    data = build_gates().evaluate(good(), NOW).as_dict()
    assert data["open"] is True
    assert data["gates"]["thermal"]["value"] == 50.0  # type: ignore[index]
