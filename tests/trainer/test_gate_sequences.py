"""Claims about gates over time: whatever came before, a fault at the end is closed; a closed gate waits its dwell time
and, once all is well for long enough, opens."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from continuonbrain.robot.host import READING_NAMES, HostReadings, Reading, SimulatedHost
from continuonbrain.trainer.build_gates import StuckWindows, build_gates
from continuonbrain.trainer.gates import GateReport, GateSet

DWELL_S, THERMAL_DWELL_S = 5.0, 30.0
FAULTS = (
    "missing",
    "absent",
    "stale",
    "future",
    "out of range",
    "nan",
    "untimed",
    "no pulse, no value",
    "hung",
)


def gates() -> GateSet:
    return build_gates(
        require_throttled=True,
        require_pressure=True,
        docked=True,
        max_load=1.0,
        dwell_s=DWELL_S,
        thermal_dwell_s=THERMAL_DWELL_S,
    )


class Robot:
    """A simulated robot with a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.host = SimulatedHost(clock=lambda: self.now_s)

    def read(self, name: str = "", fault: str = "") -> HostReadings:
        readings = self.host.read()
        return replace(readings, **{name: self.broken(getattr(readings, name), fault)}) if fault else readings

    def broken(self, reading: Reading, fault: str) -> Any:
        assert reading.monotonic_s is not None
        return {
            "missing": Reading.missing("probe", "bus error", monotonic_s=self.now_s),
            "absent": Reading.missing("probe", "none", monotonic_s=self.now_s, absent=True),
            "stale": replace(reading, monotonic_s=reading.monotonic_s - 6.0),
            "future": replace(reading, monotonic_s=reading.monotonic_s + 6.0),
            "out of range": replace(reading, value=-1e9),
            "nan": replace(reading, value=math.nan),
            "untimed": replace(reading, monotonic_s=None),
            "no pulse, no value": Reading(None, self.now_s, "probe"),
            "hung": Reading.missing("probe", "did not answer in 1 s"),
        }[fault]


step = st.tuples(
    st.floats(0.05, 40.0),
    st.sampled_from(READING_NAMES),
    st.sampled_from(("", "", "", *FAULTS)),
)


@settings(max_examples=150, deadline=None)
@given(
    history=st.lists(step, max_size=25), name=st.sampled_from(READING_NAMES), fault=st.sampled_from(FAULTS)
)
def test_no_history_leaves_a_gate_open_over_a_fault(
    history: list[tuple[float, str, str]], name: str, fault: str
) -> None:
    robot, judge = Robot(), gates()
    report: GateReport | None = None
    for seconds, broken, how in history:
        robot.now_s += seconds
        report = judge.evaluate(robot.read(broken, how), robot.now_s, previous=report)
        assert not (how and report.open)
    robot.now_s += 0.5
    report = judge.evaluate(robot.read(name, fault), robot.now_s, previous=report)
    assert not report.open
    assert all(state.reason for state in report.states)


WINDOWS = StuckWindows()
WINDOW_OF = {
    "battery_fraction": WINDOWS.battery_s,
    "cpu_temp_c": WINDOWS.temperature_s,
    "throttled": WINDOWS.throttled_s,
    "idle_s": WINDOWS.heartbeat_s,
    "teleop_active": WINDOWS.heartbeat_s,
    "docked": WINDOWS.docked_s,
    "load": WINDOWS.proc_s,
    "memory_available_mib": WINDOWS.memory_s,
    "memory_pressure": WINDOWS.proc_s,
    "disk_free_mib": WINDOWS.disk_s,
    "io_pressure": WINDOWS.proc_s,
}


@settings(max_examples=60, deadline=None)
@given(history=st.lists(step, max_size=15), name=st.sampled_from(READING_NAMES))
def test_after_any_history_a_sensor_that_stands_still_closes_within_its_window(
    history: list[tuple[float, str, str]], name: str
) -> None:
    robot, judge = Robot(), gates()
    report: GateReport | None = None
    for seconds, broken, how in history:
        robot.now_s += seconds
        report = judge.evaluate(robot.read(broken, how), robot.now_s, previous=report)
    window_s = WINDOW_OF[name]
    frozen, began_s = getattr(robot.read(), name), robot.now_s
    while robot.now_s - began_s <= 1.1 * window_s:
        robot.now_s += min(1.0 + window_s / 60, 15.0)
        readings = replace(robot.read(), **{name: replace(frozen, monotonic_s=robot.now_s)})
        report = judge.evaluate(readings, robot.now_s, previous=report)
    assert report is not None
    assert not report.open


@settings(max_examples=150, deadline=None)
@given(history=st.lists(step, min_size=2, max_size=40))
def test_a_closed_gate_never_opens_before_its_dwell_time(history: list[tuple[float, str, str]]) -> None:
    robot, judge = Robot(), gates()
    report: GateReport | None = None
    closed_s: dict[str, float] = {}
    for seconds, broken, how in history:
        robot.now_s += seconds
        report = judge.evaluate(robot.read(broken, how), robot.now_s, previous=report)
        for state in report.states:
            if state.open:
                dwell_s = THERMAL_DWELL_S if state.name == "thermal" else DWELL_S
                assert robot.now_s - closed_s.pop(state.name, -math.inf) >= dwell_s
            else:
                closed_s.setdefault(state.name, robot.now_s)


@settings(max_examples=60, deadline=None)
@given(history=st.lists(step, max_size=25))
def test_after_any_history_a_healthy_robot_opens_finally_and_stays_open(
    history: list[tuple[float, str, str]],
) -> None:
    robot, judge = Robot(), gates()
    report: GateReport | None = None
    for seconds, broken, how in history:
        robot.now_s += seconds
        report = judge.evaluate(robot.read(broken, how), robot.now_s, previous=report)
    for poll in range(300):
        robot.now_s += 0.5
        report = judge.evaluate(robot.read(), robot.now_s, previous=report)
        # Dwell, after the proof that idle time grows again; both with what one poll adds.
        assert report.open or poll * 0.5 < THERMAL_DWELL_S + 7.0, report.closed


@pytest.mark.parametrize("clock", [math.nan, math.inf])
def test_a_time_that_is_none_closes_all_and_does_not_close_for_ever(clock: float) -> None:
    robot, judge = Robot(), gates()
    report = judge.evaluate(robot.read(), robot.now_s)
    assert report.open
    report = judge.evaluate(robot.read(), clock, previous=report)
    assert not any(state.open for state in report.states)
    robot.now_s += 1.0
    report = judge.evaluate(robot.read(), robot.now_s, previous=report)
    assert not report.open
    robot.now_s += THERMAL_DWELL_S
    assert judge.evaluate(robot.read(), robot.now_s, previous=report).open


def test_what_flickers_within_the_dwell_time_stays_closed_and_says_for_how_long() -> None:
    robot, judge = Robot(), gates()
    report = judge.evaluate(robot.read("teleop_active", "missing"), robot.now_s)
    for _ in range(6):
        robot.now_s += 4.0
        report = judge.evaluate(robot.read(), robot.now_s, previous=report)
        robot.now_s += 0.5
        report = judge.evaluate(robot.read("teleop_active", "missing"), robot.now_s, previous=report)
    robot.now_s += 4.0
    report = judge.evaluate(robot.read(), robot.now_s, previous=report)
    (closed,) = report.closed
    assert closed.reason == "nobody is driving; well for 4 s, opens after 5 s"


def test_a_sensor_that_was_there_is_not_absent_later_although_none_is_required() -> None:
    robot, judge = Robot(), build_gates(dwell_s=0.0)
    for name, gate in (("throttled", "throttled"), ("io_pressure", "io_pressure")):
        first = judge.evaluate(robot.read(name, "absent"), robot.now_s)
        assert first.open, "it has none"
        report = judge.evaluate(robot.read(name, "hung"), robot.now_s, previous=first)
        assert [s.name for s in report.closed] == [gate]
        report = judge.evaluate(robot.read(name, "absent"), robot.now_s, previous=report)
        assert report.open, "no answer is no sign that there is one"
        report = judge.evaluate(robot.read(), robot.now_s, previous=report)
        report = judge.evaluate(robot.read(name, "absent"), robot.now_s, previous=report)
        (closed,) = report.closed
        assert closed.name == gate
        assert "there was one before" in closed.reason
