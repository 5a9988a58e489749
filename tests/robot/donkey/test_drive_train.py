"""The drive train against a register model of its chip: what a servo and an ESC would see, whatever happens."""

from __future__ import annotations

import math

import pytest
from bus_models import ModelBus, Pca9685Model
from drive_rig import COUNT_US, STEERING, THROTTLE, Rig

from continuonbrain.config import BrainConfig, ConfigError, DonkeyConfig, validate_config
from continuonbrain.robot.donkey.drive_train import DriveTrain
from continuonbrain.robot.donkey.i2c import RetryingBus
from continuonbrain.robot.donkey.pca9685 import Pca9685, prescale_for
from continuonbrain.robot.protocol import RobotFault


def _config(**throttle: object) -> DonkeyConfig:
    return validate_config({"donkey": {"throttle": throttle}}, source="test").donkey


def test_commands_reach_the_calibrated_pulses() -> None:
    rig = Rig(_config(reverse="direct"))
    rig.arm()
    for steering, throttle, turn_us, drive_us in (
        (1.0, 1.0, 1870, 1700),
        (-1.0, -1.0, 1180, 1200),
        (0.0, 0.0, 1525, 1500),
        (0.5, 0.5, 1697.5, 1600),
    ):
        rig.train.act(steering, throttle)
        assert rig.chip.pulse_us(STEERING) == pytest.approx(turn_us, abs=COUNT_US)
        assert rig.throttle_us == pytest.approx(drive_us, abs=COUNT_US)


def test_a_car_without_reverse_never_gets_a_pulse_beyond_rest() -> None:
    rig = Rig(_config(reverse_us=1000.0, stopped_us=1502.0))
    rig.arm()
    for throttle in (0.3, -0.01, -1.0, -0.5, 1.0, -1.0):
        rig.train.act(0.0, throttle)
    assert min(pulse for pulse in rig.chip.seen[THROTTLE] if pulse) == pytest.approx(1502, abs=COUNT_US / 2)
    assert rig.at_rest()


def test_an_inverted_servo_turns_the_other_way() -> None:
    config = validate_config(
        {"donkey": {"steering": {"left_us": 1100.0, "centre_us": 1480.0, "right_us": 1900.0}}}, source="test"
    ).donkey
    rig = Rig(config)
    rig.arm()
    rig.train.act(1.0, 0.0)
    assert rig.chip.pulse_us(STEERING) == pytest.approx(1100, abs=COUNT_US)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_no_number_stops(value: float, which: int) -> None:
    rig = Rig()
    rig.arm()
    rig.train.act(0.0, 0.5)
    with pytest.raises(RobotFault, match="no number"):
        rig.train.act(*((value, 0.5) if which == 0 else (0.5, value)))
    assert rig.at_rest()


def test_the_esc_arms_before_anything_else() -> None:
    rig = Rig()
    with pytest.raises(RobotFault, match="arming"):
        rig.train.act(0.2, 0.4)
    rig.wait(2.9)
    with pytest.raises(RobotFault, match=r"arming for another 0\.1 s"):
        rig.train.act(0.2, 0.4)
    rig.wait(0.2)
    rig.train.act(0.2, 0.4)
    assert next(p for p in rig.chip.seen[THROTTLE] if p is not None) == pytest.approx(1500, abs=COUNT_US)


def test_a_chip_that_was_reset_is_noticed_set_up_and_armed_again() -> None:
    rig = Rig()
    rig.arm()
    rig.train.act(0.0, 0.5)
    rig.drive(0.0, 0.5, ticks=7)
    rig.chip.power_on()
    reset_s = rig.now
    with pytest.raises(RobotFault, match="reset or put to sleep"):
        rig.drive(0.0, 0.5, ticks=10)
    assert rig.chip.seen[THROTTLE][-1] is None
    assert rig.now - reset_s < 0.2
    assert rig.throttle_us is None
    with pytest.raises(RobotFault, match="arming"):
        rig.train.act(0.0, 0.5)
    assert rig.at_rest()
    assert rig.throttle_us is not None
    rig.wait(3.1)
    rig.train.act(0.0, 0.5)
    assert not rig.at_rest()


def test_a_lost_prescale_is_noticed() -> None:
    rig = Rig()
    rig.arm()
    rig.train.act(0.0, 0.1)
    rig.chip.registers[0xFE] = 0x1E
    changed_s = rig.now
    with pytest.raises(RobotFault, match="PRE_SCALE reads 30"):
        rig.drive(0.0, 0.1, ticks=100)
    assert rig.now - changed_s < 1.2
    assert rig.at_rest()


@pytest.mark.parametrize("hz", [5, 20, 50, 100])
@pytest.mark.parametrize("channels", [(1, 0), (0, 1), (14, 15), (3, 9)])
def test_a_reset_is_found_in_time_at_every_rate_and_on_every_pair_of_channels(
    hz: int, channels: tuple[int, int]
) -> None:
    config = validate_config(
        {"donkey": {"steering": {"channel": channels[0]}, "throttle": {"channel": channels[1]}}},
        source="test",
    ).donkey
    for phase in range(1 + round(hz / 5)):
        rig = Rig(config)
        rig.arm()
        rig.drive(0.1, 0.5, ticks=20 + phase, hz=hz)
        assert rig.chip.pulse_us(channels[0]) == pytest.approx(1525 + 34.5, abs=COUNT_US)
        assert rig.chip.pulse_us(channels[1]) == pytest.approx(1600, abs=COUNT_US)
        rig.chip.power_on()
        reset_s = rig.now
        with pytest.raises(RobotFault, match="reset or put to sleep"):
            rig.drive(0.1, 0.5, ticks=50, hz=hz)
        assert rig.now - reset_s <= max(0.2 - 1e-6, 1 / hz + 1e-6)
        assert rig.chip.pulse_us(channels[1]) is None


def test_a_register_that_lost_what_was_written_is_found_in_time() -> None:
    rig = Rig()
    rig.arm()
    rig.train.act(0.0, 0.5)
    held, rig.chip.write = rig.chip.write, lambda register, data: None  # type: ignore[method-assign]
    with pytest.raises(RobotFault, match=r"channel [01] reads"):
        rig.drive(0.3, 0.9, ticks=3)
    rig.chip.write = held  # type: ignore[method-assign]
    rig.train.stop()
    assert rig.at_rest()


def test_driving_off_and_stopping_are_read_back_at_once() -> None:
    rig = Rig()
    rig.arm()
    rig.drive(0.0, 0.0, ticks=2)
    held, rig.chip.write = rig.chip.write, lambda register, data: None  # type: ignore[method-assign]
    with pytest.raises(RobotFault, match="channel 0 reads"):
        rig.train.act(0.0, 0.5)
    rig.chip.write = held  # type: ignore[method-assign]
    rig.train.stop()
    rig.wait(3.1)
    rig.drive(0.0, 0.5, ticks=2)
    rig.chip.write = lambda register, data: None  # type: ignore[method-assign]
    with pytest.raises(RobotFault, match="channel 0 is not off"):  # what is tried when it will not rest
        rig.train.stop()
    rig.chip.write = held  # type: ignore[method-assign]
    rig.train.stop()
    assert rig.at_rest()


def test_a_command_is_one_write_and_the_bus_is_left_alone() -> None:
    rig = Rig()
    rig.arm()
    rig.train.act(0.0, 0.5)
    before = rig.raw.count
    for number in range(200):
        rig.wait(0.05)
        rig.train.act(number % 20 / 20, 0.5)
    # 20 a second: one write each, every second one is read back, every tenth of those is asked for its frequency, too.
    assert rig.raw.count - before == 200 + 100 + 10


def test_a_dead_bus_names_the_chip_and_stops_when_it_lives_again() -> None:
    rig = Rig()
    rig.arm()
    rig.train.act(0.0, 0.5)

    def dead(number: int) -> None:
        raise OSError(121, "Remote I/O error")

    rig.raw.trouble = dead
    with pytest.raises(RobotFault, match=r"/dev/i2c-model: write of chip 0x40, register 0x06: .*Remote I/O"):
        rig.train.act(0.0, 0.5)
    with pytest.raises(RobotFault):
        rig.train.stop()
    rig.raw.trouble = lambda number: None
    rig.train.stop()
    assert rig.at_rest()


def test_close_stops_and_then_switches_off() -> None:
    rig = Rig()
    rig.arm()
    rig.train.act(0.3, 0.9)
    rig.train.close()
    stopped, off = rig.chip.seen[THROTTLE][-2:]
    assert stopped == pytest.approx(1500, abs=COUNT_US / 2)
    assert off is None
    with pytest.raises(RobotFault, match="closed"):
        rig.train.act(0.0, 0.1)
    rig.train.stop()
    rig.train.close()


def test_a_chip_left_driving_by_a_dead_process_is_silenced_first() -> None:
    rig = Rig()
    rig.arm()
    rig.train.act(0.0, 1.0)
    bus = RetryingBus(rig.raw, "again", clock=lambda: rig.now)
    DriveTrain(bus, rig.config, clock=lambda: rig.now, sleep=rig.wait).stop()
    driving, off, stopped = rig.chip.seen[THROTTLE][-3:]
    assert driving is not None
    assert driving > 1600
    assert off is None
    assert stopped == pytest.approx(1500, abs=COUNT_US)


@pytest.mark.parametrize(("frequency", "prescale"), [(50, 121), (60, 101), (200, 30)])
def test_prescales_of_the_data_sheet(frequency: float, prescale: int) -> None:
    assert prescale_for(frequency) == prescale


def test_a_frequency_that_the_chip_cannot_make_is_refused() -> None:
    with pytest.raises(ValueError, match="frequency_hz = 10 needs a prescale of 609"):
        prescale_for(10)


def test_the_chip_refuses_a_pulse_outside_its_range() -> None:
    raw = ModelBus(at_40=Pca9685Model())
    chip = Pca9685(RetryingBus(raw, "model"), sleep=lambda seconds: None)
    chip.set_up()
    for pulse in (math.nan, 2100.0, 900.0):
        with pytest.raises(RobotFault, match="outside 1000 to 2000"):
            chip.set_pulse(0, pulse, low_us=1000, high_us=2000)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("donkey.throttle.stopped_us", 1701.0, "must be 30 us from stopped_us"),
        ("donkey.throttle", {"reverse": "direct", "stopped_us": 1701.0}, "must lie between reverse_us"),
        ("donkey.steering.centre_us", 1180.0, "must lie between left_us"),
        ("donkey.steering.channel", 0, "are both 0"),
        ("donkey.gauge.address", 0x40, "both 0x40"),
        ("donkey.gauge.go_above", 0.01, "must not be below stop_below"),
        ("donkey.gauge.full_v", 6.0, "must be above empty_v"),
        ("donkey.gamepad.stop_button", "BTN_TL", "for two things"),
    ],
)
def test_settings_that_make_no_sense_are_refused(key: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        BrainConfig().with_overrides({key: value})
