"""What a person with a car is told: modes, what is missing, and that `run` is not for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from continuonbrain.cli.doctor_car import check_car
from continuonbrain.cli.doctor_check import Check
from continuonbrain.cli.main import app
from continuonbrain.loops.control_status import CONTROL_SOCKET_NAME
from continuonbrain.loops.wire_stream import WireServer
from continuonbrain.robot.donkey.i2c import RetryingBus
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from continuonbrain.storage.lock import ProcessLock


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
    assert "systemctl start continuonbrain.target" in done.stderr


def test_run_says_at_once_that_a_car_is_not_for_it(car: BrainLayout) -> None:
    done = said("run", "--root", str(car.root))
    assert done.returncode == 2
    assert "continuonbrain install" in done.stderr
    assert "--cycle" not in done.stderr


def test_the_doctor_tells_what_a_car_lacks(car: BrainLayout, tmp_path: Path) -> None:
    rows = {c.name: c for c in check_car(car.root, top=tmp_path)}
    assert rows.keys() >= {"calibration", "i2c", "i2c module", "camera module", "gamepad"}
    assert not rows["calibration"].ok
    assert "continuonbrain calibrate" in rows["calibration"].remedy
    assert not rows["i2c"].ok
    assert not rows.keys() & {"motor chip", "battery gauge"}
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
    assert rows["i2c"].ok
    assert "gamepad" not in rows
    assert "stop button" in rows


class Raw:
    """smbus2.SMBus of a bus on which these addresses answer. Whoever writes is found out."""

    def __init__(self, *there: int) -> None:
        self.there, self.closed = there, False

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        if i2c_addr not in self.there:
            raise OSError(121, "Remote I/O error")
        return [0] * length

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> None:
        raise AssertionError("the doctor wrote to a chip")

    def close(self) -> None:
        self.closed = True


def test_the_doctor_asks_the_chips_and_only_reads(car: BrainLayout, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/i2c-1").touch()

    def rows(*there: int) -> dict[str, Check]:
        raw = Raw(*there)
        found = check_car(car.root, top=tmp_path, opened=lambda _n: RetryingBus(raw, "/dev/i2c-1"))
        assert raw.closed
        return {c.name: c for c in found}

    both = rows(0x40, 0x41)
    assert (both["motor chip"].ok, both["battery gauge"].ok) == (True, True)
    assert "0x40" in both["motor chip"].value
    one = rows(0x40)
    assert (one["motor chip"].ok, one["battery gauge"].ok) == (True, False)
    assert '"battery": "none"' in one["battery gauge"].remedy
    assert not rows()["motor chip"].ok
    with ProcessLock(car.brain_lock_path, purpose="drive"):
        held = check_car(car.root, top=tmp_path, opened=lambda _n: pytest.fail("asked while it drives"))
    assert "not asked" in {c.name: c for c in held}["motor chip"].value
    settings = json.loads(car.config_path.read_text()) | {"battery": "none"}
    car.config_path.write_text(json.dumps(settings))
    assert "battery gauge" not in rows(0x40)


def test_on_a_pi_each_thing_is_told_once(car: BrainLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    from continuonbrain.cli import doctor_pi

    silent = Check("i2c", False, "of a Pi", "another remedy", needed=False)
    monkeypatch.setattr(doctor_pi, "pi_checks", lambda _root: [silent, replace(silent, name="camera")])
    told = CliRunner().invoke(app, ["doctor", "--root", str(car.root), "--json"]).output
    names = [c["name"] for c in json.loads(told)["checks"]]
    assert len(names) == len(set(names))
    assert "camera" in names
    assert "another remedy" not in [c["remedy"] for c in json.loads(told)["checks"] if c["name"] == "i2c"]


def test_a_simulated_robot_has_no_such_rows(tmp_path: Path) -> None:
    assert check_car(init_brain_root(tmp_path / "sim", "sim-donkey").root) == []
