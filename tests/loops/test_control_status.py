"""Claims about what the control process tells the gates: a loop that hangs closes them, whoever goes on writing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from continuonbrain.loops import control_status
from continuonbrain.loops.control_status import CONTROL_STATUS_NAME, StatusWriter
from continuonbrain.loops.sim_machine import SimulatedMachine
from continuonbrain.robot.host import MACHINE_READINGS, FileHost
from continuonbrain.storage.event_log import EventLog
from continuonbrain.trainer.build_gates import build_gates
from continuonbrain.trainer.gates import GateReport

OF_THIS_MACHINE = {"load", "memory", "memory_pressure", "disk", "io_pressure"}


class Parked:
    """A parked simulated robot in simulated time, whose file is judged once a second."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 1000.0
        self.file = FileHost(folder / "host.json")
        self.machine = SimulatedMachine(folder, clock=lambda: self.now_s)
        self.gates = build_gates(idle_s=2.0, docked=True)

    def second(self, *, ticks: int = 20, driving: bool = False) -> None:
        for _ in range(ticks):
            self.now_s += 1.0 / ticks
            self.machine.alive(driving=driving)
        self.now_s += 0.0 if ticks else 1.0
        self.file.write(self.machine.read())

    def closed(self) -> dict[str, str]:
        """Closed gates, without those of the machine under this test: its time is not simulated."""
        report: GateReport = self.gates.poll(self.file, clock=lambda: self.now_s)
        return {s.name: s.reason for s in report.closed if s.name not in OF_THIS_MACHINE}


def test_a_parked_simulated_robot_opens_its_gates_and_keeps_them_open(tmp_path: Path) -> None:
    robot = Parked(tmp_path)
    for _ in range(5):
        robot.second(driving=True)
        assert set(robot.closed()) >= {"idle", "docked"}
    seconds = 0
    while robot.closed():
        robot.second()
        seconds += 1
        assert seconds < 15
    for _ in range(1200):  # longer than every window
        robot.second(ticks=2)
        assert robot.closed() == {}


def test_a_control_loop_that_hangs_closes_by_age(tmp_path: Path) -> None:
    robot = Parked(tmp_path)
    for _ in range(12):
        robot.second()
    assert robot.closed() == {}
    for _ in range(6):
        robot.second(ticks=0)
    assert "stale" in robot.closed()["idle"]


def test_a_writer_that_stamps_what_it_had_anew_is_seen_by_the_ticks_it_does_not_have(tmp_path: Path) -> None:
    robot = Parked(tmp_path)
    for _ in range(12):
        robot.second()
    assert robot.closed() == {}
    frozen = json.loads(robot.file.path.read_text())
    closed: dict[str, str] = {}
    for _ in range(7):
        robot.now_s += 1.0
        for name, reading in frozen["readings"].items():
            if name not in MACHINE_READINGS:
                reading["monotonic_s"] = robot.now_s
        frozen["readings"]["idle_s"]["value"] += 1.0  # it even lets the time grow
        robot.file.path.write_text(json.dumps(frozen))
        closed = robot.closed()
    assert set(closed) == {"idle", "teleop"}
    assert "no sign of life" in closed["teleop"]


def test_a_housekeeping_that_fails_is_said_once_and_done_again_and_the_status_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []

    def housekeeping() -> None:
        done.append(1)
        raise ZeroDivisionError("oops")

    def snapshot() -> dict[str, Any]:
        return {"looks": len(done)}

    writer = StatusWriter(
        tmp_path, snapshot, SimulatedMachine(tmp_path), EventLog(tmp_path / "events"), housekeeping
    )
    writer.start()
    until = time.monotonic() + 20.0
    while len(done) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    assert writer._thread.is_alive()
    writer.close()
    assert len(done) >= 3
    assert json.loads((tmp_path / CONTROL_STATUS_NAME).read_bytes())["looks"] == len(done)
    assert caplog.text.count("ZeroDivisionError: oops") == 1


class Writes:
    """A writer of a status that is a number."""

    def __init__(self, folder: Path) -> None:
        self.path, self.number = folder / CONTROL_STATUS_NAME, 0
        machine: Any = SimpleNamespace(read=lambda: None)
        self.writer = StatusWriter(
            folder, lambda: {"number": self.number}, machine, EventLog(folder / "events")
        )

    def on_disk(self) -> int:
        return int(json.loads(self.path.read_bytes())["number"])


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20.0
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_status_waits_for_no_gauge(tmp_path: Path) -> None:
    """A bus that hangs, in every reading: what is true is on disk all the same, soon and in its turn."""
    reading, answered = threading.Event(), threading.Event()

    def read() -> None:
        reading.set()
        answered.wait(20.0)

    told = {"number": 0}
    writer = StatusWriter(tmp_path, lambda: told, SimpleNamespace(read=read), EventLog(tmp_path / "events"))
    writer.start()
    try:
        assert reading.wait(20.0)
        told["number"] = 1
        until(writer.soon())
        assert json.loads((tmp_path / CONTROL_STATUS_NAME).read_bytes()) == {"number": 1}
        told["number"] = 2
        until(lambda: json.loads((tmp_path / CONTROL_STATUS_NAME).read_bytes()) == {"number": 2})
    finally:
        answered.set()
        writer.close()


def test_what_is_wanted_soon_is_said_to_be_written_when_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_status, "_PERIOD_S", 60.0)  # its turn does not come in this test
    writes = Writes(tmp_path)
    writes.writer.start()
    try:
        for number in range(1, 6):
            writes.number = number
            is_kept = writes.writer.soon()
            until(is_kept)
            assert writes.on_disk() == number
    finally:
        writes.writer.close()


def test_what_cannot_be_written_is_not_said_to_be(tmp_path: Path) -> None:
    writes = Writes(tmp_path)
    writes.writer.start()
    try:
        writes.path.unlink()
        writes.path.mkdir()
        is_kept = writes.writer.soon()
        time.sleep(0.6)
        assert not is_kept()
        writes.path.rmdir()
        until(is_kept)
    finally:
        writes.writer.close()


def test_what_a_process_before_left_stands_until_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(tmp_path)
    before = b'{"number": 7, "emergency_stop": true}'
    writes.path.write_bytes(before)
    monkeypatch.setattr(writes.writer._thread, "start", lambda: None)
    monkeypatch.setattr(writes.writer._host_thread, "start", lambda: None)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(control_status, "replace_file", full)
        writes.writer.start()
    assert writes.path.read_bytes() == before
    writes.writer.start()
    assert writes.on_disk() == 0
