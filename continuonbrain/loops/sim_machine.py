"""The machine under a simulated robot: it gets warm and its battery goes down, as on a real one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from continuonbrain.robot.host import MACHINE_READINGS, READING_NAMES, HostReadings, LinuxHost, SimulatedHost

_DRAIN_PER_S = 0.0006
_CHARGE_PER_S = 0.004
_COOL_C, _WARM_C, _HEAT_SHARE_PER_S = 46.0, 58.0, 0.05


class SimulatedMachine:
    """Battery, heat and activity of a simulated robot; memory and disk are this machine's own.

    The battery empties in about half an hour of driving and charges while parked, on its dock; the processor warms
    up while driving. Every simulated reading's pulse is the number of ticks. `alive` is called by the control loop,
    `read` by the status thread.
    """

    def __init__(self, disk_path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._machine = LinuxHost(disk_path=disk_path, clock=clock, names=MACHINE_READINGS)
        self._seen_s = self._drove_s = self._moved_s = clock()
        self._host = SimulatedHost(clock=lambda: self._seen_s)
        self._battery, self._temperature = 0.9, 50.0
        self._driving = False
        self._teleop = False
        self._ticks = 0

    def alive(self, *, driving: bool, teleop: bool = False) -> None:
        """A sign of life: the loop ticked. driving: the robot is in use (teleop: by a person)."""
        self._seen_s = self._clock()
        self._ticks += 1
        self._driving, self._teleop = driving, teleop
        if driving:
            self._drove_s = self._seen_s

    def read(self) -> HostReadings:
        """The readings as they are now."""
        now = self._clock()
        elapsed, self._moved_s = now - self._moved_s, now
        change = -_DRAIN_PER_S if self._driving else _CHARGE_PER_S
        self._battery = min(1.0, max(0.05, self._battery + change * elapsed))
        goal = _WARM_C if self._driving else _COOL_C
        self._temperature += (goal - self._temperature) * min(1.0, _HEAT_SHARE_PER_S * elapsed)
        self._host.set(
            battery_fraction=self._battery,
            cpu_temp_c=self._temperature,
            idle_s=self._seen_s - self._drove_s,
            teleop_active=float(self._teleop),
            docked=float(not self._driving),
        )
        own, told, pulse = self._machine.read(), self._host.read(), float(self._ticks)
        return HostReadings(
            **{
                name: getattr(own, name)
                if name in MACHINE_READINGS
                else replace(getattr(told, name), pulse=pulse)
                for name in READING_NAMES
            }
        )
