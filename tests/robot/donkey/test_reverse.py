"""Reverse on an ESC that brakes first: a model of it behind the register model of the PWM chip."""

from __future__ import annotations

import math

import pytest
from bus_models import ModelBus, Pca9685Model
from hypothesis import given, settings
from hypothesis import strategies as st

from continuonbrain.config import DonkeyConfig, validate_config
from continuonbrain.robot.donkey.drive_train import DriveTrain
from continuonbrain.robot.donkey.i2c import RetryingBus
from continuonbrain.robot.donkey.reverse import DoubleTapReverse, reverse_of
from continuonbrain.robot.protocol import RobotFault

TICK_S = 0.05


class BrakingEsc:
    """An ESC with forward, brake and reverse. It sees a pulse only beyond its dead band, and believes a change of zone
    only after `filter_s`. Below neutral it brakes, unless it braked or went back before and then rested."""

    def __init__(self, stopped_us: float, *, dead_us: float = 35.0, filter_s: float = 0.1) -> None:
        self.stopped_us, self.dead_us, self.filter_s = stopped_us, dead_us, filter_s
        self.doing = "rest"
        self._zone = self._last = 0
        self._since_s = 0.0

    def sees(self, pulse_us: float | None, now_s: float) -> str:
        off_us = 0.0 if pulse_us is None else pulse_us - self.stopped_us
        zone = 0 if abs(off_us) <= self.dead_us else (1 if off_us > 0 else -1)
        if zone != self._zone:
            self._zone, self._since_s = zone, now_s
        if now_s - self._since_s < self.filter_s:
            return self.doing  # not believed yet
        if zone == 0:
            if self.doing in ("brake", "reverse"):
                self._last = -1
            self.doing = "rest"
        elif zone > 0:
            self.doing, self._last = "forward", 1
        elif self.doing == "rest":
            self.doing = "reverse" if self._last < 0 else "brake"
        elif self.doing == "forward":
            self.doing = "brake"
        return self.doing


class Rig:
    def __init__(self, **throttle: object) -> None:
        self.config: DonkeyConfig = validate_config(
            {"donkey": {"throttle": {"reverse": "double-tap", **throttle}}}, source="test"
        ).donkey
        self.now, self.chip = 100.0, Pca9685Model()
        self.bus = ModelBus(at_40=self.chip)
        self.train = DriveTrain(
            RetryingBus(self.bus, "model", clock=lambda: self.now),
            self.config,
            clock=lambda: self.now,
            sleep=lambda seconds: None,
        )
        self.esc = BrakingEsc(self.config.throttle.stopped_us)
        self.train.stop()
        self.now += 3.1

    def drive(self, throttle: float, ticks: int = 1) -> list[str]:
        done = []
        for _ in range(ticks):
            self.train.act(0.0, throttle)
            # The ESC sees pulses all the time, not only when a command comes.
            for _ in range(5):
                done.append(self.esc.sees(self.chip.pulse_us(0), self.now))
                self.now += TICK_S / 5
        return done


def test_forward_brake_rest_reverse() -> None:
    rig = Rig()
    assert rig.drive(0.5, 10)[-1] == "forward"
    done = rig.drive(-0.5, 20)
    assert list(dict.fromkeys(done)) == ["forward", "brake", "rest", "reverse"]
    assert rig.drive(0.0, 10)[-1] == "rest"
    assert "brake" not in rig.drive(-0.5, 10)  # straight back: it has not been forward since
    assert rig.esc.doing == "reverse"
    assert rig.drive(0.5, 10)[-1] == "forward"


def test_without_the_second_tap_that_esc_only_brakes() -> None:
    """The control: the model of the ESC tells the two apart."""
    rig = Rig(reverse="direct")
    rig.drive(0.5, 10)
    assert set(rig.drive(-0.5, 40)[10:]) == {"brake"}


def test_a_tap_that_was_let_go_too_early_begins_anew() -> None:
    rig = Rig()
    rig.drive(0.5, 10)
    rig.drive(-0.5, 2)
    rig.drive(0.0, 4)
    done = rig.drive(-0.5, 20)
    assert done[-1] == "reverse"
    assert "brake" in done


def test_the_brake_is_no_stronger_than_what_was_commanded() -> None:
    rig = Rig()
    rig.drive(-0.4, 40)
    assert min(p for p in rig.chip.seen[0] if p is not None) == pytest.approx(1500 - 0.4 * 300, abs=5)


def test_a_stop_in_the_middle_rests() -> None:
    for ticks in range(1, 14):
        rig = Rig()
        rig.drive(0.5, 10)
        rig.drive(-0.5, ticks)
        rig.train.stop()
        assert rig.chip.pulse_us(0) == pytest.approx(1500, abs=5)
        assert rig.drive(-0.5, 30)[-1] == "reverse"


def test_a_tap_that_a_stop_cut_short_begins_anew() -> None:
    rig = Rig()
    rig.drive(0.5, 10)
    rig.drive(-0.5, 1)
    rig.train.stop()
    for _ in range(50):  # the ESC sees rest for a second; it has never seen the tap
        rig.now += 0.02
        rig.esc.sees(rig.chip.pulse_us(0), rig.now)
    assert rig.drive(-0.5, 30)[-1] == "reverse"


def test_a_reset_of_the_chip_begins_with_the_brake_again() -> None:
    rig = Rig()
    rig.drive(-0.5, 30)
    rig.chip.power_on()
    with pytest.raises(RobotFault, match="reset"):
        rig.drive(-0.5, 10)
    rig.train.stop()
    rig.now += 3.1
    rig.esc = BrakingEsc(1500.0)
    assert rig.drive(-0.5, 30)[-1] == "reverse"


def test_what_an_esc_might_not_see_is_rest_and_what_is_no_number_is_refused() -> None:
    reverse = reverse_of(Rig(reverse_us=1400.0).config.throttle)  # 40 of 100 us
    assert reverse.step(-0.39, 0.0) == 0.0
    assert reverse.step(-0.41, 0.0) == -0.41
    assert math.isnan(reverse.step(math.nan, 0.0))
    rig = Rig()
    with pytest.raises(RobotFault, match="no number"):
        rig.drive(math.nan)


commands = st.lists(
    st.tuples(st.one_of(st.floats(-1, 1), st.sampled_from([-1.0, -0.5, 0.0, 0.5])), st.integers(1, 12)),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(commands)
def test_it_never_goes_back_unasked_and_goes_back_when_asked_for_long(story: list[tuple[float, int]]) -> None:
    rig = Rig()
    for throttle, ticks in story:
        done = rig.drive(throttle, ticks)[10:]  # after the ESC's own filter
        if throttle >= 0:
            assert "reverse" not in done
        assert throttle > 0 or "forward" not in done
    assert rig.drive(-0.8, 20)[-1] == "reverse"


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 0.4)), max_size=60))
def test_what_is_sent_is_the_command_or_rest(story: list[tuple[float, float]]) -> None:
    reverse, now = DoubleTapReverse(0.15, 0.1), 0.0
    for throttle, wait in story:
        now += wait
        assert reverse.step(throttle, now) in (throttle, 0.0)
        if throttle > 0:
            assert reverse.step(throttle, now) == throttle
