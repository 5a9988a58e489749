"""The INA219, a battery gauge on the I2C bus, after Texas Instruments' data sheet SBOS448G.

Registers (chapter 8.6), 16 bits, high byte first: 0x00 configuration (0x399F: 32 V, +-320 mV, 12 bits, both
continuously), 0x01 shunt voltage (signed, 10 uV), 0x02 bus voltage (bits 15 to 3, 4 mV; bit 0: overflow).

Charge is told by the open-circuit voltage, i.e. what the terminals would show without a load: bus voltage + current *
internal resistance. The curve is that of a lithium-polymer cell at rest, a common table of hobby packs
(https://blog.ampow.com/lipo-voltage-chart/); it is coarse (some 10 %), and flat between 20 % and 60 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from continuonbrain.config import BatteryGaugeConfig
from continuonbrain.errors import BrainError
from continuonbrain.robot.donkey.i2c import I2cBus
from continuonbrain.robot.protocol import RobotFault
from continuonbrain.robot.readings import Reading

CONFIGURATION, SHUNT_VOLTAGE, BUS_VOLTAGE = 0x00, 0x01, 0x02
CONTINUOUS = 0x399F
_OVERFLOW = 0x01
_SHUNT_LSB_V, _BUS_LSB_V = 10e-6, 4e-3
_SHUNT_LIMIT = 31_999
"""One count below the end of +-320 mV: at the end the current is unknown."""

_CELL_V = (3.27, 3.61, 3.69, 3.73, 3.77, 3.80, 3.84, 3.87, 3.95, 4.02, 4.11, 4.20)
_CELL_CHARGE = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SLACK = 0.15
"""Share of the configured range around it in which a voltage is still believed to be this battery's."""


def charge_of(open_circuit_v: float, empty_v: float, full_v: float) -> float:
    """Charge, 0 to 1, of a battery whose curve is a LiPo cell's, stretched between these two voltages."""
    share = (open_circuit_v - empty_v) / (full_v - empty_v)
    return float(np.interp(_CELL_V[0] + share * (_CELL_V[-1] - _CELL_V[0]), _CELL_V, _CELL_CHARGE))


class Ina219:
    """One gauge. `read` raises nothing: what is wrong is in the reading, and a reading that is missing closes gates."""

    def __init__(
        self, bus: I2cBus, config: BatteryGaugeConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bus, self._config, self._clock = bus, config, clock
        self.source = f"INA219 {config.address:#04x}"

    def read(self) -> Reading:
        """Battery charge, 0 to 1; the pulse is the sum of the gauge's counts, which move while it converts."""
        taken_s = self._clock()
        try:
            volts, amperes, pulse = self._measure()
        except BrainError as error:
            return Reading.missing(self.source, error.message, monotonic_s=taken_s)
        config = self._config
        open_v = volts + amperes * config.internal_ohm
        slack_v = _SLACK * (config.full_v - config.empty_v)
        if not config.empty_v - slack_v <= open_v <= config.full_v + slack_v:
            return Reading.missing(
                self.source,
                f"{open_v:.2f} V cannot be a battery of {config.empty_v:g} to {config.full_v:g} V",
                monotonic_s=taken_s,
            )
        return Reading(charge_of(open_v, config.empty_v, config.full_v), taken_s, self.source, pulse=pulse)

    def _measure(self) -> tuple[float, float, float]:
        """Volts, amperes (positive: out of the battery), pulse."""
        # After a brown-out the chip's own default is the same setting: asked for all the same, every time.
        if self._register(CONFIGURATION) != CONTINUOUS:
            self._bus.write(self._config.address, CONFIGURATION, CONTINUOUS.to_bytes(2, "big"))
            raise RobotFault(f"{self.source} had lost its configuration; the next reading will do")
        shunt, bus = self._register(SHUNT_VOLTAGE), self._register(BUS_VOLTAGE)
        shunt -= 0x10000 if shunt & 0x8000 else 0
        if bus & _OVERFLOW or abs(shunt) > _SHUNT_LIMIT:
            raise RobotFault(f"{self.source}: more current than it can measure")
        counts = bus >> 3
        volts, amperes = counts * _BUS_LSB_V, shunt * _SHUNT_LSB_V / self._config.shunt_ohm
        return volts, amperes, float(counts) + 0.618 * shunt

    def _register(self, register: int) -> int:
        return int.from_bytes(self._bus.read(self._config.address, register, 2), "big")
