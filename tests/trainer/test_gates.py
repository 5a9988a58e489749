"""Claims about the gates: every doubtful reading closes its gate, and the reason can be read."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.config import load_preset
from continuonbrain.errors import BrainError
from continuonbrain.robot.host import READING_NAMES, FileHost, HostReadings, Reading, SimulatedHost
from continuonbrain.trainer.build_gates import StuckWindows, build_gates, gates_from_config
from continuonbrain.trainer.ecosystem_gates import build_pi5_gating
from continuonbrain.trainer.gate_rules import GateState, settled
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


def test_without_firmware_bits_the_gate_is_open_only_by_setting_and_never_when_they_are_set() -> None:
    missing = with_reading("throttled", FAULTS["missing"])
    optional = build_gates(require_throttled=False)
    assert optional.evaluate(missing, NOW).open
    assert "require_throttled" in gate(optional.evaluate(missing, NOW), "throttled").reason
    assert not optional.evaluate(with_reading("throttled", Reading(4.0, NOW, "firmware")), NOW).open


@pytest.mark.parametrize("garbage", [True, "1", math.nan, math.inf, 0.5, -1.0, [], 10**400])
def test_firmware_bits_that_make_no_sense_close_the_gate_although_none_are_required(
    tmp_path: Path, garbage: object
) -> None:
    optional, path = build_gates(require_throttled=False), tmp_path / "host.json"
    FileHost(path).write(good())
    document = json.loads(path.read_text())
    document["readings"]["throttled"]["value"] = garbage
    path.write_text(json.dumps(document))
    assert [s.name for s in optional.evaluate(FileHost(path).read(), NOW).closed] == ["throttled"]
    if isinstance(garbage, float):  # the same through our own writer
        FileHost(path).write(with_reading("throttled", Reading(garbage, NOW, "firmware")))
        assert not optional.evaluate(FileHost(path).read(), NOW).open
    for absent in (None, "yes", 1, False, True):
        none = {"value": None, "monotonic_s": NOW, "error": "no such sensor", "absent": absent}
        document["readings"]["throttled"] = none
        path.write_text(json.dumps(document))
        assert optional.evaluate(FileHost(path).read(), NOW).open is (absent is True)


def test_mains_power_is_a_setting_that_opens_the_battery_gate_and_says_so() -> None:
    missing = with_reading("battery_fraction", FAULTS["missing"])
    assert not build_gates().evaluate(missing, NOW).open
    state = gate(build_gates(power="mains").evaluate(missing, NOW), "battery")
    assert state.open
    assert "mains" in state.reason


def test_a_battery_without_a_gauge_is_a_setting_that_opens_its_gate_and_says_so() -> None:
    missing = with_reading("battery_fraction", FAULTS["missing"])
    state = gate(build_gates(battery="none").evaluate(missing, NOW), "battery")
    assert state.open
    assert "battery: none" in state.reason
    config = load_preset("pi5-donkey")
    assert not gate(gates_from_config(config).evaluate(missing, NOW), "battery").open
    config = config.with_overrides({"battery": "none"})
    assert gate(gates_from_config(config).evaluate(missing, NOW), "battery").open


def test_the_dock_is_asked_for_only_where_it_is_wanted() -> None:
    away = with_reading("docked", Reading(0.0, NOW, "probe", pulse=1.0))
    assert build_gates().evaluate(away, NOW).open
    assert "docked" not in build_gates().names
    wanted = build_gates(docked=True)
    assert gate(wanted.evaluate(away, NOW), "docked").reason == "not plugged in"
    assert wanted.evaluate(good(), NOW).open
    missing = with_reading("docked", FAULTS["missing"])
    assert not wanted.evaluate(missing, NOW).open
    assert build_gates(docked=True, power="mains").evaluate(missing, NOW).open
    config = load_preset("sim-donkey")
    assert "docked" not in gates_from_config(config).names
    assert "docked" in gates_from_config(config, docked=True).names
    assert "docked" in gates_from_config(config.with_overrides({"gates.require_docked": True})).names


def test_without_psi_the_pressure_gates_say_so_and_with_garbage_they_close() -> None:
    absent = with_reading("io_pressure", FAULTS["missing"])
    state = gate(build_gates().evaluate(absent, NOW), "io_pressure")
    assert state.open
    assert "this kernel has no PSI" in state.reason
    for fault in ("missing for another reason", "NaN", "out of range", "stale"):
        report = build_gates().evaluate(with_reading("io_pressure", FAULTS[fault]), NOW)
        assert [s.name for s in report.closed] == ["io_pressure"]


@pytest.mark.parametrize(
    ("name", "closing", "between", "opening"),
    [
        ("battery_fraction", 0.39, 0.42, 0.45),
        ("cpu_temp_c", 76.0, 72.0, 70.0),
        ("memory_available_mib", 500.0, 600.0, 640.0),
        ("disk_free_mib", 500.0, 600.0, 640.0),
        ("memory_pressure", 21.0, 15.0, 10.0),
        ("io_pressure", 61.0, 55.0, 50.0),
    ],
)
def test_closing_is_immediate_and_opening_needs_the_margin(
    name: str, closing: float, between: float, opening: float
) -> None:
    host = SimulatedHost(clock=lambda: NOW, jitter=False)
    gates = all_gates()
    seen = []
    for value in (between, closing, between, opening, between):
        host.set(**{name: value})
        seen.append(gates.poll(host, clock=lambda: NOW).open)
    assert seen == [True, False, False, True, True]


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


def test_a_host_that_raises_closes_every_gate() -> None:
    class Broken:
        def read(self) -> HostReadings:
            raise OSError("i2c: no acknowledge")

    report = all_gates().poll(Broken())
    assert all(not state.open for state in report.states)
    assert "i2c" in report.states[0].reason


def test_a_clock_that_raises_closes_every_gate() -> None:
    def broken_clock() -> float:
        raise OSError("no clock")

    report = all_gates().poll(SimulatedHost(), clock=broken_clock)
    assert all(not state.open for state in report.states)


def test_a_gate_that_raises_is_closed() -> None:
    class Broken:
        name, dwell_s = "broken", 0.0

        def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
            raise ZeroDivisionError("oops")

    report = GateSet((Broken(),)).evaluate(good(), NOW)
    assert not report.open
    assert "oops" in report.states[0].reason


def test_what_a_gate_has_seen_is_not_forgotten_in_a_round_in_which_it_raises() -> None:
    broken: list[bool] = []

    class Shaky:
        name, dwell_s = "idle", 0.0

        def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
            if broken:
                raise ZeroDivisionError("oops")
            return GateState("idle", True, 1.0, "", traces=(None, None), seen=True)

    gates = GateSet((Shaky(),))
    first = gates.evaluate(good(), NOW)
    broken.append(True)
    second = gates.evaluate(good(), NOW + 1, previous=first)
    assert not second.open
    assert (second.states[0].traces, second.states[0].seen) == ((None, None), True)


def test_a_gate_that_raises_takes_nothing_from_the_gates_after_it() -> None:
    class Broken:
        name, dwell_s = "broken", 0.0

        def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
            raise ZeroDivisionError("oops")

    class Next:
        name, dwell_s = "next", 0.0

        def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
            seen.append(before)
            return GateState("next", True, now_s, "")

    seen: list[GateState | None] = []
    gates = GateSet((Broken(), Next()))
    first = gates.evaluate(good(), NOW)
    gates.evaluate(good(), NOW + 1, previous=first)
    assert seen == [None, first.states[1]]


@pytest.mark.parametrize(
    ("refused_s", "now_s", "opens"),
    [
        (0.0, 4.9, False),
        (0.0, 5.0, True),
        (None, 5.0, False),  # when it was closed is not known: the wait begins
        (9.0, 5.0, False),  # closed by another clock
    ],
)
def test_a_closed_gate_opens_when_its_dwell_time_is_over(
    refused_s: float | None, now_s: float, opens: bool
) -> None:
    before = GateState("idle", False, 1.0, "", refused_s=refused_s)
    after = settled(GateState("idle", True, 1.0, ""), before, now_s=now_s, dwell_s=5.0)
    assert after.open is opens
    if not opens:
        assert after.refused_s == (refused_s if refused_s == 0.0 else now_s)
        assert not settled(GateState("idle", True, 1.0, ""), after, now_s=math.nan, dwell_s=5.0).open
        assert settled(GateState("idle", True, 1.0, ""), after, now_s=now_s + 5.0, dwell_s=5.0).open


def test_the_dwell_is_counted_from_the_last_refusal_not_the_first() -> None:
    no, yes = GateState("idle", False, 0.0, "no"), GateState("idle", True, 1.0, "yes")
    state = settled(no, None, now_s=0.0, dwell_s=10.0)
    state = settled(no, state, now_s=50.0, dwell_s=10.0)
    for now_s, opens in ((51.0, False), (59.0, False), (60.0, True)):
        state = settled(yes, state, now_s=now_s, dwell_s=10.0)
        assert state.open is opens, now_s


def test_after_a_look_without_a_time_the_wait_begins_anew() -> None:
    no, yes = GateState("idle", False, 0.0, "no"), GateState("idle", True, 1.0, "yes")
    for blind in (no, yes):
        state = settled(no, None, now_s=0.0, dwell_s=10.0)
        state = settled(blind, state, now_s=math.nan, dwell_s=10.0)
        assert not state.open
        for now_s, opens in ((100.0, False), (109.0, False), (110.0, True)):
            state = settled(yes, state, now_s=now_s, dwell_s=10.0)
            assert state.open is opens, now_s


def test_no_gates_at_all_is_an_error_not_a_permission() -> None:
    with pytest.raises(BrainError, match="no gates"):
        GateSet(())


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_battery", 40.0),
        ("max_temp_c", math.nan),
        ("max_temp_c", 5.0),
        ("idle_s", -1.0),
        ("power", "solar"),
        ("battery", "sysfs"),
        ("dwell_s", -1.0),
        ("thermal_dwell_s", math.inf),
        ("max_io_pressure", math.nan),
        ("stuck", StuckWindows(memory_s=math.nan)),
        ("poll_timeout_s", 0.0),
        ("max_age_s", "5"),
    ],
)
def test_unusable_thresholds_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BrainError, match="budget_s" if name == "poll_timeout_s" else name):
        build_gates(**{name: value})


def test_the_presets_give_gates() -> None:
    assert gates_from_config(load_preset("sim-donkey")).evaluate(good(), NOW).open
    on_a_car = gates_from_config(load_preset("pi5-donkey"))
    assert not on_a_car.evaluate(with_reading("throttled", FAULTS["missing"]), NOW).open


class TestEcosystemGating:
    PROBES: dict[str, Any] = {  # noqa: RUF012 - a constant of the tests
        "robot_idle": lambda: True,
        "teleop_active": lambda: False,
        "battery_level": lambda: 0.8,
        "cpu_temp": lambda: 50.0,
    }

    def test_four_good_probes_allow(self) -> None:
        assert build_pi5_gating(**self.PROBES).allow()

    def test_no_probes_at_all_do_not_allow(self) -> None:
        assert len(build_pi5_gating().report().closed) == 4

    @pytest.mark.parametrize("name", PROBES)
    @pytest.mark.parametrize("answer", [None, math.nan, "yes", -5.0, 1e9, [], OSError("bus error")])
    def test_a_probe_that_is_missing_raises_or_answers_nonsense_does_not_allow(
        self, name: str, answer: Any
    ) -> None:
        def probe() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        assert not build_pi5_gating(**{**self.PROBES, name: probe}).allow()
        assert not build_pi5_gating(**{**self.PROBES, name: None}).allow()

    def test_a_temperature_that_stands_still_and_a_probe_that_hangs_do_not_allow(self) -> None:
        now = [0.0]
        gating = build_pi5_gating(**self.PROBES, clock=lambda: now[0])
        seen = []
        for now[0] in range(0, 400, 10):
            seen.append(gating.allow())
        assert seen == [True] * 31 + [False] * 9
        go = threading.Event()
        hanging = build_pi5_gating(**{**self.PROBES, "battery_level": lambda: go.wait() or 0.8})
        assert not hanging.allow()
        go.set()

    def test_its_defaults_are_the_ecosystems(self) -> None:
        assert not build_pi5_gating(**{**self.PROBES, "battery_level": lambda: 0.39}).allow()
        assert not build_pi5_gating(**{**self.PROBES, "cpu_temp": lambda: 75.5}).allow()
        assert not build_pi5_gating(**{**self.PROBES, "robot_idle": lambda: False}).allow()
        assert not build_pi5_gating(**{**self.PROBES, "teleop_active": lambda: True}).allow()
        with pytest.raises(BrainError, match="min_battery"):
            build_pi5_gating(**self.PROBES, min_battery=math.nan)
