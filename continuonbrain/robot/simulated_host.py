"""A machine that is not there: settable values for the simulator preset, the demo and tests."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

from continuonbrain.errors import BrainError
from continuonbrain.robot.readings import READING_NAMES, Clock, Host, HostReadings, Reading

MACHINE_READINGS: tuple[str, ...] = (
    "load",
    "memory_available_mib",
    "memory_pressure",
    "disk_free_mib",
    "io_pressure",
)
"""What a simulated robot's machine really has: the machine that simulates it."""

_JITTER = {"cpu_temp_c": -0.55, "memory_available_mib": 1.5, "load": -0.01}
"""What a calm machine's values move by from one look to the next, in steps: of the Pi's sensor, a few hundred pages, a
hundredth."""


class SimulatedHost:
    """A host with settable values; fresh at every read unless frozen. Starts as an idle, charged robot.

    Idle time grows with the clock from what was set. jitter: heat, load and free memory move a little, as real ones
    do, and never past what was set (towards cool, idle and more memory); False gives what was set.
    """

    def __init__(self, *, clock: Clock = time.monotonic, jitter: bool = True) -> None:
        self._clock = clock
        self._frozen: tuple[float, int] | None = None
        self._reads = 0
        self._chance = random.Random(0) if jitter else None
        self._errors: dict[str, str] = {}
        self._idle_set_s = clock()
        self._values: dict[str, float] = {
            "battery_fraction": 0.9,
            "cpu_temp_c": 50.0,
            "throttled": 0.0,
            "idle_s": 3600.0,
            "teleop_active": 0.0,
            "docked": 1.0,
            "load": 0.1,
            "memory_available_mib": 4096.0,
            "memory_pressure": 0.0,
            "disk_free_mib": 16384.0,
            "io_pressure": 0.0,
        }

    def set(self, **values: float) -> None:
        """Set values by reading name. Any number is taken, also an implausible one or NaN."""
        for name, value in values.items():
            self._known(name)
            self._values[name] = float(value)
            self._errors.pop(name, None)
            if name == "idle_s":
                self._idle_set_s = self._clock()

    def fail(self, name: str, error: str = "simulated sensor failure") -> None:
        """Make one sensor fail until it is set again."""
        self._known(name)
        self._errors[name] = error

    def freeze(self) -> None:
        """Stop taking new readings: from now on they age."""
        self._frozen = (self._clock(), self._reads)

    def thaw(self) -> None:
        self._frozen = None

    def read(self) -> HostReadings:
        if self._frozen is None:
            self._reads += 1
            now_s, pulse = self._clock(), self._reads
        else:
            now_s, pulse = self._frozen
        return HostReadings(
            **{
                name: Reading.missing("simulated", self._errors[name], monotonic_s=now_s)
                if name in self._errors
                else Reading(self._value(name, now_s), now_s, "simulated", pulse=float(pulse))
                for name in READING_NAMES
            }
        )

    def _value(self, name: str, now_s: float) -> float:
        value = self._values[name]
        if name == "idle_s":
            return value + max(0.0, now_s - self._idle_set_s)
        if name in _JITTER and self._chance is not None and self._frozen is None:
            # Three steps and not two: twenty looks in a row that are the same are no accident.
            return value + _JITTER[name] * self._chance.randrange(3)
        return value

    @staticmethod
    def _known(name: str) -> None:
        if name not in READING_NAMES:
            raise BrainError(
                f"SimulatedHost: no reading is called {name!r}",
                remedy=f"use one of {', '.join(READING_NAMES)}",
            )


class MixedHost:
    """The readings of `host`, but those of `names` from `machine`."""

    def __init__(self, host: Host, machine: Host, names: Sequence[str] = MACHINE_READINGS) -> None:
        self._host, self._machine, self._names = host, machine, tuple(names)

    def read(self) -> HostReadings:
        own = self._machine.read()
        return replace(self._host.read(), **{name: getattr(own, name) for name in self._names})
