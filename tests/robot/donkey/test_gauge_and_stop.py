"""The battery gauge against a register model; the emergency stop with a fake pin, and gpiozero's own mock pins."""

from __future__ import annotations

import gpiozero
import pytest
from bus_models import Ina219Model, ModelBus
from gpiozero.pins.mock import MockFactory
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.config import BatteryGaugeConfig, StopButtonConfig
from continuonbrain.errors import BrainError
from continuonbrain.robot.donkey.emergency_stop import EmergencyStop, GpioStopPin, open_emergency_stop
from continuonbrain.robot.donkey.i2c import RetryingBus
from continuonbrain.robot.donkey.ina219 import Ina219, charge_of
from continuonbrain.robot.protocol import RobotFault


def _gauge(model: Ina219Model) -> Ina219:
    return Ina219(RetryingBus(ModelBus(at_41=model), "model"), BatteryGaugeConfig(), clock=lambda: 5.0)


def test_charge_is_that_of_the_battery_at_rest() -> None:
    resting, loaded = _gauge(Ina219Model(7.68, 0.0)).read(), _gauge(Ina219Model(7.58, 2.0)).read()
    assert resting.value == pytest.approx(0.5, abs=0.02)
    assert loaded.value == pytest.approx(resting.value, abs=0.01)
    assert loaded.monotonic_s == 5.0
    assert loaded.pulse != resting.pulse


@pytest.mark.parametrize(
    ("volts", "amperes", "told"),
    [(12.0, 0.0, "cannot be a battery"), (0.0, 0.0, "cannot be a battery"), (7.6, 3.2, "more current")],
)
def test_impossible_values_are_missing(volts: float, amperes: float, told: str) -> None:
    reading = _gauge(Ina219Model(volts, amperes)).read()
    assert reading.value is None
    assert told in str(reading.error)
    assert not reading.absent


def test_a_lost_configuration_and_a_missing_chip() -> None:
    model = Ina219Model()
    model.configuration = 0x0000
    gauge = _gauge(model)
    assert gauge.read().value is None
    assert gauge.read().value is not None
    nobody = Ina219(RetryingBus(ModelBus(), "model"), BatteryGaugeConfig()).read()
    assert "chip 0x41" in str(nobody.error)


@given(st.floats(5.0, 10.0), st.floats(5.0, 10.0))
def test_more_volts_are_never_less_charge(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0.0 <= charge_of(low, 6.54, 8.4) <= charge_of(high, 6.54, 8.4) <= 1.0


class FakePin:
    def __init__(self) -> None:
        self.down: bool | None = False

    def pressed(self) -> bool:
        if self.down is None:
            raise OSError(5, "Input/output error")
        return self.down

    def close(self) -> None:
        pass


def test_a_press_holds_until_a_person_releases_it() -> None:
    pin = FakePin()
    stop = EmergencyStop(pin)
    stop.check()
    pin.down = True
    assert stop.why == "the switch is pressed"
    assert not stop.release()
    pin.down = False
    with pytest.raises(RobotFault, match="emergency stop: the switch is pressed"):
        stop.check()
    assert stop.release()
    stop.check()


def test_a_pin_that_cannot_be_read_is_pressed() -> None:
    pin = FakePin()
    pin.down = None
    stop = EmergencyStop(pin)
    with pytest.raises(RobotFault, match="cannot be read: OSError"):
        stop.check()
    assert not stop.release()


def test_other_presses_and_closing_hold_too() -> None:
    stop = open_emergency_stop(StopButtonConfig())
    stop.press("the gamepad's button")
    assert stop.why == "the gamepad's button"
    assert stop.release()
    stop.close()
    assert stop.why == "closed"


@pytest.mark.parametrize("wiring", ["normally-closed", "normally-open"])
def test_gpiozero_pins(wiring: str) -> None:
    before = gpiozero.Device.pin_factory
    gpiozero.Device.pin_factory = MockFactory()
    try:
        presses: list[int] = []
        config = StopButtonConfig.model_validate({"pin": 17, "wiring": wiring})
        pin = GpioStopPin(config, lambda: presses.append(1))
        wire = gpiozero.Device.pin_factory.pin(17)
        conduct, part = wire.drive_low, wire.drive_high
        rest, press = (conduct, part) if wiring == "normally-closed" else (part, conduct)
        rest()
        assert not pin.pressed()
        press()
        assert pin.pressed()
        rest()
        assert presses
        pin.close()
    finally:
        gpiozero.Device.pin_factory = before


def test_a_tap_on_the_switch_latches_even_when_nobody_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpiozero.Device, "pin_factory", MockFactory())
    wire = gpiozero.Device.pin_factory.pin(17)
    stop = open_emergency_stop(StopButtonConfig(pin=17))  # normally closed: the wire is at ground
    assert "pressed" in stop.why  # nothing is connected yet: a broken wire
    wire.drive_low()
    assert stop.release()
    stop.check()
    wire.drive_high()
    wire.drive_low()
    with pytest.raises(RobotFault, match="the switch was pressed"):
        stop.check()
    stop.close()


def test_a_pin_that_is_in_use_is_an_error_that_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpiozero.Device, "pin_factory", MockFactory())
    first = open_emergency_stop(StopButtonConfig(pin=17))
    with pytest.raises(BrainError, match=r"donkey\.stop_button\.pin = 17 cannot be used"):
        open_emergency_stop(StopButtonConfig(pin=17))
    first.close()
