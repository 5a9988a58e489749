"""A Linux machine, read from `/sys` and `/proc` below a root folder.

Each reading is asked for with a time budget (`patience.py`), and comes with a pulse where its value may rightly stay
the same: `/proc/uptime` for what `/proc` tells, a gauge's smallest units for the battery, the heat of any zone for
other files of `/sys`. They show a frozen copy and a dead mount; a firmware that answers 0 for ever they cannot show.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from pathlib import Path

from continuonbrain.robot.disk_probe import DiskProbe, StatVfs
from continuonbrain.robot.patience import Patience
from continuonbrain.robot.readings import READING_NAMES, Clock, Host, HostReadings, Reading

_ROBOT = "robot"
_ROBOT_READINGS = ("idle_s", "teleop_active")
_UNITS = ("voltage_now", "current_now", "charge_now", "energy_now")
"""Of a battery gauge: counts of microvolts and the like, which move with every conversion."""
_EXTERNAL = ("Mains", "USB", "Wireless")
_CHARGED = ("Charging", "Full")

Value = tuple[float, float | None]
"""A value and its pulse."""


class _NoSensor(Exception):
    """The machine has no such sensor. A file that merely cannot be found is a fault: somebody else left it out."""


def _probe(source: str, clock: Clock, take: Callable[[], Value]) -> Reading:
    """Run one probe. The time is taken before, so that a slow probe yields an old value, not a fresh one."""
    started_s: float | None = None
    try:
        started_s = clock()
        value, pulse = take()
        if not isfinite(value):
            return Reading.missing(source, f"read {value}", monotonic_s=started_s)
        return Reading(value, started_s, source, pulse=pulse)
    except _NoSensor as error:
        return Reading.missing(source, f"no such sensor: {error}", monotonic_s=started_s, absent=True)
    except Exception as error:  # whatever a probe raises, the reading is missing and the gate stays closed
        told = f"{type(error).__name__}: {error}"
        return Reading.missing(source, told, monotonic_s=started_s)


class LinuxHost:
    """Reads a Linux machine below `root`.

    Args:
        root: "/" on a robot; a folder with `sys/` and `proc/` in tests.
        disk_path: where free disk space is measured (the brain root); default `root`.
        robot_state: who knows `idle_s`, `teleop_active` and, where the robot feels it, `docked`; normally a
            `FileHost`. Without it the first two are missing: no kernel file says whether a robot is in use, and
            "probably idle" is a guess. Whether it is plugged in, the power supplies tell where the robot does not.
        clock: monotonic seconds.
        names: the readings that are wanted; the others are missing and cost nothing.
        probe_timeout_s: what does not answer within this many seconds is a missing reading.
        statvfs: how a disk is asked.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        disk_path: Path | None = None,
        robot_state: Host | None = None,
        clock: Clock = time.monotonic,
        names: Sequence[str] = READING_NAMES,
        probe_timeout_s: float = 1.0,
        statvfs: StatVfs = os.statvfs,
    ) -> None:
        self._root = root
        self._robot_state = robot_state
        self._clock = clock
        disk = root if disk_path is None else disk_path
        probes: dict[str, tuple[str, Callable[[], Value]]] = {
            "battery_fraction": ("sys/class/power_supply", self._battery_fraction),
            "cpu_temp_c": ("sys/class/thermal", self._cpu_temp_c),
            "throttled": ("firmware get_throttled", self._throttled),
            "docked": ("sys/class/power_supply", self._docked),
            "load": ("proc/loadavg", self._load),
            "memory_available_mib": ("proc/meminfo", self._memory_available_mib),
            "memory_pressure": ("proc/pressure/memory", lambda: self._pressure("memory")),
            "disk_free_mib": (f"statvfs {disk}", DiskProbe(disk, clock=clock, statvfs=statvfs).take),
            "io_pressure": ("proc/pressure/io", lambda: self._pressure("io")),
        }
        self._probes = {name: probe for name, probe in probes.items() if name in names}
        self._sources = {name: source for name, (source, _) in probes.items()}
        self._patience: Patience[HostReadings | Reading] = Patience(probe_timeout_s)

    def read(self) -> HostReadings:
        """Take all readings (a dozen small files). Raises nothing: errors are inside the readings."""
        clock = self._clock
        questions: dict[str, Callable[[], HostReadings | Reading]] = {
            name: lambda source=source, take=take: _probe(source, clock, take)  # type: ignore[misc]
            for name, (source, take) in self._probes.items()
        }
        if self._robot_state is not None:
            questions[_ROBOT] = self._ask_robot
        answers = self._patience.ask(questions)
        readings: dict[str, Reading] = {}
        for name in READING_NAMES:
            answer = answers.get(name)
            if isinstance(answer, Reading):
                readings[name] = answer
            elif name in self._probes:
                readings[name] = Reading.missing(self._sources[name], self._patience.no_answer)
            else:
                readings[name] = Reading.missing("this host", "is not read here")
        return HostReadings(**{**readings, **self._of_robot(answers.get(_ROBOT))})

    def _ask_robot(self) -> HostReadings:
        assert self._robot_state is not None
        try:
            return self._robot_state.read()
        except Exception as error:  # a broken reporter is a missing reading
            return HostReadings.all_missing(_ROBOT, f"{type(error).__name__}: {error}")

    def _of_robot(self, told: HostReadings | Reading | None) -> dict[str, Reading]:
        if self._robot_state is None:
            nobody = Reading.missing(_ROBOT, "nobody reports the robot's activity to this host")
            return dict.fromkeys(_ROBOT_READINGS, nobody)
        if not isinstance(told, HostReadings):
            told = HostReadings.all_missing(_ROBOT, self._patience.no_answer)
        found = {name: getattr(told, name) for name in _ROBOT_READINGS}
        # Only a robot that says that it feels no dock leaves the question to the power supplies.
        return found if told.docked.absent else {**found, "docked": told.docked}

    def _text(self, path: Path) -> str:
        return path.read_text(encoding="ascii", errors="replace").strip()

    def _supplies(self) -> Iterator[tuple[Path, str]]:
        """The power supplies of the machine and their types."""
        for supply in sorted((self._root / "sys/class/power_supply").glob("*")):
            kind, scope = self._text(supply / "type"), supply / "scope"
            # A wireless mouse is a "Battery" too; the kernel marks it as belonging to a device.
            if not (scope.exists() and self._text(scope) == "Device"):
                yield supply, kind

    def _battery_fraction(self) -> Value:
        """The lowest battery that carries the machine, as a fraction."""
        lowest: float | None = None
        units: list[float] = []
        for supply, kind in self._supplies():
            if kind != "Battery":
                continue
            present = supply / "present"
            if present.exists() and self._text(present) != "1":
                raise ValueError(f"{present} says that the battery is not present")
            percent = float(self._text(supply / "capacity"))
            lowest = percent / 100.0 if lowest is None else min(lowest, percent / 100.0)
            units += [float(self._text(supply / name)) for name in _UNITS if (supply / name).exists()]
        if lowest is None:
            raise _NoSensor(f"{self._root / 'sys/class/power_supply/*/type'} = Battery")
        return lowest, _digest(units)

    def _docked(self) -> Value:
        """1 when a supply from outside is online or a battery charges or is full, else 0."""
        docked: bool | None = None
        for supply, kind in self._supplies():
            if kind in _EXTERNAL:
                online = int(self._text(supply / "online"))
                if online not in (0, 1, 2):  # 2: online, at a voltage that was negotiated
                    raise ValueError(f"{supply / 'online'} holds {online}")
                docked = bool(docked) or online > 0
            elif kind == "Battery":
                # "Unknown" and "Not charging" say nothing of a plug: no is the careful answer.
                docked = bool(docked) or self._text(supply / "status") in _CHARGED
        if docked is None:
            raise _NoSensor(f"{self._root / 'sys/class/power_supply/*'}")
        return float(docked), self._sys_pulse()

    def _zones(self) -> list[Path]:
        return sorted((self._root / "sys/class/thermal").glob("thermal_zone*"))

    def _cpu_temp_c(self) -> Value:
        """The hottest zone that is the processor's; if none says so, the hottest of all.

        sysfs gives millidegrees, always: no guessing from the size of the number.
        """
        zones = self._zones()
        if not zones:
            raise _NoSensor(f"{self._root / 'sys/class/thermal/thermal_zone*'}")
        kinds = {zone: self._text(zone / "type").lower() for zone in zones}
        processor = [zone for zone in zones if any(word in kinds[zone] for word in ("cpu", "pkg", "soc"))]
        # A zone that does not answer raises: a hot core behind a broken sensor must not look cool.
        return max(float(self._text(zone / "temp")) / 1000.0 for zone in processor or zones), None

    def _sys_pulse(self) -> float | None:
        """What moves in `/sys` of every machine that runs: heat."""
        heat: list[float] = []
        for zone in self._zones():
            try:
                heat.append(float(self._text(zone / "temp")))
            except (OSError, ValueError):  # the thermal gate's business
                continue
        return _digest(heat)

    def _throttled(self) -> Value:
        """The Raspberry Pi firmware's bits; the folder above the file differs between Pi models.

        Kernels without that file still have the hwmon driver, which knows under-voltage alone (bit 0);
        heat then rests on the thermal gate.
        """
        platform = self._root / "sys/devices/platform"
        for pattern in ("soc*/soc*:firmware/get_throttled", "soc*:firmware/get_throttled"):
            for path in sorted(platform.glob(pattern)):
                bits = int(self._text(path), 16)
                if bits < 0:
                    raise ValueError(f"{path} holds {bits}")
                return float(bits), self._sys_pulse()
        for name in sorted((self._root / "sys/class/hwmon").glob("hwmon*/name")):
            if self._text(name) == "rpi_volt":
                low = int(self._text(name.with_name("in0_lcrit_alarm"))) != 0
                return float(low), self._sys_pulse()
        raise _NoSensor(f"{platform / 'soc*/soc*:firmware/get_throttled'}")

    def _proc_pulse(self) -> float:
        """Seconds since boot by `/proc` itself: a frozen copy of `/proc` is told by its clock."""
        return float(self._text(self._root / "proc/uptime").split()[0])

    def _load(self) -> Value:
        return float(self._text(self._root / "proc/loadavg").split()[0]), self._proc_pulse()

    def _memory_available_mib(self) -> Value:
        path = self._root / "proc/meminfo"
        for line in self._text(path).splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024.0, self._proc_pulse()
        raise ValueError(f"{path} has no MemAvailable line")

    def _pressure(self, kind: str) -> Value:
        """Percent of the last ten seconds in which some task waited for this."""
        path = self._root / "proc/pressure" / kind
        try:
            text = self._text(path)
        except OSError as error:
            # The second: kernels that have it and switched it off (psi=1 switches it on).
            if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
                raise _NoSensor(f"{path}: this kernel has no PSI") from error
            raise
        for line in text.splitlines():
            words = line.split()
            if words[:1] == ["some"]:
                fields = dict(word.split("=", 1) for word in words[1:])
                return float(fields["avg10"]), self._proc_pulse()
        raise ValueError(f"{path} has no line that begins with some")


def _digest(numbers: Sequence[float]) -> float | None:
    """One number that moves when any of these does; None of none. Weighted, so that opposite moves do not cancel."""
    if not numbers:
        return None
    return sum((index + 1.618) * number for index, number in enumerate(numbers))
