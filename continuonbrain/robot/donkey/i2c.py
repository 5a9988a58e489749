"""An I2C bus: registers of chips, with a bounded number of tries and a deadline."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from continuonbrain.errors import BrainError, installing
from continuonbrain.robot.protocol import RobotFault

_T = TypeVar("_T")

_I2C_TIMEOUT = 0x0702
"""ioctl of linux/i2c-dev.h: how long the adapter waits, in units of 10 ms."""
_ADAPTER_TIMEOUT_10MS = 2


class I2cBus(Protocol):
    """Registers of the chips on one bus. Both raise `RobotFault` naming bus, address and register."""

    def write(self, address: int, register: int, data: bytes) -> None:
        """Write these bytes from this register on, as one transaction."""

    def read(self, address: int, register: int, n: int) -> bytes:
        """Read n bytes from this register on, as one transaction."""


class RawBus(Protocol):
    """What is asked of smbus2.SMBus. Both raise OSError."""

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> None: ...

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]: ...

    def close(self) -> None: ...


class RetryingBus:
    """A bus that tries again for a while, for threads to share.

    Args:
        raw: the bus below.
        name: for errors, e.g. "/dev/i2c-1".
        tries: at most so many for one transaction.
        deadline_s: no try begins later than this after the call, seconds; neither does waiting for another thread's
            transaction last longer. A hung adapter adds its own timeout (20 ms, see `open_bus`).
    """

    def __init__(
        self,
        raw: RawBus,
        name: str,
        *,
        tries: int = 3,
        deadline_s: float = 0.02,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._raw, self.name = raw, name
        self._tries, self._deadline_s, self._clock = tries, deadline_s, clock
        self._lock = threading.Lock()

    def write(self, address: int, register: int, data: bytes) -> None:
        """See `I2cBus.write`."""
        self._try(
            "write",
            address,
            register,
            lambda: self._raw.write_i2c_block_data(address, register, list(data)),
        )

    def read(self, address: int, register: int, n: int) -> bytes:
        """See `I2cBus.read`."""
        answer = self._try(
            "read", address, register, lambda: bytes(self._raw.read_i2c_block_data(address, register, n))
        )
        if len(answer) != n:
            raise self._fault("read", address, register, f"gave {len(answer)} bytes instead of {n}")
        return answer

    def close(self) -> None:
        """Release the device file."""
        self._raw.close()

    def _try(self, what: str, address: int, register: int, transact: Callable[[], _T]) -> _T:
        until = self._clock() + self._deadline_s
        if not self._lock.acquire(timeout=self._deadline_s):
            raise self._fault(what, address, register, f"the bus was busy for {self._deadline_s:g} s")
        try:
            why: object = "no time was left"
            for _ in range(self._tries):
                try:
                    return transact()
                except (OSError, ValueError) as error:  # ValueError: bytes out of range, from a broken driver
                    why = error
                if self._clock() >= until:
                    break
        finally:
            self._lock.release()
        raise self._fault(what, address, register, why)

    def _fault(self, what: str, address: int, register: int, why: object) -> RobotFault:
        return RobotFault(
            f"{self.name}: {what} of chip {address:#04x}, register {register:#04x}: {why}",
            remedy="check that chip's wires and power; i2cdetect -y shows who answers",
        )


def asked_chip(bus: I2cBus, address: int, register: int, n: int) -> str:
    """ "" when a chip answers at this address, else what went wrong, in words. Only reads: nothing that runs is
    disturbed but for the time of one transaction."""
    try:
        bus.read(address, register, n)
    except RobotFault as fault:
        return fault.message
    return ""


def open_bus(number: int) -> RetryingBus:
    """The bus /dev/i2c-NUMBER.

    Raises:
        BrainError: smbus2 is not installed, or there is no such bus or no right to it.
    """
    name = f"/dev/i2c-{number}"
    try:
        from smbus2 import SMBus
    except ModuleNotFoundError as error:
        raise BrainError(
            "the car's chips need the Python module smbus2, which is not installed", remedy=installing("pi")
        ) from error
    try:
        raw = SMBus(number)
    except OSError as error:
        raise BrainError(
            f"{name} cannot be opened: {error.strerror or error}",
            remedy="enable I2C (raspi-config, or dtparam=i2c_arm=on) and add this user to the group i2c",
        ) from error
    # The kernel's second is twenty control ticks: a stuck bus must be known in one. An adapter that does not know this
    # call keeps its own timeout.
    descriptor = raw.fd
    if descriptor is not None:
        with suppress(OSError):
            fcntl.ioctl(descriptor, _I2C_TIMEOUT, _ADAPTER_TIMEOUT_10MS)
    return RetryingBus(raw, name)
