"""The PCA9685, a PWM chip of 16 channels, after NXP's data sheet "PCA9685", rev. 4 (16 April 2015).

Chapters used: 7.3.1 MODE1, 7.3.3 LEDn_ON/LEDn_OFF (12-bit counts; bit 4 of LEDn_OFF_H: full off, wins over full on),
7.3.4 ALL_LED, 7.3.5 PRE_SCALE:

    prescale = round(oscillator / (4096 * frequency)) - 1, 3 to 255, writable only while SLEEP is set

One count then lasts (prescale + 1) / oscillator seconds. The rounding makes the true frequency differ a little from the
wished one, so that pulses are counted in true counts. After SLEEP is cleared the oscillator needs 500 us.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from continuonbrain.robot.donkey.i2c import I2cBus
from continuonbrain.robot.protocol import RobotFault

MODE1, MODE2, LED0_ON_L, ALL_LED_OFF_H, PRE_SCALE = 0x00, 0x01, 0x06, 0xFD, 0xFE
AUTO_INCREMENT, SLEEP, RESTART = 0x20, 0x10, 0x80
OUTDRV = 0x04
"""Of MODE2: totem pole outputs, which a servo's input needs."""
FULL_OFF = 0x10
COUNTS = 4096
_AWAKE = AUTO_INCREMENT
_OSCILLATOR_S = 0.001
_REGISTERS_PER_CHANNEL = 4
_LONGEST_BLOCK = 32
"""Bytes in one transaction (SMBus)."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """A pulse and the range that it is kept in, also when it is rounded to counts; microseconds."""

    us: float
    low_us: float
    high_us: float


def prescale_for(frequency_hz: float, oscillator_hz: float = 25e6) -> int:
    """The value of PRE_SCALE for a frequency. Raises ValueError where the chip cannot make it."""
    prescale = round(oscillator_hz / (COUNTS * frequency_hz)) - 1
    if not 3 <= prescale <= 255:
        raise ValueError(f"frequency_hz = {frequency_hz:g} needs a prescale of {prescale}, outside 3 to 255")
    return prescale


def _register(channel: int) -> int:
    """The first of a channel's registers."""
    return LED0_ON_L + _REGISTERS_PER_CHANNEL * channel


def _neighbours(channels: Iterable[int]) -> list[list[int]]:
    """Ascending channels, in runs that one transaction can write."""
    blocks: list[list[int]] = []
    for channel in channels:
        fits = blocks and len(blocks[-1]) < _LONGEST_BLOCK // _REGISTERS_PER_CHANNEL
        if fits and channel == blocks[-1][-1] + 1:
            blocks[-1].append(channel)
        else:
            blocks.append([channel])
    return blocks


class Pca9685:
    """One chip. Every method raises `RobotFault` when the chip does not answer, or not as it must.

    Args:
        bus, address: where it is.
        frequency_hz: of all channels.
        oscillator_hz: of this chip, nominally 25 MHz.
        sleep: waits, seconds.
    """

    def __init__(
        self,
        bus: I2cBus,
        address: int = 0x40,
        *,
        frequency_hz: float = 60.0,
        oscillator_hz: float = 25e6,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bus, self._address, self._sleep = bus, address, sleep
        self._prescale = prescale_for(frequency_hz, oscillator_hz)
        self.count_us = (self._prescale + 1) / oscillator_hz * 1e6
        """How long one count lasts, microseconds."""
        self._sent: dict[int, bytes] = {}
        """What the registers of each channel hold that was set since all were off."""

    def set_up(self) -> None:
        """Bring the chip from any state to: awake, at our frequency, every channel off. Takes about a millisecond."""
        self.all_off()
        self._write(MODE1, SLEEP)
        self._write(PRE_SCALE, self._prescale)
        self._write(MODE2, OUTDRV)
        # The channels are full off: no RESTART of what they did before, ever.
        self._write(MODE1, _AWAKE)
        self._sleep(_OSCILLATOR_S)
        self.check()

    def check(self) -> None:
        """Raises `RobotFault` when the chip was reset or put to sleep behind our back: it then makes no pulses, or
        wrong ones. A brown-out does that."""
        self._need_awake(self._read(MODE1))
        self.check_prescale()

    def check_prescale(self) -> None:
        """Raises `RobotFault` when the frequency is no longer ours."""
        prescale = self._read(PRE_SCALE)
        if prescale != self._prescale:
            raise self._fault(f"PRE_SCALE reads {prescale} instead of {self._prescale}: it was reset")

    def set_pulses(self, pulses: Mapping[int, Pulse]) -> None:
        """Make these pulses, by channel: one transaction for channels that are neighbours. `verify` reads them back.

        Raises `RobotFault`, before anything is sent, for a pulse that is no number, or not inside its range.
        """
        wanted = {channel: self._counted(channel, pulse) for channel, pulse in sorted(pulses.items())}
        for block in _neighbours(wanted):
            self._bus.write(self._address, _register(block[0]), b"".join(wanted[n] for n in block))
            self._sent |= {channel: wanted[channel] for channel in block}

    def verify(self) -> None:
        """Read back that the chip is awake and holds what was sent: one transaction where the channels are low ones.
        Raises `RobotFault` when it was reset, put to sleep, or holds something else."""
        end = _register(max(self._sent, default=-1) + 1)
        if end <= _LONGEST_BLOCK:
            # A chip that was reset does not increment: the block is then MODE1 again and again.
            held = self._bus.read(self._address, MODE1, end)
            self._need_awake(held[MODE1])
            for channel in self._sent:
                self._need_sent(channel, held[_register(channel) : _register(channel + 1)])
            return
        self._need_awake(self._read(MODE1))
        for channel in self._sent:
            self._need_sent(
                channel, self._bus.read(self._address, _register(channel), _REGISTERS_PER_CHANNEL)
            )

    def set_pulse(self, channel: int, pulse_us: float, *, low_us: float, high_us: float) -> None:
        """One pulse, kept between low_us and high_us, and read back. Raises as `set_pulses` and `verify` do."""
        self.set_pulses({channel: Pulse(pulse_us, low_us, high_us)})
        self.verify()

    def registers(self, channel: int, pulse: Pulse) -> tuple[int, bytes]:
        """The first register of a channel, and what its four hold for this pulse. Raises as `set_pulses` does."""
        return _register(channel), self._counted(channel, pulse)

    def is_off(self, channel: int) -> bool:
        """Whether a channel makes no pulses because it was switched off."""
        return bool(self._read(_register(channel) + 3) & FULL_OFF)

    def all_off(self) -> None:
        """No pulses on any channel. Single-byte writes only, so that it works whatever state the chip is in."""
        self._sent.clear()
        self._write(ALL_LED_OFF_H, FULL_OFF)
        for channel in (0, 15):
            if not self.is_off(channel):
                raise self._fault(f"channel {channel} is not off after all channels were switched off")

    def _counted(self, channel: int, pulse: Pulse) -> bytes:
        """The four registers of a channel that makes this pulse."""
        # A comparison that NaN fails.
        if not pulse.low_us <= pulse.us <= pulse.high_us:
            raise self._fault(
                f"channel {channel}: a pulse of {pulse.us} us is outside {pulse.low_us:g} to {pulse.high_us:g}"
            )
        low, high = math.ceil(pulse.low_us / self.count_us), math.floor(pulse.high_us / self.count_us)
        count = min(high, max(low, round(pulse.us / self.count_us)))
        if not 0 < count < COUNTS:
            raise self._fault(
                f"channel {channel}: {pulse.us:g} us are {count} counts, outside 1 to {COUNTS - 1}"
            )
        return bytes((0, 0, count & 0xFF, count >> 8))

    def _need_awake(self, mode: int) -> None:
        if mode & ~RESTART != _AWAKE:
            raise self._fault(
                f"MODE1 reads {mode:#04x} instead of {_AWAKE:#04x}: it was reset or put to sleep"
            )

    def _need_sent(self, channel: int, held: bytes) -> None:
        if held != self._sent[channel]:
            raise self._fault(f"channel {channel} reads {held.hex()} instead of {self._sent[channel].hex()}")

    def _write(self, register: int, value: int) -> None:
        self._bus.write(self._address, register, bytes((value,)))

    def _read(self, register: int) -> int:
        return self._bus.read(self._address, register, 1)[0]

    def _fault(self, why: str) -> RobotFault:
        return RobotFault(
            f"PWM chip {self._address:#04x}: {why}",
            remedy="check the chip's power: servo and ESC must not sag it",
        )
