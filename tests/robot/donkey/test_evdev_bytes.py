"""The gamepad fed with the bytes of the kernel: struct input_event (Documentation/input/input.rst) in a pipe, read by
python-evdev. What is left out is the kernel's device itself: finding it, and the ranges of its axes."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from continuonbrain.config import GamepadConfig
from continuonbrain.errors import BrainError
from continuonbrain.robot.donkey.evdev_pad import EvdevPad, codes_of
from continuonbrain.robot.donkey.gamepad import EV_ABS, EV_KEY, EV_SYN, SYN_DROPPED, Gamepad

evdev = pytest.importorskip("evdev", reason="python-evdev is not installed (no wheels: pip install evdev)")

SYN_REPORT = 0
EVENT = struct.Struct("llHHi")
"""struct timeval of two longs, type and code of 16 bits, value of 32 bits with a sign."""


class PipePad(EvdevPad):
    """An evdev device whose file is a pipe. A pipe has no axes to be asked about."""

    def range_of(self, axis: int) -> tuple[int, int]:
        return -32768, 32767


class Wire:
    """The kernel's end of a pipe."""

    def __init__(self) -> None:
        self.codes = codes_of(GamepadConfig())
        self.presses: list[str] = []
        self.connects = 0
        self._in = -1
        self.pad = Gamepad(
            self._connect, self.codes, quiet_s=1.0, on_press=self.presses.append, backoff_s=(0.02, 0.05)
        )

    def _connect(self) -> EvdevPad:
        out, self._in = os.pipe2(os.O_NONBLOCK)
        device = evdev.InputDevice.__new__(evdev.InputDevice)
        device.fd = out
        self.connects += 1
        return PipePad(device)

    def send(self, *events: tuple[int, int, int]) -> None:
        """These events and a SYN_REPORT, in one write as the kernel gives them."""
        seconds, rest = divmod(time.time_ns(), 10**9)
        data = b"".join(
            EVENT.pack(seconds, rest // 1000, *event) for event in (*events, (EV_SYN, SYN_REPORT, 0))
        )
        os.write(self._in, data)

    def unplug(self) -> None:
        os.close(self._in)


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    wire.pad.start()
    _until(lambda: wire.pad.connected)
    yield wire
    wire.pad.close()


def _until(over: Callable[[], bool]) -> None:
    end = time.monotonic() + 8
    while not over():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.005)


def test_names_of_the_settings_are_the_kernels_numbers(wire: Wire) -> None:
    codes = wire.codes
    # linux/input-event-codes.h: ABS_X, ABS_RY, BTN_TL, BTN_EAST, BTN_START.
    assert (codes.steering, codes.throttle, codes.deadman, codes.stop, codes.mode) == (
        0x00,
        0x04,
        0x136,
        0x131,
        0x13B,
    )
    with pytest.raises(BrainError, match=r"donkey\.gamepad\.mode_button = 'BTN_NONE' is no axis or button"):
        codes_of(GamepadConfig(mode_button="BTN_NONE"))


def test_a_person_drives_lets_go_and_stops(wire: Wire) -> None:
    codes = wire.codes
    wire.send((EV_ABS, codes.throttle, -32768), (EV_ABS, codes.steering, 16384))
    time.sleep(0.1)
    assert wire.pad()[0] == (0.0, 0.0)  # nobody holds the dead-man button
    wire.send((EV_KEY, codes.deadman, 1))
    _until(lambda: wire.pad()[0] != (0.0, 0.0))
    steering, throttle = wire.pad()[0]
    assert throttle == 1.0
    assert steering == pytest.approx(-0.5, abs=1e-3)
    wire.send((EV_KEY, codes.deadman, 0))
    _until(lambda: wire.pad()[0] == (0.0, 0.0))
    wire.send((EV_KEY, codes.deadman, 1))
    _until(lambda: wire.pad()[0] != (0.0, 0.0))
    wire.send((EV_KEY, codes.stop, 1))
    _until(lambda: wire.presses == ["stop"])
    _until(lambda: wire.pad()[0] == (0.0, 0.0))


def test_what_the_kernel_dropped_lets_go(wire: Wire) -> None:
    codes = wire.codes
    wire.send((EV_KEY, codes.deadman, 1), (EV_ABS, codes.throttle, -32768))
    _until(lambda: wire.pad()[0] == (0.0, 1.0))
    wire.send((EV_SYN, SYN_DROPPED, 0))
    _until(lambda: wire.pad()[0] == (0.0, 0.0))


def test_a_burst_that_is_longer_than_one_read_is_read_to_its_end(wire: Wire) -> None:
    codes = wire.codes
    wire.send((EV_KEY, codes.deadman, 1))
    for _ in range(10):
        wire.send(*((EV_ABS, codes.throttle, value) for value in range(-32000, -31900)))
    wire.send((EV_ABS, codes.throttle, -32768))
    _until(lambda: wire.pad()[0] == (0.0, 1.0))


def test_silence_lets_go(wire: Wire) -> None:
    codes = wire.codes
    wire.send((EV_KEY, codes.deadman, 1), (EV_ABS, codes.throttle, -32768))
    _until(lambda: wire.pad()[0] == (0.0, 1.0))
    _until(lambda: wire.pad()[0] == (0.0, 0.0))
    assert wire.connects == 1


def test_an_end_of_the_events_lets_go_and_connects_anew(wire: Wire) -> None:
    codes = wire.codes
    wire.send((EV_KEY, codes.deadman, 1), (EV_ABS, codes.throttle, -32768))
    _until(lambda: wire.pad()[0] == (0.0, 1.0))
    wire.unplug()
    _until(lambda: wire.pad()[0] == (0.0, 0.0))
    _until(lambda: wire.connects == 2)
    _until(lambda: wire.pad.connected)
    assert wire.pad()[0] == (0.0, 0.0)
    wire.send((EV_KEY, codes.deadman, 1), (EV_ABS, codes.throttle, -32768))
    _until(lambda: wire.pad()[0] == (0.0, 1.0))
