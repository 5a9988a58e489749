"""The gamepad: what a person does with it, and what happens when it or they are gone."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from math import inf

import pytest

from continuonbrain.config import GamepadConfig
from continuonbrain.robot.donkey.evdev_pad import PadCodes, codes_of, connect
from continuonbrain.robot.donkey.gamepad import EV_ABS, EV_KEY, EV_SYN, SYN_DROPPED, Gamepad, PadState

CODES = PadCodes(steering=0, throttle=4, deadman=310, stop=305, mode=315)
RANGES = ((-32768, 32767), (0, 255))
HOLD, LET_GO = (EV_KEY, 310, 1), (EV_KEY, 310, 0)


def _state(*events: tuple[int, int, int], quiet_s: float = 3.0) -> PadState:
    state = PadState(CODES, RANGES, quiet_s)
    for event in events:
        state.take(event, 10.0)
    return state


def test_nothing_moves_until_the_deadman_button_is_held() -> None:
    assert _state((EV_ABS, 4, 0)).command(10.0) is None
    assert _state((EV_ABS, 4, 0), HOLD).command(10.0) == (0.0, 1.0)
    assert _state((EV_ABS, 4, 0), HOLD, LET_GO).command(10.0) is None


def test_left_and_up_are_positive_and_the_middle_rests() -> None:
    assert _state(HOLD, (EV_ABS, 0, -32768)).command(10.0) == (1.0, 0.0)
    assert _state(HOLD, (EV_ABS, 0, 10**9)).command(10.0) == (-1.0, 0.0)
    assert _state(HOLD, (EV_ABS, 4, 129), (EV_ABS, 0, 700)).command(10.0) == (0.0, 0.0)


def test_a_pad_that_says_nothing_is_out_of_reach_until_the_button_is_pressed_anew() -> None:
    state = _state(HOLD, (EV_ABS, 4, 0))
    assert state.command(12.9) is not None
    assert state.command(13.1) is None
    state.take((EV_ABS, 4, 3), 14.0)
    assert state.command(14.0) is None
    state.take(HOLD, 14.1)
    assert state.command(14.1) is not None


def test_lost_events_let_go() -> None:
    assert _state(HOLD, (EV_ABS, 4, 0), (EV_SYN, SYN_DROPPED, 0)).command(10.0) is None


def test_stop_lets_go_and_is_told_once() -> None:
    state = _state(HOLD)
    assert state.take((EV_KEY, 305, 1), 10.0) == "stop"
    assert state.command(10.0) is None
    assert state.take((EV_KEY, 305, 2), 10.0) is None
    assert state.take((EV_KEY, 315, 1), 10.0) == "mode"


class FakePad:
    def __init__(self, events: queue.Queue[tuple[int, int, int] | None]) -> None:
        self.events = events

    def read(self, timeout_s: float) -> Sequence[tuple[int, int, int]]:
        try:
            event = self.events.get(timeout=0.01)
        except queue.Empty:
            return []
        if event is None:
            raise OSError(19, "No such device")
        return [event]

    def range_of(self, axis: int) -> tuple[int, int]:
        return RANGES[0] if axis == 0 else RANGES[1]

    def close(self) -> None:
        raise OSError(19, "No such device")


class Desk:
    def __init__(self) -> None:
        self.events: queue.Queue[tuple[int, int, int] | None] = queue.Queue()
        self.presses: list[str] = []
        self.there = True
        self.pad = Gamepad(
            self.connect, CODES, quiet_s=3.0, on_press=self.presses.append, backoff_s=(0.02, 0.05)
        )

    def connect(self) -> FakePad:
        if not self.there:
            raise OSError("no gamepad")
        return FakePad(self.events)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.pad.close()


def _until(over: Callable[[], bool]) -> None:
    end = time.monotonic() + 8
    while not over():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


def test_a_vanished_pad_rests_and_ages_and_a_returned_one_waits_for_the_button(desk: Desk) -> None:
    assert desk.pad() == ((0.0, 0.0), inf)
    desk.pad.start()
    for event in (HOLD, (EV_ABS, 4, 0)):
        desk.events.put(event)
    _until(lambda: desk.pad()[0] == (0.0, 1.0))
    assert desk.pad()[1] < 1.0
    desk.there = False
    desk.events.put(None)
    _until(lambda: desk.pad()[0] == (0.0, 0.0))
    age_s = desk.pad()[1]
    time.sleep(0.05)
    assert desk.pad()[1] >= age_s + 0.04
    assert not desk.pad.connected
    desk.there = True
    _until(lambda: desk.pad.connected)
    desk.events.put((EV_ABS, 4, 0))
    time.sleep(0.1)
    assert desk.pad()[0] == (0.0, 0.0)
    desk.events.put(HOLD)
    desk.events.put((EV_ABS, 4, 0))
    _until(lambda: desk.pad()[0] == (0.0, 1.0))


def test_the_stop_button_is_told(desk: Desk) -> None:
    desk.pad.start()
    desk.events.put((EV_KEY, 305, 1))
    _until(lambda: desk.presses == ["stop"])


def test_a_real_device_of_the_kernel() -> None:
    evdev = pytest.importorskip("evdev")
    config = GamepadConfig(name="continuonbrain test pad")
    codes = codes_of(config)
    span = evdev.AbsInfo(0, -100, 100, 0, 0, 0)
    able = {
        EV_KEY: [codes.deadman, codes.stop, codes.mode],
        EV_ABS: [(codes.steering, span), (codes.throttle, span)],
    }
    try:
        device = evdev.UInput(able, name="continuonbrain test pad")
    except (OSError, evdev.UInputError) as error:
        pytest.skip(f"/dev/uinput: {error}")
    with device:
        pad = Gamepad(lambda: connect(config, codes), codes, quiet_s=3.0, on_press=lambda press: None)
        pad.start()
        _until(lambda: pad.connected)
        device.write(EV_KEY, codes.deadman, 1)
        device.write(EV_ABS, codes.throttle, -100)
        device.syn()
        _until(lambda: pad()[0] == (0.0, 1.0))
    _until(lambda: pad()[0] == (0.0, 0.0))
    pad.close()
