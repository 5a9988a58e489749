"""The watchdog process's own program: when it looks, and what it makes of any state of the chip."""

from __future__ import annotations

import contextlib
import math
import time

import pytest
from bus_models import ModelBus, Pca9685Model
from drive_rig import THROTTLE, Rig
from hypothesis import given, settings
from hypothesis import strategies as st

from continuonbrain.robot.donkey.pca9685 import prescale_for
from continuonbrain.robot.donkey.throttle_watchdog import AGAIN_S, Silence, Throttle, leave_off
from continuonbrain.robot.protocol import RobotFault


def throttle_of(rig: Rig, raw: ModelBus | None = None) -> Throttle:
    return Throttle(raw or ModelBus(at_40=rig.chip), 0x40, *rig.train.rest_registers)


def driving(throttle: float = 0.5) -> Rig:
    rig = Rig()
    rig.arm()
    rig.drive(0.2, throttle, ticks=5)
    assert not rig.at_rest()
    return rig


def test_before_the_first_command_nothing_is_expected() -> None:
    silence = Silence(0.6)
    assert not silence.commanded
    assert math.isinf(silence.left_s(1e9))


def test_it_looks_after_the_limit_and_again_until_there_is_a_command() -> None:
    silence = Silence(0.6)
    silence.command(10.0)
    assert silence.commanded
    assert silence.left_s(10.1) == pytest.approx(0.5)
    assert silence.left_s(10.7) == 0
    silence.looked(10.7, well=True)
    assert silence.left_s(10.7) == pytest.approx(AGAIN_S)
    silence.looked(10.8, well=False)
    assert 0 < silence.left_s(10.8) < AGAIN_S
    silence.command(10.81)
    assert silence.left_s(10.81) == pytest.approx(0.6)


def test_a_pulse_becomes_stopped_us_and_steering_stays() -> None:
    rig = driving()
    steering = rig.chip.pulse_us(1)
    assert throttle_of(rig).stop()
    assert rig.throttle_us is not None
    assert rig.at_rest()
    assert rig.chip.pulse_us(1) == steering
    # The ESC stayed armed: control goes on with its next command.
    rig.drive(0.2, 0.5, ticks=1)
    assert not rig.at_rest()


def test_what_rests_is_left_alone() -> None:
    rig = driving()
    throttle = throttle_of(rig)
    rig.train.stop()
    assert not throttle.stop()
    rig.train.close()
    assert rig.throttle_us is None
    assert not throttle.stop()
    assert rig.throttle_us is None  # no pulses where there were none


def test_a_bus_that_cannot_be_read_is_written() -> None:
    rig = driving()
    raw = ModelBus(at_40=rig.chip)
    raw.trouble = lambda number: _fail() if number == 1 else None
    assert throttle_of(rig, raw).stop()
    assert rig.at_rest()


def _fail() -> None:
    raise OSError(121, "Remote I/O error")


@settings(max_examples=60, deadline=None)
@given(
    mode1=st.integers(0, 0x7F),
    registers=st.binary(min_size=64, max_size=64),
)
def test_whatever_the_chip_holds_it_rests_afterwards(mode1: int, registers: bytes) -> None:
    rig = Rig()
    rig.chip.registers[0x06:0x46] = registers
    rig.chip.registers[0x00] = mode1
    rig.chip.registers[0xFE] = prescale_for(60)
    if not mode1 & 0x20:
        # A chip that does not increment is read as its first register four times: always 0 where control wrote.
        rig.chip.registers[0x06] = 0
    throttle_of(rig).stop()
    assert rig.at_rest()


@settings(max_examples=60, deadline=None)
@given(
    wakes=st.lists(st.booleans(), max_size=60),
    commands=st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=1, max_size=6),
)
def test_between_any_two_transactions_of_control_it_does_no_harm(
    wakes: list[bool], commands: list[float]
) -> None:
    """A process that wakes up goes on in the middle of whatever it did, and the watchdog may still be at it."""
    rig = driving()
    throttle = throttle_of(rig)
    left = list(wakes)

    def interleave(number: int) -> None:
        if left and left.pop():
            throttle.stop()

    rig.raw.trouble = interleave
    for command in commands:
        with contextlib.suppress(RobotFault):
            rig.drive(0.0, command, ticks=1)
    left.clear()
    seen = [pulse for pulse in rig.chip.seen[THROTTLE] if pulse is not None]
    assert all(1500 - 5 <= pulse <= rig.config.throttle.forward_us + 5 for pulse in seen)
    # Control is in charge again, if need be after arming.
    for _ in range(3):
        with contextlib.suppress(RobotFault):
            rig.train.stop_after_silence()
            rig.wait(rig.config.throttle.arming_s + 0.1)
            rig.drive(0.0, 1.0, ticks=1)
            break
    assert rig.throttle_us == pytest.approx(rig.config.throttle.forward_us, abs=5)


def test_when_control_is_gone_it_is_off_even_if_the_bus_fails_for_a_while() -> None:
    rig = driving()
    raw = ModelBus(at_40=rig.chip)
    raw.trouble = lambda number: _fail() if number < 8 else None
    leave_off(throttle_of(rig, raw), held_s=0.01)
    assert rig.throttle_us is None
    assert rig.chip.seen[THROTTLE][-2] == pytest.approx(1500, abs=5)


def test_a_bus_that_fails_for_ever_does_not_keep_it() -> None:
    rig = driving()
    raw = ModelBus(at_40=rig.chip)
    raw.trouble = lambda number: _fail()
    began_s = time.monotonic()
    leave_off(throttle_of(rig, raw), held_s=0.1)
    assert raw.count > 10
    assert time.monotonic() - began_s < 3


def test_where_it_had_to_switch_off_the_esc_is_armed_anew() -> None:
    rig = driving()
    throttle_of(rig).off()
    rig.train.stop_after_silence()
    assert rig.at_rest()
    with pytest.raises(RobotFault, match="arming"):
        rig.train.act(0.0, 0.5)
    rig.wait(rig.config.throttle.arming_s + 0.1)
    rig.train.act(0.0, 0.5)
    assert not rig.at_rest()


def test_a_chip_that_was_reset_makes_no_pulses_afterwards() -> None:
    rig = driving()
    rig.chip.power_on()
    throttle_of(rig).stop()
    assert rig.throttle_us is None
    assert isinstance(rig.chip, Pca9685Model)
