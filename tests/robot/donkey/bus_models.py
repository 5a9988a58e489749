"""Register models of the chips, below what our code calls: the methods of smbus2.SMBus."""

from __future__ import annotations

from collections.abc import Callable

MODE1, PRE_SCALE, ALL_LED = 0x00, 0xFE, 0xFA


class Pca9685Model:
    """After NXP's data sheet: power-on values, auto-increment only when AI is set, PRE_SCALE only while SLEEP is set,
    ALL_LED writes through to every channel and reads as 0, full off wins over full on."""

    def __init__(self, oscillator_hz: float = 25e6) -> None:
        self.oscillator_hz = oscillator_hz
        self.seen: dict[int, list[float | None]] = {}
        self.power_on()

    def power_on(self) -> None:
        self.registers = bytearray(256)
        self.registers[MODE1], self.registers[0x01], self.registers[PRE_SCALE] = 0x11, 0x04, 0x1E
        for channel in range(16):
            self.registers[0x06 + 4 * channel + 3] = 0x10
        for channel in range(16):
            self._note(channel)

    def write(self, register: int, data: list[int]) -> None:
        for value in data:
            self._store(register, value)
            if self.registers[MODE1] & 0x20:
                register = (register + 1) % 256
        # The outputs change at the transaction's end.
        for channel in range(16):
            self._note(channel)

    def read(self, register: int, length: int) -> list[int]:
        answer = []
        for _ in range(length):
            answer.append(0 if ALL_LED <= register < PRE_SCALE else self.registers[register])
            if self.registers[MODE1] & 0x20:
                register = (register + 1) % 256
        return answer

    def _store(self, register: int, value: int) -> None:
        if register == PRE_SCALE:
            if self.registers[MODE1] & 0x10:
                self.registers[PRE_SCALE] = max(3, value)
        elif ALL_LED <= register < PRE_SCALE:
            for channel in range(16):
                self.registers[0x06 + 4 * channel + register - ALL_LED] = value
        else:
            self.registers[register] = value & 0x7F if register == MODE1 else value

    def pulse_us(self, channel: int) -> float | None:
        """What a servo sees now: None for no pulses, infinity for always on."""
        on_l, on_h, off_l, off_h = self.registers[0x06 + 4 * channel : 0x0A + 4 * channel]
        if self.registers[MODE1] & 0x10 or off_h & 0x10:
            return None
        if on_h & 0x10:
            return float("inf")
        counts = ((off_l | off_h << 8) - (on_l | on_h << 8)) % 4096
        return counts * (self.registers[PRE_SCALE] + 1) / self.oscillator_hz * 1e6

    def _note(self, channel: int) -> None:
        pulses = self.seen.setdefault(channel, [])
        now = self.pulse_us(channel)
        if not pulses or pulses[-1] != now:
            pulses.append(now)


class Ina219Model:
    """After TI's data sheet: three 16-bit registers, high byte first."""

    def __init__(self, volts: float = 7.8, amperes: float = 0.5, shunt_ohm: float = 0.1) -> None:
        self.configuration = 0x399F
        self.volts, self.amperes, self.shunt_ohm, self.overflow = volts, amperes, shunt_ohm, False

    def write(self, register: int, data: list[int]) -> None:
        if register == 0:
            self.configuration = data[0] << 8 | data[1]

    def read(self, register: int, length: int) -> list[int]:
        value = {
            0: self.configuration,
            1: round(self.amperes * self.shunt_ohm / 10e-6) & 0xFFFF,
            2: (round(self.volts / 4e-3) << 3) | int(self.overflow),
        }[register]
        return list(value.to_bytes(2, "big"))[:length]


class ModelBus:
    """The chips on one bus. `trouble` is asked before every transaction, with its number, and may raise OSError."""

    def __init__(self, **chips: Pca9685Model | Ina219Model) -> None:
        self.chips = {int(name.removeprefix("at_"), 16): chip for name, chip in chips.items()}
        self.count = 0
        self.trouble: Callable[[int], None] = lambda number: None

    def _chip(self, address: int) -> Pca9685Model | Ina219Model:
        self.count += 1
        self.trouble(self.count)
        if address not in self.chips:
            raise OSError(121, "Remote I/O error")
        return self.chips[address]

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> None:
        self._chip(i2c_addr).write(register, data)

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        return self._chip(i2c_addr).read(register, length)

    def close(self) -> None:
        pass
