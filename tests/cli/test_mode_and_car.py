"""What a person with a car is told: modes, what is missing, and that `run` is not for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from continuonbrain.cli.doctor_car import check_car
from continuonbrain.loops.control_status import CONTROL_SOCKET_NAME
from continuonbrain.loops.wire_stream import WireServer
from continuonbrain.storage.layout import BrainLayout, init_brain_root


def said(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "continuonbrain.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def car(tmp_path: Path) -> BrainLayout:
    return init_brain_root(tmp_path / "car", "pi5-donkey")


@pytest.fixture
def control(car: BrainLayout) -> Iterator[WireServer]:
    with WireServer(car.run_dir / CONTROL_SOCKET_NAME) as server:
        yield server


def obeyed(server: WireServer, *arguments: str) -> tuple[list[dict[str, object]], str]:
    """The commands that a `mode` sends, each acknowledged, and what it prints."""
    command = [sys.executable, "-m", "continuonbrain.cli.main", "mode", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    seen: list[dict[str, object]] = []
    while process.poll() is None:
        for message in server.wait(0.05):
            seen.append(dict(message.header))
            server.acknowledge(message.peer, ok=True, detail="")
    assert process.stdout is not None
    assert process.returncode == 0
    return seen, process.stdout.read()


def test_a_mode_is_told_to_the_process_that_drives(car: BrainLayout, control: WireServer) -> None:
    root = ("--root", str(car.root))
    seen, told = obeyed(control, "autopilot", *root, "--instruction", "keep left")
    assert [s["type"] for s in seen] == ["instruct", "mode"]
    assert (seen[0]["instruction"], seen[1]["mode"]) == ("keep left", "autopilot")
    assert "told: autopilot" in told
    seen, _ = obeyed(control, "teleop", *root, "--record")
    assert [(s["type"], s.get("on")) for s in seen] == [("record", True), ("mode", None)]
    seen, told = obeyed(control, "stop", *root)
    assert [s["type"] for s in seen] == ["stop"]
    assert "the next mode ends the stop" in told


def test_an_unknown_mode_and_nobody_who_drives_need_a_person(car: BrainLayout) -> None:
    done = said("mode", "fly", "--root", str(car.root))
    assert done.returncode == 2
    assert "autopilot, teleop, assisted, park, teach, stop" in done.stderr
    done = said("mode", "park", "--root", str(car.root))
    assert done.returncode == 2
    assert "does not answer" in done.stderr


def test_run_says_at_once_that_a_car_is_not_for_it(car: BrainLayout) -> None:
    done = said("run", "--root", str(car.root))
    assert done.returncode == 2
    assert "continuonbrain install" in done.stderr
    assert "--cycle" not in done.stderr


def test_the_doctor_tells_what_a_car_lacks(car: BrainLayout, tmp_path: Path) -> None:
    rows = {c.name: c for c in check_car(car.root, top=tmp_path)}
    assert rows.keys() >= {"calibration", "I2C bus", "chips", "camera", "gamepad"}
    assert not rows["calibration"].ok
    assert "continuonbrain calibrate" in rows["calibration"].remedy
    assert not rows["I2C bus"].ok
    assert not any(c.needed for c in rows.values())
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/i2c-1").touch()
    settings = json.loads(car.config_path.read_text())
    settings["donkey"]["calibrated"] = True
    settings["donkey"]["gamepad"]["enabled"] = False
    settings["donkey"]["stop_button"]["pin"] = 5
    car.config_path.write_text(json.dumps(settings))
    rows = {c.name: c for c in check_car(car.root, top=tmp_path)}
    assert rows["calibration"].ok
    assert rows["I2C bus"].ok
    assert "gamepad" not in rows
    assert "stop button" in rows


def test_a_simulated_robot_has_no_such_rows(tmp_path: Path) -> None:
    assert check_car(init_brain_root(tmp_path / "sim", "sim-donkey").root) == []
