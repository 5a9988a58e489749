"""The machine under a donkey car: this Linux computer, with the car's own gauge and what its control loop knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from continuonbrain.robot.donkey.ina219 import Ina219
from continuonbrain.robot.donkey.low_battery import LowBattery
from continuonbrain.robot.linux_host import LinuxHost
from continuonbrain.robot.readings import Host, HostReadings, Reading

_SOURCE = "control loop"


class GaugedHost:
    """A machine's readings, with the battery's from somebody who reads a gauge. Where that one says clearly that there
    is no gauge, the machine's own power supplies tell."""

    def __init__(self, machine: Host, gauge: Host) -> None:
        self._machine, self._gauge = machine, gauge

    def read(self) -> HostReadings:
        """See `Host.read`."""
        own, told = self._machine.read(), self._gauge.read().battery_fraction
        return own if told.absent else replace(own, battery_fraction=told)


class DonkeyMachine:
    """What the control process tells of the machine. `alive` is called by the control loop, `read` by another thread.

    gauge: None where the car has none. watch: is given every reading of it.
    """

    def __init__(
        self,
        disk_path: Path,
        gauge: Ina219 | None,
        *,
        watch: LowBattery | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gauge, self._watch, self._clock = gauge, watch, clock
        self._seen_s = self._drove_s = clock()
        self._teleop, self._ticks = False, 0
        self._linux = LinuxHost(disk_path=disk_path, robot_state=_Told(self._told), clock=clock)

    def alive(self, *, driving: bool, teleop: bool = False) -> None:
        """A sign of life: the loop ticked. driving: the robot is in use (teleop: by a person)."""
        self._seen_s = self._clock()
        self._ticks += 1
        self._teleop = teleop
        if driving:
            self._drove_s = self._seen_s

    def read(self) -> HostReadings:
        """The readings as they are now."""
        # The gauge first: a disk or a driver that hangs must not keep the car from knowing its battery.
        charge = None if self._gauge is None else self._gauge.read()
        if charge is not None and self._watch is not None:
            self._watch.take(charge)
        own = self._linux.read()
        return own if charge is None else replace(own, battery_fraction=charge)

    def _told(self) -> HostReadings:
        seen_s, pulse = self._seen_s, float(self._ticks)
        none = HostReadings.all_missing(_SOURCE, "the car does not feel it")
        return replace(
            none,
            idle_s=Reading(seen_s - self._drove_s, seen_s, _SOURCE, pulse=pulse),
            teleop_active=Reading(float(self._teleop), seen_s, _SOURCE, pulse=pulse),
            docked=Reading.missing(_SOURCE, "the car feels no dock", absent=True),
        )


class _Told:
    """A host of one function."""

    def __init__(self, read: Callable[[], HostReadings]) -> None:
        self.read = read
