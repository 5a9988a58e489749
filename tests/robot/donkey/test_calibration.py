"""The calibration walk on a register model: what the person finds, and that every way out ends without pulses."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
from bus_models import ModelBus, Pca9685Model
from typer.testing import CliRunner

from continuonbrain.cli.main import app
from continuonbrain.config import DonkeyConfig, ThrottleConfig, load_config
from continuonbrain.robot.donkey.calibration import Calibration, CalibrationLeft
from continuonbrain.robot.donkey.i2c import RetryingBus
from continuonbrain.robot.donkey.pca9685 import Pca9685
from continuonbrain.storage.layout import init_brain_root

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


def test_the_command_writes_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    settings = json.loads(layout.config_path.read_text())
    settings["donkey"]["throttle"]["arming_s"] = 0.0
    layout.config_path.write_text(json.dumps(settings))
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
    done = CliRunner().invoke(app, ["calibrate", "--root", str(layout.root)], input="\n".join(WALK) + "\n")
    assert done.exit_code == 0, done.output
    donkey = load_config(layout.config_path).donkey
    assert donkey.calibrated
    assert donkey.steering.left_us == 1745.0
    assert model.pulse_us(0) is None
    done = CliRunner().invoke(app, ["calibrate", "--root", str(layout.root), "--off"])
    assert "all pulses are off" in done.output


def test_without_smbus2_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = init_brain_root(tmp_path / "car", "pi5-donkey")
    monkeypatch.setitem(sys.modules, "smbus2", None)
    done = CliRunner().invoke(app, ["calibrate", "--root", str(layout.root)])
    assert "smbus2" in str(done.exception)
    assert "[pi]" in str(done.exception)
