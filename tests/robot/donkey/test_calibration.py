"""The calibration walk on a register model: what the person finds, and that every way out ends without pulses."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
from bus_models import Ina219Model, ModelBus, Pca9685Model
from typer.testing import CliRunner

from continuonbrain.cli.main import app
from continuonbrain.config import DonkeyConfig, ThrottleConfig, load_config
from continuonbrain.robot.donkey.calibration import Calibration, CalibrationLeft
from continuonbrain.robot.donkey.i2c import RetryingBus, asked_chip
from continuonbrain.robot.donkey.pca9685 import Pca9685
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.lock import ProcessLock

WALK = [
    "yes",
    "+20",
    "",
    "+100",
    "+100",
    "",
    "-100",
    "-100",
    "",
    "",
    "+100",
    "x",
    "nan",
    "+101",
    "",
]
BACK = ["-90", ""]


def _walk(model: Pca9685Model, answers: list[str], **throttle: object) -> dict[str, object]:
    given = iter(answers)
    chip = Pca9685(RetryingBus(ModelBus(at_40=model), "model"), sleep=lambda seconds: None)
    return Calibration(
        chip,
        DonkeyConfig(throttle=ThrottleConfig.model_validate(throttle)),
        ask=lambda question: next(given),
        say=lambda text: None,
        sleep=lambda seconds: None,
    ).walk()


def test_what_the_person_found() -> None:
    model = Pca9685Model()
    assert _walk(model, WALK) == {
        "donkey.steering.centre_us": 1545.0,
        "donkey.steering.left_us": 1745.0,
        "donkey.steering.right_us": 1345.0,
        "donkey.throttle.stopped_us": 1500.0,
        "donkey.throttle.forward_us": 1600.0,
        "donkey.calibrated": True,
    }
    pulses = [pulse for pulse in model.seen[0] if pulse is not None]
    # Every spin is followed by a rest, and the last thing is no pulse at all.
    assert [round(pulse, -1) for pulse in pulses] == [1500, 1600, 1500]
    assert model.pulse_us(0) is None
    assert model.pulse_us(1) is None


@pytest.mark.parametrize(
    ("reverse", "seen"),
    [
        ("direct", [1500, 1600, 1500, 1410, 1500]),
        ("double-tap", [1500, 1600, 1500, 1410, 1500, 1410, 1500]),  # the first one only brakes
    ],
)
def test_a_car_that_goes_back_is_asked_how_fast(reverse: str, seen: list[int]) -> None:
    model = Pca9685Model()
    found = _walk(model, WALK + BACK, reverse=reverse)
    assert found["donkey.throttle.reverse_us"] == 1410.0
    assert [round(pulse, -1) for pulse in model.seen[0] if pulse is not None] == seen
    assert model.pulse_us(0) is None


@pytest.mark.parametrize("length", range(1, len(WALK)))
def test_leaving_at_any_question_ends_without_pulses(length: int) -> None:
    model = Pca9685Model()
    with pytest.raises(CalibrationLeft):
        _walk(model, [*WALK[:length], "quit"])
    assert model.pulse_us(0) is None
    assert model.pulse_us(1) is None


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Pca9685Model:
    """The chip on /dev/i2c-1 of this test."""
    model = Pca9685Model()

    class SMBus(ModelBus):
        def __init__(self, number: int) -> None:
            assert number == 1
            super().__init__(at_40=model)
            self.fd = -1

    smbus2 = types.ModuleType("smbus2")
    smbus2.SMBus = SMBus  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "smbus2", smbus2)
    monkeypatch.setattr("continuonbrain.robot.donkey.i2c.fcntl.ioctl", lambda fd, request, value: 0)
    monkeypatch.setattr("continuonbrain.robot.donkey.calibration.SPIN_S", 0.0)
    return model


def _drives(model: Pca9685Model) -> None:
    """A killed process left it like this."""
    chip = Pca9685(RetryingBus(ModelBus(at_40=model), "model"), sleep=lambda seconds: None)
    chip.set_up()
    chip.set_pulse(0, 1650.0, low_us=1000, high_us=2000)


def test_the_command_writes_what_was_found_and_nothing_else(tmp_path: Path, model: Pca9685Model) -> None:
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    before = {
        "robot": {"kind": "donkey"},
        "donkey": {"throttle": {"arming_s": 0.0}, "watchdog_s": 0.4},
        "max_steps": 77,
    }
    layout.config_path.write_text(json.dumps(before))
    done = CliRunner().invoke(app, ["calibrate", "--root", str(layout.root)], input="\n".join(WALK) + "\n")
    assert done.exit_code == 0, done.output
    donkey = load_config(layout.config_path).donkey
    assert donkey.calibrated
    assert donkey.steering.left_us == 1745.0
    assert json.loads(layout.config_path.read_text()) == {
        "robot": {"kind": "donkey"},
        "donkey": {
            "throttle": {"arming_s": 0.0, "stopped_us": 1500.0, "forward_us": 1600.0},
            "watchdog_s": 0.4,
            "steering": {"centre_us": 1545.0, "left_us": 1745.0, "right_us": 1345.0},
            "calibrated": True,
        },
        "max_steps": 77,
    }
    assert model.pulse_us(0) is None


@pytest.mark.parametrize("config", ["{ broken", '{"donkey": {"pwm": {"adress": 65}}}', None])
def test_off_needs_no_settings_that_can_be_read(
    tmp_path: Path, model: Pca9685Model, config: str | None
) -> None:
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    if config is None:
        layout.config_path.unlink()
    else:
        layout.config_path.write_text(config)
    _drives(model)
    assert model.pulse_us(0) == pytest.approx(1650, abs=5)
    done = CliRunner().invoke(app, ["calibrate", "--root", str(layout.root), "--off"])
    assert done.exit_code == 0, done.output
    assert model.pulse_us(0) is None
    assert "config.json" in done.output
    assert "goes on with bus 1 and address 0x40" in done.output
    assert "all pulses are off" in done.output


@pytest.mark.parametrize("state", [b"{ torn", b'{"current": "0000000000000000"}'])
def test_off_reaches_the_car_s_own_chip_whatever_became_of_its_bases(
    tmp_path: Path, model: Pca9685Model, state: bytes
) -> None:
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    config = json.loads(layout.config_path.read_bytes())
    config.setdefault("donkey", {}).setdefault("pwm", {})["frequency_hz"] = (
        61.0  # what shows that it was read
    )
    layout.config_path.write_text(json.dumps(config))
    layout.base_slot_path.write_bytes(state)
    _drives(model)
    done = CliRunner().invoke(app, ["calibrate", "--root", str(layout.root), "--off"])
    assert done.exit_code == 0, done.output
    assert model.pulse_us(0) is None
    assert "goes on with" not in done.output


def test_off_of_a_readable_root_uses_its_own_chip_and_says_who_still_drives(
    tmp_path: Path, model: Pca9685Model
) -> None:
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    _drives(model)
    with ProcessLock(layout.brain_lock_path, purpose="drive"):
        done = CliRunner().invoke(app, ["calibrate", "--root", str(layout.root), "--off"])
    assert model.pulse_us(0) is None
    assert "a control process still drives the car" in str(done.exception)
    done = CliRunner().invoke(app, ["calibrate", "--root", str(layout.root), "--off"])
    assert done.exit_code == 0
    assert "goes on with" not in done.output
    simulated = init_brain_root(tmp_path / "sim", "sim-donkey")
    done = CliRunner().invoke(app, ["calibrate", "--root", str(simulated.root), "--off"])
    assert "has nothing to calibrate" in str(done.exception)


def test_without_smbus2_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    monkeypatch.setitem(sys.modules, "smbus2", None)
    done = CliRunner().invoke(app, ["calibrate", "--root", str(layout.root)])
    assert "smbus2" in str(done.exception)
    assert "[pi]" in str(done.exception)


@pytest.mark.parametrize(
    ("answers", "battery"), [(["no"], "none"), ([""], "gauge"), (["yes"], "gauge"), ([], "gauge")]
)
def test_a_car_without_a_battery_gauge_is_asked_about(
    tmp_path: Path, model: Pca9685Model, answers: list[str], battery: str
) -> None:
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    config = json.loads(layout.config_path.read_text())
    config["donkey"]["throttle"] |= {"arming_s": 0.0, "reverse": "none"}
    layout.config_path.write_text(json.dumps(config))
    given = "\n".join([*WALK, *answers]) + "\n"
    done = CliRunner().invoke(app, ["calibrate", "--root", str(layout.root)], input=given)
    assert done.exit_code == 0, done.output
    assert "No battery gauge (INA219) answers at 0x41" in done.output
    found = load_config(layout.config_path)
    assert (found.battery, found.donkey.calibrated) == (battery, True)


def test_a_gauge_that_answers_is_not_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = RetryingBus(ModelBus(at_40=Pca9685Model(), at_41=Ina219Model()), "model")
    assert asked_chip(bus, 0x41, 0, 2) == ""
    assert "0x42" in asked_chip(bus, 0x42, 0, 2)
