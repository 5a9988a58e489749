"""What a machine tells about itself: one value of one sensor, and all of them at one moment.

Nothing here reads anything. What a reading means is decided in `trainer/gate_rules.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one sensor.

    Attributes:
        value: None when it could not be read; `error` then says why.
        monotonic_s: when it was taken, seconds of CLOCK_MONOTONIC.
        source: the file or probe, for people.
        absent: the machine says clearly that it has no such sensor. Any other missing value is a fault.
        pulse: a number of the same source that has to move while the source lives (ticks of the control loop,
            `/proc/uptime`, a gauge's microvolts), for values that may rightly stay the same; None where there is none.
    """

    value: float | None
    monotonic_s: float | None
    source: str
    error: str | None = None
    absent: bool = False
    pulse: float | None = None

    @classmethod
    def missing(
        cls, source: str, error: str, *, monotonic_s: float | None = None, absent: bool = False
    ) -> Reading:
        """A reading that could not be taken, with the reason."""
        return cls(None, monotonic_s, source, error, absent)


@dataclass(frozen=True, slots=True)
class HostReadings:
    """Everything that the gates look at, taken at about the same time."""

    battery_fraction: Reading
    """0 (empty) .. 1 (full)."""
    cpu_temp_c: Reading
    """Degrees Celsius."""
    throttled: Reading
    """Raspberry Pi `get_throttled` bits: 0 under-voltage, 1 frequency capped, 2 throttled, 3 soft limit;
    bits 16-19 say that it happened since boot."""
    idle_s: Reading
    """Seconds since the robot last drove or was told to."""
    teleop_active: Reading
    """1 while a person drives, else 0."""
    docked: Reading
    """1 while the robot is plugged in, else 0."""
    load: Reading
    """One-minute load average."""
    memory_available_mib: Reading
    memory_pressure: Reading
    """Percent of the last ten seconds in which some task waited for memory (PSI `some avg10`)."""
    disk_free_mib: Reading
    io_pressure: Reading
    """Percent of the last ten seconds in which some task waited for a disk (PSI `some avg10`)."""

    @classmethod
    def all_missing(cls, source: str, error: str) -> HostReadings:
        """No sensor answered, all for the same reason."""
        return cls(**{name: Reading.missing(source, error) for name in READING_NAMES})


READING_NAMES: tuple[str, ...] = tuple(field.name for field in fields(HostReadings))


class Host(Protocol):
    """Whatever can tell how the machine is. `read` reports errors inside the readings."""

    def read(self) -> HostReadings: ...
