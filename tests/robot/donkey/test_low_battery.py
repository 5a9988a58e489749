"""When an empty battery, or one that nobody can read, stops the car, and when it may go on."""

from __future__ import annotations

import math

from bus_models import Ina219Model, ModelBus
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.config import BatteryGaugeConfig
from continuonbrain.robot.donkey.i2c import RetryingBus
from continuonbrain.robot.donkey.ina219 import Ina219
from continuonbrain.robot.donkey.low_battery import FROZEN_S, LowBattery
from continuonbrain.robot.readings import Reading

CONFIG = BatteryGaugeConfig(stop_below=0.1, go_above=0.3, low_s=5.0, silent_s=10.0)


class Story:
    """A battery that is read once a second."""

    def __init__(self) -> None:
        self.now, self.battery = 100.0, LowBattery(CONFIG, now_s=100.0)

    def read(self, charge: float | None, seconds: int = 1, *, pulse: float | None = None) -> str:
        for _ in range(seconds):
            self.now += 1.0
            if charge is None:
                reading = Reading.missing("gauge", "Remote I/O error", monotonic_s=self.now)
            else:
                reading = Reading(charge, self.now, "gauge", pulse=self.now if pulse is None else pulse)
            self.battery.take(reading)
        return self.battery.why(self.now)


def test_a_charge_that_stays_below_stops_and_a_sag_does_not() -> None:
    story = Story()
    assert story.read(0.5, 20) == ""
    for _ in range(10):
        assert story.read(0.02, 5) == ""
        assert story.read(0.12) == ""
    assert story.read(0.09, 5) == ""
    assert "at 9%, below 10% for 5 s" in story.read(0.09)


def test_it_holds_until_a_person_and_the_charge_both_say_so() -> None:
    story = Story()
    story.read(0.05, 10)
    assert story.read(0.9, 30) != ""  # a new battery does not drive the car off by itself
    story.read(0.2)
    assert "is at 20% and must come to 30%" in story.battery.release(story.now)
    assert story.battery.why(story.now)
    story.read(0.31)
    assert story.battery.release(story.now) == ""
    assert story.battery.why(story.now) == ""


def test_a_gauge_that_fails_is_ridden_through_for_a_while_and_then_stops() -> None:
    story = Story()
    story.read(0.8, 5)
    assert story.read(None, 10) == ""
    assert "no charge of the battery could be read for 11 s: Remote I/O error" in story.read(None)
    assert "Remote I/O error" in story.battery.release(story.now)
    assert story.read(0.12) != ""
    assert story.battery.release(story.now) == ""  # it was silent, never low


def test_a_gauge_that_nobody_reads_any_more_stops_too() -> None:
    story = Story()
    story.read(0.8, 5)
    assert story.battery.why(story.now + 9.9) == ""
    assert story.battery.why(story.now + 10.1)
    assert story.battery.why(math.nan)


def test_one_that_never_answered_stops() -> None:
    assert Story().read(None, 10) == ""
    assert Story().read(None, 11)


def test_counts_that_stand_still_are_no_reading() -> None:
    story = Story()
    assert story.read(0.8, int(FROZEN_S) + 1, pulse=5.0) == ""
    assert "its counts have stood still" in story.read(0.8, 12, pulse=5.0)


def test_a_low_charge_outranks_silence() -> None:
    story = Story()
    story.read(None, 12)
    story.read(0.05, 8)
    story.read(0.2)
    assert "must come to 30%" in story.battery.release(story.now)


def test_silence_in_between_does_not_forget_that_it_was_low() -> None:
    story = Story()
    story.read(0.05, 3)
    story.read(None, 4)
    assert "below 10%" in story.read(0.05)


def test_the_chip_itself_runs_empty_under_load() -> None:
    """Register model -> gauge -> rule: the voltage at the terminals is low by the load alone, then by the charge."""
    model, now = Ina219Model(7.9, 2.5), [0.0]
    gauge = Ina219(
        RetryingBus(ModelBus(at_41=model), "model"),
        BatteryGaugeConfig(internal_ohm=0.2),
        clock=lambda: now[0],
    )
    battery = LowBattery(BatteryGaugeConfig(), now_s=0.0)
    for second in range(30):
        now[0] = float(second)
        model.volts, model.amperes = 7.1, 2.5 + second / 100  # 7.6 V open
        battery.take(gauge.read())
        assert battery.why(now[0]) == ""
    for second in range(30, 40):
        now[0] = float(second)
        model.volts, model.amperes = 6.9, 0.5 + second / 100  # 7.1 V open
        battery.take(gauge.read())
    assert "below 5%" in battery.why(now[0])


charges = st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.09, 0.1, math.nan, math.inf]))


@given(st.lists(st.tuples(charges, st.booleans()), max_size=80))
def test_it_never_lets_a_car_drive_that_was_low_for_long(steps: list[tuple[float | None, bool]]) -> None:
    story, low, good_s = Story(), 0, 100.0
    for charge, person in steps:
        why = story.read(charge)
        if charge is not None and math.isfinite(charge):
            low = low + 1 if charge < CONFIG.stop_below else 0
            good_s = story.now
        if low > CONFIG.low_s or story.now - good_s > CONFIG.silent_s:
            assert why
        if person and why and story.battery.release(story.now) == "":
            assert charge is None or not charge < CONFIG.stop_below
            low = 0


def test_zero_never_stops_for_a_low_charge() -> None:
    battery = LowBattery(BatteryGaugeConfig(stop_below=0.0), now_s=0.0)
    for second in range(60):
        battery.take(Reading(0.0, second + 1.0, "gauge", pulse=float(second)))
    assert battery.why(61.0) == ""
