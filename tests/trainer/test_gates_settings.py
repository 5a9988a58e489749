"""Claims about the gates' settings: what a robot lacks opens a gate only where it is said, and limits make sense."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.config import load_preset
from continuonbrain.errors import BrainError
from continuonbrain.robot.host import FileHost, Reading
from continuonbrain.trainer.build_gates import StuckWindows, build_gates, gates_from_config
from tests.trainer.gate_readings import FAULTS, NOW, gate, good, with_reading


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
