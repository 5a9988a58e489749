"""The machine under the robot: battery, heat, load, memory, disk, and whether the robot is in use.

A host only reads; what a reading means is decided in `trainer/gates.py`. Every value travels as a
`Reading` with the monotonic time at which it was taken and, when it could not be taken, the reason. No
default ever stands in for a missing sensor.

- `LinuxHost` reads `/sys` and `/proc` below a root folder, so tests use a fake one.
- `FileHost` reads (and writes) a small JSON file: the control process knows idle time and teleoperation
  and tells the sidecar through it. A file that is no longer written goes stale by itself.
- `SimulatedHost` holds settable values for the simulator preset and for tests.

Times are CLOCK_MONOTONIC, which all processes of one boot share; the file carries the boot id, because
after a reboot that clock starts again and an old file could look fresh.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Protocol

from continuonbrain.errors import BrainError
from continuonbrain.storage.durable import replace_file

HOST_FILE_NAME = "host.json"
"""Name of the file in the brain's `run` folder through which the control process tells what it knows."""

HOST_FILE_SCHEMA = 1
_MAX_HOST_FILE_BYTES = 64 * 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one sensor.

    `value` is None when it could not be read; `error` then says why. `monotonic_s` is when it was taken.
    `broken`: there is a sensor, and what it gave is no value; False with a None value means that there is none.
    """

    value: float | None
    monotonic_s: float | None
    source: str
    error: str | None = None
    broken: bool = False

    @classmethod
    def missing(
        cls, source: str, error: str, *, monotonic_s: float | None = None, broken: bool = False
    ) -> Reading:
        """A reading that could not be taken, with the reason."""
        return cls(None, monotonic_s, source, error, broken)


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
    load: Reading
    """One-minute load average."""
    memory_available_mib: Reading
    disk_free_mib: Reading

    @classmethod
    def all_missing(cls, source: str, error: str) -> HostReadings:
        """No sensor answered, all for the same reason."""
        return cls(**{name: Reading.missing(source, error) for name in READING_NAMES})


READING_NAMES: tuple[str, ...] = tuple(field.name for field in fields(HostReadings))


class Host(Protocol):
    """Whatever can tell how the machine is. `read` reports errors inside the readings."""

    def read(self) -> HostReadings: ...


def _probe(source: str, clock: Clock, take: Callable[[], float]) -> Reading:
    """Run one probe. The time is taken before, so that a slow probe yields an old value, not a fresh one."""
    started_s: float | None = None
    try:
        started_s = clock()
        value = float(take())
        if not isfinite(value):
            return Reading.missing(source, f"read {value}", monotonic_s=started_s, broken=True)
        return Reading(value, started_s, source)
    except FileNotFoundError as error:
        return Reading.missing(source, f"no such sensor: {error.filename}", monotonic_s=started_s)
    except Exception as error:  # whatever a probe raises, the reading is missing and the gate stays closed
        told = f"{type(error).__name__}: {error}"
        return Reading.missing(source, told, monotonic_s=started_s, broken=True)


class LinuxHost:
    """Reads a Linux machine below `root`.

    Args:
        root: "/" on a robot; a folder with `sys/` and `proc/` in tests.
        disk_path: where free disk space is measured (the brain root); default `root`.
        robot_state: who knows `idle_s` and `teleop_active`, normally a `FileHost`. Without it both are
            missing: no kernel file says whether a robot is in use, and "probably idle" is a guess.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        disk_path: Path | None = None,
        robot_state: Host | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._root = root
        self._disk_path = root if disk_path is None else disk_path
        self._robot_state = robot_state
        self._clock = clock

    def read(self) -> HostReadings:
        """Take all readings (a dozen small files). Raises nothing: errors are inside the readings."""
        if self._robot_state is None:
            idle = Reading.missing("robot", "nobody reports the robot's activity to this host")
            teleop = idle
        else:
            try:
                robot = self._robot_state.read()
                idle, teleop = robot.idle_s, robot.teleop_active
            except Exception as error:  # a broken reporter is a missing reading
                idle = teleop = Reading.missing("robot", f"{type(error).__name__}: {error}")
        clock = self._clock
        return HostReadings(
            battery_fraction=_probe("sys/class/power_supply", clock, self._battery_fraction),
            cpu_temp_c=_probe("sys/class/thermal", clock, self._cpu_temp_c),
            throttled=_probe("firmware get_throttled", clock, self._throttled),
            idle_s=idle,
            teleop_active=teleop,
            load=_probe("proc/loadavg", clock, self._load),
            memory_available_mib=_probe("proc/meminfo", clock, self._memory_available_mib),
            disk_free_mib=_probe(f"statvfs {self._disk_path}", clock, self._disk_free_mib),
        )

    def _text(self, path: Path) -> str:
        return path.read_text(encoding="ascii", errors="replace").strip()

    def _battery_fraction(self) -> float:
        """The lowest battery that carries the machine, as a fraction."""
        folder = self._root / "sys/class/power_supply"
        lowest: float | None = None
        for supply in sorted(folder.iterdir()):
            if self._text(supply / "type") != "Battery":
                continue
            scope = supply / "scope"
            # A wireless mouse is a "Battery" too; the kernel marks it as belonging to a device.
            if scope.exists() and self._text(scope) == "Device":
                continue
            present = supply / "present"
            if present.exists() and self._text(present) != "1":
                raise ValueError(f"{present} says that the battery is not present")
            percent = float(self._text(supply / "capacity"))
            lowest = percent / 100.0 if lowest is None else min(lowest, percent / 100.0)
        if lowest is None:
            raise FileNotFoundError(2, "no battery", str(folder / "*/type = Battery"))
        return lowest

    def _cpu_temp_c(self) -> float:
        """The hottest zone that is the processor's; if none says so, the hottest of all.

        sysfs gives millidegrees, always: no guessing from the size of the number.
        """
        folder = self._root / "sys/class/thermal"
        zones = sorted(folder.glob("thermal_zone*"))
        if not zones:
            raise FileNotFoundError(2, "no thermal zone", str(folder / "thermal_zone*"))
        kinds = {zone: self._text(zone / "type").lower() for zone in zones}
        processor = [zone for zone in zones if any(word in kinds[zone] for word in ("cpu", "pkg", "soc"))]
        # A zone that does not answer raises: a hot core behind a broken sensor must not look cool.
        return max(float(self._text(zone / "temp")) / 1000.0 for zone in processor or zones)

    def _throttled(self) -> float:
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
                return float(bits)
        for name in sorted((self._root / "sys/class/hwmon").glob("hwmon*/name")):
            if self._text(name) == "rpi_volt":
                return float(int(self._text(name.with_name("in0_lcrit_alarm"))) != 0)
        raise FileNotFoundError(2, "no firmware file", str(platform / "soc*/soc*:firmware/get_throttled"))

    def _load(self) -> float:
        return float(self._text(self._root / "proc/loadavg").split()[0])

    def _memory_available_mib(self) -> float:
        path = self._root / "proc/meminfo"
        for line in self._text(path).splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024.0
        raise ValueError(f"{path} has no MemAvailable line")

    def _disk_free_mib(self) -> float:
        # f_bavail, not f_bfree: what root keeps back is not ours to fill.
        status = os.statvfs(self._disk_path)
        return status.f_bavail * status.f_frsize / 2**20


class SimulatedHost:
    """A host with settable values; fresh at every read unless frozen. Starts as an idle, charged robot."""

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._frozen_s: float | None = None
        self._errors: dict[str, str] = {}
        self._values: dict[str, float] = {
            "battery_fraction": 0.9,
            "cpu_temp_c": 50.0,
            "throttled": 0.0,
            "idle_s": 3600.0,
            "teleop_active": 0.0,
            "load": 0.1,
            "memory_available_mib": 4096.0,
            "disk_free_mib": 16384.0,
        }

    def set(self, **values: float) -> None:
        """Set values by reading name. Any number is taken, also an implausible one or NaN."""
        for name, value in values.items():
            self._known(name)
            self._values[name] = float(value)
            self._errors.pop(name, None)

    def take_over(self, readings: HostReadings, names: Sequence[str]) -> None:
        """Set some values to what another host reads now; what that one cannot read stays."""
        for name in names:
            value = getattr(readings, name).value
            if value is not None:
                self.set(**{name: value})

    def fail(self, name: str, error: str = "simulated sensor failure") -> None:
        """Make one sensor fail until it is set again."""
        self._known(name)
        self._errors[name] = error

    def freeze(self) -> None:
        """Stop taking new readings: from now on they age."""
        self._frozen_s = self._clock()

    def thaw(self) -> None:
        self._frozen_s = None

    def read(self) -> HostReadings:
        now_s = self._clock() if self._frozen_s is None else self._frozen_s
        return HostReadings(
            **{
                name: Reading.missing("simulated", self._errors[name], monotonic_s=now_s)
                if name in self._errors
                else Reading(self._values[name], now_s, "simulated")
                for name in READING_NAMES
            }
        )

    @staticmethod
    def _known(name: str) -> None:
        if name not in READING_NAMES:
            raise BrainError(
                f"SimulatedHost: no reading is called {name!r}",
                remedy=f"use one of {', '.join(READING_NAMES)}",
            )


class FileHost:
    """Readings through a small JSON file (`run/host.json`): one process writes, any process reads.

    Readings keep the time at which the writer took them, so the file goes stale when the writer dies.
    """

    def __init__(self, path: Path, *, boot_id: str | None = None) -> None:
        self._path = path
        self._boot_id = _read_boot_id() if boot_id is None else boot_id

    @property
    def path(self) -> Path:
        return self._path

    def write(self, readings: HostReadings) -> None:
        """Replace the file so that a reader sees the old one whole or the new one whole.

        Meant for about once a second. Raises `BrainError` naming the file when it cannot be written.
        """
        body: dict[str, object] = {}
        for name in READING_NAMES:
            reading: Reading = getattr(readings, name)
            if reading.value is not None and not isfinite(reading.value):
                # JSON has no NaN; a value that is no number is a missing value.
                reading = replace(reading, value=None, error=f"read {reading.value}", broken=True)
            body[name] = {
                "value": reading.value,
                "monotonic_s": reading.monotonic_s,
                "source": reading.source,
                "error": reading.error,
                "broken": reading.broken,
            }
        document = {"schema": HOST_FILE_SCHEMA, "boot_id": self._boot_id, "readings": body}
        _replace_file(self._path, json.dumps(document, allow_nan=False).encode())

    def read(self) -> HostReadings:
        """Read the file. Raises nothing: a file that is absent or makes no sense is missing readings."""
        source = str(self._path)
        try:
            data = _read_regular_file(self._path, _MAX_HOST_FILE_BYTES + 1)
            if len(data) > _MAX_HOST_FILE_BYTES:
                raise ValueError(f"larger than {_MAX_HOST_FILE_BYTES} bytes")
            document = json.loads(data)
            if not isinstance(document, dict) or document.get("schema") != HOST_FILE_SCHEMA:
                raise ValueError(f"schema is not {HOST_FILE_SCHEMA}")
            if document.get("boot_id") != self._boot_id:
                raise ValueError("was written before the last boot")
            body = document.get("readings")
            if not isinstance(body, dict):
                raise ValueError("readings is not an object")
            readings = {name: _reading_from_json(body.get(name), source) for name in READING_NAMES}
            return HostReadings(**readings)
        except FileNotFoundError:
            return HostReadings.all_missing(source, "no such file: the control process has not written it")
        except Exception as error:  # also RecursionError from hostile nesting
            return HostReadings.all_missing(source, f"{type(error).__name__}: {error}")


def host_for(robot_kind: str, *, host_file: Path, disk_path: Path) -> Host:
    """The host that a process beside the control process reads.

    Args:
        robot_kind: `robot.kind` of the config. A simulated robot ("sim-...") has a simulated machine,
            all of whose values come through `host_file`; any other is this Linux machine, with only idle
            time and teleoperation from the file.
        host_file: what the control process writes, `run/host.json`.
        disk_path: where free disk space counts.
    """
    robot = FileHost(host_file)
    return robot if robot_kind.startswith("sim-") else LinuxHost(disk_path=disk_path, robot_state=robot)


def _reading_from_json(raw: object, source: str) -> Reading:
    if not isinstance(raw, Mapping):
        return Reading.missing(source, "not in the file", broken=raw is not None)
    value, taken_s = _json_number(raw.get("value")), _json_number(raw.get("monotonic_s"))
    error = raw.get("error")
    text = error if isinstance(error, str) else None
    if value is None and text is None:
        text = f"value is {raw.get('value')!r}"
    # Anything but a clear "there is no value" is a sensor that is there and talks nonsense.
    broken = value is None and (raw.get("value") is not None or raw.get("broken", False) is not False)
    return Reading(value, taken_s, f"{raw.get('source', '?')} via {source}", text, broken)


def _json_number(raw: object) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        return None
    try:
        number = float(raw)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def _read_regular_file(path: Path, limit: int) -> bytes:
    # O_NONBLOCK: opening a FIFO would otherwise wait for its writer, and with it the gates and `doctor`.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("is not a regular file")
        return file.read(limit)


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _replace_file(path: Path, data: bytes) -> None:
    """Not durable on purpose: a reading is worthless after a power cut. A torn file reads as missing sensors,
    which close the gates."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise BrainError(
            f"{path}: host readings cannot be written: {error.strerror or error}",
            remedy=f"make {path.parent} writable for this user",
        ) from error
