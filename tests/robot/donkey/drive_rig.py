"""A drive train on a register model of its chip, with a clock that tests move."""

from __future__ import annotations

from bus_models import ModelBus, Pca9685Model

from continuonbrain.config import DonkeyConfig
from continuonbrain.robot.donkey.drive_train import DriveTrain
from continuonbrain.robot.donkey.i2c import RetryingBus
from continuonbrain.robot.donkey.pca9685 import prescale_for

STEERING, THROTTLE = 1, 0
COUNT_US = 1e6 * (prescale_for(60) + 1) / 25e6


class Rig:
    def __init__(self, config: DonkeyConfig | None = None) -> None:
        self.now, self.bus_well = 100.0, True
        self.config = config or DonkeyConfig()
        self.chip = Pca9685Model()
        self.raw = ModelBus(at_40=self.chip)
        bus = RetryingBus(self.raw, "/dev/i2c-model", clock=lambda: self.now)
        self.train = DriveTrain(bus, self.config, clock=lambda: self.now, sleep=self.wait)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def arm(self) -> None:
        self.train.stop()
        self.wait(self.config.throttle.arming_s + 0.01)

    def drive(self, steering: float, throttle: float, *, ticks: int, hz: float = 20.0) -> None:
        for _ in range(ticks):
            self.wait(1 / hz)
            self.train.act(steering, throttle)

    @property
    def throttle_us(self) -> float | None:
        return self.chip.pulse_us(THROTTLE)

    def at_rest(self) -> bool:
        pulse = self.throttle_us
        return pulse is None or abs(pulse - self.config.throttle.stopped_us) <= COUNT_US / 2
