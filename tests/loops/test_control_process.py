"""The control process between two ticks: what the body asks, what a mode begins with, and whom it lets go on. No drive.

One that ends because another base drives: test_base_moves.py.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any, Literal

import pytest

from continuonbrain.brain_root import open_brain
from continuonbrain.loops.control_process import ControlOptions, ControlProcess
from continuonbrain.loops.loop_tick import PARKED, LoopTick, Mode, Teleop
from continuonbrain.robot.host import HostReadings
from continuonbrain.storage.layout import init_brain_root
from tests.loops.fast_rig import Body as Car
from tests.loops.fast_rig import Time


class Machine:
    def read(self) -> HostReadings:
        return HostReadings.all_missing("test", "not told")

    def alive(self, *, driving: bool, teleop: bool = False) -> None:
        pass


class Switched:
    """A body with a switch of its own. says: what its person asks for; pressed: why it does not let a mode begin."""

    robot_model, environment, off_road, astray = "test", "test", 0, ""
    teleop: Teleop | None = None
    presses = 0

    def __init__(self) -> None:
        self.robot, self.machine = Car(Time()), Machine()
        self.says: Mode | Literal["stop"] | None = None
        self.pressed = ""
        self.releases = 0

    def open(self) -> None:
        pass

    def asked(self) -> Mode | Literal["stop"] | None:
        return self.says

    def release(self) -> str:
        self.releases += 1
        return self.pressed

    def unfit(self) -> str:
        return ""

    def instruct(self, instruction: str) -> None:
        pass

    def ticked(self, tick: LoopTick) -> None:
        pass

    def tell(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def body() -> Switched:
    return Switched()


@pytest.fixture
def process(tmp_path: Path, body: Switched) -> ControlProcess:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    settings = json.loads(layout.config_path.read_text())
    settings["heads"]["safety"]["enabled"] = False
    layout.config_path.write_text(json.dumps(settings))
    return ControlProcess(
        open_brain(layout.root), ControlOptions(record=False, park=True), open_body=lambda *_a, **_k: body
    )


def tick(process: ControlProcess) -> None:
    now = time.monotonic()
    process._on_tick(LoopTick(process._loop.ticks, now, process._loop.mode, None, None, PARKED, None))


def test_a_mode_begins_only_when_the_body_lets_go_and_park_needs_nobody(
    process: ControlProcess, body: Switched
) -> None:
    body.pressed = "emergency stop: the switch"
    process._loop.emergency_stop()
    modes: tuple[Mode, ...] = ("autopilot", "teleop", "assisted")
    for number, mode in enumerate(modes, 1):
        assert process._change_mode(mode) == body.pressed
        assert process._loop.mode == "park"
        assert process._state.hand.parked
        assert process._loop.pilot.guard.emergency_stopped
        assert body.releases == number
    assert process._change_mode("park") == ""
    assert body.releases == len(modes)
    body.pressed = ""
    assert process._change_mode("autopilot") == ""
    assert process._loop.mode == "autopilot"
    assert not process._loop.pilot.guard.emergency_stopped


def test_the_mode_button_of_a_body_whose_switch_is_pressed_changes_nothing(
    process: ControlProcess, body: Switched, caplog: pytest.LogCaptureFixture
) -> None:
    body.says, body.pressed = "teleop", "emergency stop: the switch"
    with caplog.at_level(logging.WARNING):
        tick(process)
    assert process._loop.mode == "park"
    assert "mode teleop: emergency stop: the switch" in caplog.text


def test_the_bodys_own_stop_is_an_emergency_stop_of_the_guard_until_a_mode_ends_it(
    process: ControlProcess, body: Switched
) -> None:
    assert process._change_mode("autopilot") == ""
    tick(process)
    assert not process._loop.pilot.guard.emergency_stopped
    body.says = "stop"
    tick(process)
    assert process._loop.pilot.guard.emergency_stopped
    assert process._snapshot.take()["emergency_stop"]
    body.says = None  # a switch that is let go again
    tick(process)
    assert process._loop.pilot.guard.emergency_stopped
    body.says = "teleop"
    tick(process)
    assert not process._loop.pilot.guard.emergency_stopped
    assert process._loop.mode == "teleop"


def test_what_was_commanded_before_a_mode_is_not_meant_for_it(process: ControlProcess) -> None:
    modes: tuple[Mode, ...] = ("teleop", "assisted", "autopilot", "park")
    for mode in modes:
        assert process._remote.take({"steering": 0.5, "throttle": 0.5}) == ""
        assert process._remote.hand() == "drives"
        assert process._change_mode(mode) == ""
        assert process._remote()[1] == float("inf")
        assert process._remote.hand() == "gone"


def test_the_end_of_a_tick_lets_the_other_threads_go_on(process: ControlProcess) -> None:
    gone_on = threading.Event()

    def other() -> None:
        process._slack.wait(60.0)
        gone_on.set()

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    until = time.monotonic() + 10.0
    while not process._slack._waiting:
        assert time.monotonic() < until
        time.sleep(0.001)
    assert not gone_on.is_set()
    tick(process)
    assert gone_on.wait(10.0)
