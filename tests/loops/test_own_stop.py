"""A car's own emergency stop (its switch, its gamepad's button) beside what is asked of it over the socket: who asks
after the last press ends it, who asked before does not. The real body, latch, commands and guard; no drive."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.brain_root import open_brain
from continuonbrain.config import BrainConfig
from continuonbrain.loops.control_commands import ControlCommands
from continuonbrain.loops.control_process import ControlOptions, ControlProcess
from continuonbrain.loops.donkey_body import DonkeyBody
from continuonbrain.loops.loop_tick import PARKED, LoopTick
from continuonbrain.loops.own_stop import OwnStop
from continuonbrain.robot.donkey.i2c import RetryingBus
from continuonbrain.storage.layout import init_brain_root

AUTOPILOT = {"type": "mode", "mode": "autopilot"}
TELEOP = {"type": "mode", "mode": "teleop"}
RELEASE = {"type": "release"}


class Pin:
    down = False

    def pressed(self) -> bool:
        return self.down

    def close(self) -> None:
        pass


class Car:
    """A control process of a car between two ticks, on a clock that only moves when told."""

    def __init__(self, folder: Path) -> None:
        layout = init_brain_root(folder / "b", "sim-donkey")
        settings = json.loads(layout.config_path.read_text())
        settings["heads"]["safety"]["enabled"] = False
        layout.config_path.write_text(json.dumps(settings))
        config = BrainConfig().with_overrides(
            {"donkey.calibrated": True, "donkey.gamepad.enabled": False, "power": "mains"}
        )
        nobody: Any = None
        self.body = DonkeyBody(
            config, config_path=folder / "c", disk_path=folder, bus=RetryingBus(nobody, "nobody")
        )
        self.pin, self.now_s = Pin(), 100.0
        self.body._stop._pin = self.pin
        self.process = ControlProcess(
            open_brain(layout.root),
            ControlOptions(record=False, park=True),
            open_body=lambda *_a, **_k: self.body,
        )
        self.process._loop._clock = lambda: self.now_s
        self.come: list[Any] = []
        self.answers: list[tuple[bool, str]] = []

        def came(_wait_s: float) -> list[Any]:
            come, self.come = self.come, []
            return come

        server: Any = SimpleNamespace(
            wait=came, acknowledge=lambda _peer, *, ok, detail: self.answers.append((ok, detail))
        )
        self.process._commands = ControlCommands(
            server,
            self.process._loop,
            self.body,
            self.process._remote,
            change_mode=self.process._change_mode,
        )

    @property
    def stopped(self) -> bool:
        return self.process._loop.pilot.guard.emergency_stopped

    def tick(self, ticks: int = 1) -> None:
        for _ in range(ticks):
            self.now_s += 0.05
            loop = self.process._loop
            self.process._on_tick(LoopTick(loop.ticks, self.now_s, loop.mode, None, None, PARKED, None))

    def ask(self, what: dict[str, str], asked_s: float | None = None) -> tuple[bool, str]:
        """asked_s: when; None, between this tick and the next."""
        asked_s = self.now_s + 0.01 if asked_s is None else asked_s
        self.come.append(
            SimpleNamespace(header={**what, "asked_s": asked_s}, peer=SimpleNamespace(open=True))
        )
        before = len(self.answers)
        self.tick(3)
        return self.answers[before]

    def press_switch(self) -> None:
        self.pin.down = True
        self.body._stop.press("the switch was pressed")  # what its edge does, on a thread of gpiozero

    def close(self) -> None:
        self.process._client.close()
        self.process._reflexes.close()
        self.process._loop.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    car = Car(tmp_path_factory.mktemp("car"))
    yield car
    car.close()


@pytest.fixture
def car(shared: Car) -> Car:
    anew(shared)
    return shared


def anew(car: Car) -> None:
    """On autopilot, nothing pressed."""
    car.pin.down = False
    car.tick()
    assert car.ask(AUTOPILOT) == (True, "")
    assert not car.stopped


@pytest.mark.parametrize("asked", [AUTOPILOT, TELEOP, RELEASE])
@pytest.mark.parametrize("ticks", [1, 100])
def test_a_stop_of_the_pad_is_ended_by_whoever_asks_after_it(
    car: Car, asked: dict[str, str], ticks: int
) -> None:
    car.body._pressed("stop")
    car.tick(ticks)
    assert car.stopped
    assert car.ask(asked) == (True, "")
    assert not car.stopped
    car.tick(10)
    assert not car.stopped
    assert car.process._loop.mode == asked.get("mode", "park")


@pytest.mark.parametrize("asked", [AUTOPILOT, TELEOP, RELEASE])
def test_what_was_asked_for_before_the_press_does_not_end_it(car: Car, asked: dict[str, str]) -> None:
    asked_s = car.now_s
    car.body._pressed("stop")
    ok, why = car.ask(asked, asked_s)  # in the very tick
    assert not ok
    assert "ask again" in why
    assert not car.ask(asked, asked_s)[0]  # and long after
    assert car.stopped
    assert car.ask(asked) == (True, "")


def test_who_presses_again_while_it_is_on_is_heard_too(car: Car) -> None:
    car.body._pressed("stop")
    car.tick(20)
    asked_s = car.now_s
    car.tick()
    car.body._pressed("stop")
    assert not car.ask(AUTOPILOT, asked_s)[0]
    assert car.stopped
    assert car.ask(AUTOPILOT) == (True, "")


def test_a_press_after_the_stop_of_a_page_is_one_of_its_own(car: Car) -> None:
    assert car.ask({"type": "stop"})[0]
    asked_s = car.now_s
    car.tick()
    car.body._pressed("stop")
    car.tick()
    assert not car.ask(AUTOPILOT, asked_s)[0]
    assert car.stopped


def test_a_switch_that_is_still_pressed_says_so_and_lets_go_when_it_is_released(car: Car) -> None:
    car.press_switch()
    car.tick(40)
    for asked in (AUTOPILOT, TELEOP, RELEASE):
        assert car.ask(asked) == (False, "emergency stop: the switch was pressed")
        assert car.stopped
    car.pin.down = False
    car.tick(5)
    assert car.stopped
    assert car.ask(AUTOPILOT) == (True, "")
    assert not car.stopped


def test_a_press_that_falls_into_the_moment_of_a_release_is_not_lost(car: Car) -> None:
    car.body._pressed("stop")
    car.tick(5)
    release = car.body._stop.release
    car.body._stop.release = lambda: (car.body._pressed("stop"), release())[1]  # type: ignore[method-assign]
    try:
        car.ask(AUTOPILOT)
    finally:
        del car.body._stop.release
    assert car.stopped
    assert car.ask(AUTOPILOT) == (True, "")


def test_the_mode_button_ends_what_was_pressed_before_it_and_no_press_after_it(car: Car) -> None:
    car.body._pressed("stop")
    car.tick(5)
    car.body._pressed("mode")
    car.press_switch()  # again, and for a moment
    car.pin.down = False
    car.tick(3)
    assert car.stopped
    car.body._pressed("mode")
    car.tick(3)
    assert not car.stopped
    assert car.process._loop.mode == "teleop"


DEEDS = st.lists(
    st.sampled_from(["pad", "press", "lift", "tap", "tick", "early", "late", "button"]), max_size=12
)


@given(DEEDS)
def test_nobody_ends_a_stop_but_who_asks_after_the_last_press_and_they_always_do(
    shared: Car, deeds: list[str]
) -> None:
    car = shared
    anew(car)
    pressed = False  # since a person last ended it
    for deed in deeds:
        match deed:
            case "pad":
                car.body._pressed("stop")
            case "press":
                car.press_switch()
            case "tap":
                car.press_switch()
                car.pin.down = False
            case "lift":
                car.pin.down = False
        if deed in ("pad", "press", "tap"):
            pressed, pressed_s = True, car.now_s
            car.tick()
        elif deed == "tick":
            car.tick(3)
        elif deed == "early" and pressed:
            assert not car.ask(AUTOPILOT, pressed_s)[0]
        elif deed == "late":
            assert car.ask(AUTOPILOT)[0] != car.pin.down
            pressed = pressed and car.pin.down
        elif deed == "button":
            car.body._pressed("mode")
            car.tick(3)
            pressed = pressed and car.pin.down
        assert car.stopped == pressed, deed
    car.pin.down = False
    assert car.ask(RELEASE) == (True, "")
    assert not car.stopped


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), max_size=30))
def test_a_stop_that_is_merely_still_on_is_no_new_one_and_one_that_the_guard_forgot_is(
    ticks: list[tuple[int, bool]],
) -> None:
    own, presses = OwnStop(0), 0
    for pressed, is_on in ticks:
        presses += pressed
        assert own.just_pressed(presses, is_on=is_on, is_obeyed=True) == bool(pressed)
        assert not own.just_pressed(presses, is_on=True, is_obeyed=True)
        assert own.just_pressed(presses, is_on=is_on, is_obeyed=False) == is_on
