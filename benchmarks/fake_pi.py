"""A Raspberry Pi in a folder, in simulated time, with one sensor that can be broken: for `benchmarks/gates.py`."""

from __future__ import annotations

import errno
import json
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from continuonbrain.robot.host import FileHost, Host, HostReadings, LinuxHost, Reading
from continuonbrain.trainer.build_gates import StuckWindows

_BOOT_ID = "benchmark"
ANSWER_S, SLOW_ANSWER_S = 5.0, 0.3
"""Real seconds that a probe may take: more than a busy machine lets a healthy one wait; less where one hangs."""
_SUPPLY = "sys/class/power_supply"
_FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor of the fake machine. path "": it is not a file. heat: what shows that it lives is the zone's heat."""

    name: str
    reading: str
    gate: str
    window_s: float
    path: str = ""
    absurd: str = ""
    with_it: tuple[str, ...] = ()


_W = StuckWindows()
PERCENT_ONLY = "battery, percent only"
_ZONE = "sys/class/thermal/thermal_zone0/temp"
SENSORS = (
    Sensor("battery", "battery_fraction", "battery", _W.battery_s, f"{_SUPPLY}/BAT0/capacity", "140",
           (f"{_SUPPLY}/BAT0/voltage_now",)),
    Sensor(PERCENT_ONLY, "battery_fraction", "battery", _W.battery_percent_s, f"{_SUPPLY}/BAT0/capacity",
           "-3"),
    Sensor("processor heat", "cpu_temp_c", "thermal", _W.temperature_s, _ZONE, "0"),
    Sensor("throttle bits", "throttled", "throttled", _W.throttled_s, _FIRMWARE, "-1", (_ZONE,)),
    Sensor("idle time", "idle_s", "idle", _W.heartbeat_s),
    Sensor("teleoperation", "teleop_active", "teleop", _W.heartbeat_s),
    Sensor("dock, of the robot", "docked", "docked", _W.docked_s),
    Sensor("dock, by the supply", "docked", "docked", _W.docked_s, f"{_SUPPLY}/USB/online", "7", (_ZONE,)),
    Sensor("load", "load", "load", _W.proc_s, "proc/loadavg", "-1.0 0 0 1/1 1", ("proc/uptime",)),
    Sensor("memory", "memory_available_mib", "memory", _W.memory_s, "proc/meminfo", "MemAvailable: -1 kB",
           ("proc/uptime",)),
    Sensor("memory pressure", "memory_pressure", "memory_pressure", _W.proc_s, "proc/pressure/memory",
           "some avg10=101.0", ("proc/uptime",)),
    Sensor("disk", "disk_free_mib", "disk", _W.disk_s),
    Sensor("disk pressure", "io_pressure", "io_pressure", _W.proc_s, "proc/pressure/io", "some avg10=nan",
           ("proc/uptime",)),
)  # fmt: skip


class FakePi:
    """A robot's machine in a folder, in simulated time, with one sensor that can be broken."""

    def __init__(
        self, root: Path, sensor: Sensor | None, *, full: bool = False, answer_s: float = ANSWER_S
    ) -> None:
        self.root, self.sensor, self.fault = root, sensor, ""
        self.now_s = 5000.0
        self._full = full
        self._chance = random.Random(1)
        self._ticks = 0
        self._idle_since_s = self.now_s - 600.0
        self._hang = threading.Event()
        self._hang.set()
        self._kept: Reading | None = None
        self._stale: Reading | None = None
        self._written: dict[str, str] = {}
        self._robot = FileHost(root / "run/host.json", boot_id=_BOOT_ID)
        self._relay = FileHost(root / "run/relay.json", boot_id=_BOOT_ID)
        self._linux = LinuxHost(
            root, robot_state=_Slowly(self._robot, self._wait), clock=lambda: self.now_s, statvfs=self._statvfs,
            probe_timeout_s=answer_s,
        )  # fmt: skip
        self.move(0.0)

    # The host that the gates see.

    def read(self) -> HostReadings:
        """Of this machine; a stale sensor comes through a file whose writer does not renew it."""
        readings = self._linux.read()
        if self.fault != "stale" or self.sensor is None:
            return readings
        name = self.sensor.reading
        self._stale = self._stale or getattr(readings, name)
        self._relay.write(replace(readings, **{name: self._stale}))
        return self._relay.read()

    # Time, and what it does to the files.

    def move(self, seconds: float) -> None:
        """Time passes, and everything that lives moves."""
        self.now_s += seconds
        self._ticks += max(1, round(20 * seconds))
        jitter = self._chance.randrange
        percent = 100 if self._full else max(60, 90 - int((self.now_s - 5000.0) / 3600.0))
        files = {
            f"{_SUPPLY}/BAT0/type": "Battery",
            f"{_SUPPLY}/BAT0/status": "Full" if self._full else "Discharging",
            f"{_SUPPLY}/BAT0/capacity": f"{percent}",
            f"{_SUPPLY}/BAT0/voltage_now": f"{8_000_000 - 1250 * jitter(4)}",
            f"{_SUPPLY}/USB/type": "USB",
            f"{_SUPPLY}/USB/online": "1",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            _ZONE: f"{48_200 + 550 * jitter(3)}",
            _FIRMWARE: "0",
            "proc/uptime": f"{self.now_s:.2f} 1.00",
            "proc/loadavg": "0.00 0.00 0.00 1/200 4242",
            "proc/meminfo": f"MemTotal: 8000000 kB\nMemAvailable: {4_000_000 + 4 * jitter(500)} kB",
            "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0",
            "proc/pressure/io": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0",
        }
        if self.sensor is not None and self.sensor.name == PERCENT_ONLY:
            files[f"{_SUPPLY}/USB/online"] = "0"  # on its charger it may rest
            del files[f"{_SUPPLY}/BAT0/voltage_now"]
        for path, text in files.items():
            self._put(path, text)
        self._tell_robot()

    def _put(self, path: str, text: str) -> None:
        sensor, file = self.sensor, self.root / path
        if sensor is not None and path == sensor.path and self.fault:
            if self.fault == "stuck":
                return
            if self.fault == "out of range":
                text = sensor.absurd
            elif self.fault in ("missing", "raising", "slow"):
                return  # `break_it` has put something else there
        if sensor is not None and self.fault == "stuck" and path in sensor.with_it:
            return
        if self._written.get(path) != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
            self._written[path] = text

    def _tell_robot(self) -> None:
        """What the control process writes once a second."""
        now_s, pulse = self.now_s, float(self._ticks)
        told = HostReadings.all_missing("control", "not the robot's business")
        dock = Reading.missing("control", "feels no dock", monotonic_s=now_s, absent=True)
        values = {"idle_s": now_s - self._idle_since_s, "teleop_active": 0.0}
        if self.sensor is not None and self.sensor.name == "dock, of the robot":
            values["docked"] = 1.0
        told = replace(told, docked=dock)
        told = replace(told, **{n: Reading(v, now_s, "control", pulse=pulse) for n, v in values.items()})
        if self.sensor is not None and not self.sensor.path and self.sensor.reading in values:
            name = self.sensor.reading
            reading: Reading = getattr(told, name)
            if self.fault == "stuck":  # stamped anew, with the value and the pulse of before
                assert self._kept is not None
                told = replace(told, **{name: replace(self._kept, monotonic_s=now_s)})
            else:
                self._kept = reading
            if self.fault == "out of range":
                told = replace(told, **{name: replace(reading, value=-5.0)})
            if self.fault == "missing":
                self._robot.write(told)
                document = json.loads(self._robot.path.read_text())
                del document["readings"][name]
                self._robot.path.write_text(json.dumps(document))
                return
            if self.fault == "raising":
                self._robot.path.write_text("{")
                return
        self._robot.write(told)

    # Faults.

    def break_it(self, fault: str) -> None:
        """From now on the sensor has this fault."""
        assert self.sensor is not None
        self.fault = fault
        if self.sensor.path:
            file = self.root / self.sensor.path
            if fault in ("missing", "raising", "slow"):
                file.unlink()
            if fault == "raising":
                file.mkdir()
            if fault == "slow":
                os.mkfifo(file)
        elif fault == "slow":
            self._hang.clear()
        self.move(0.0)

    def mend(self) -> None:
        """The sensor works again."""
        assert self.sensor is not None
        self._hang.set()
        file = self.root / self.sensor.path
        if self.sensor.path and self.fault == "raising":
            file.rmdir()
        if self.sensor.path and self.fault == "slow":
            # Whoever waits for a writer is let go; then the FIFO is a file again.
            try:
                os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                if error.errno != errno.ENXIO:  # nobody waits
                    raise
            file.unlink()
        self.fault = ""
        self._written.clear()
        self.move(0.0)

    def _wait(self) -> None:
        if self.sensor is not None and self.sensor.reading != "disk_free_mib":
            self._hang.wait()

    def _statvfs(self, path: Path) -> os.statvfs_result:
        if self.sensor is None or self.sensor.reading != "disk_free_mib":
            return os.statvfs(path)
        self._hang.wait()
        if self.fault == "missing":
            return os.statvfs(self.root / "not mounted")
        if self.fault == "raising":
            raise OSError(errno.EIO, "Input/output error")
        if self.fault == "stuck":
            return _disk(4_000_000)
        return _disk(2**62) if self.fault == "out of range" else os.statvfs(path)


def _disk(free_blocks: int) -> os.statvfs_result:
    return os.statvfs_result((4096, 4096, 8_000_000, free_blocks, free_blocks, 1, 1, 1, 0, 255))


class _Slowly:
    """A host that answers when `wait` returns."""

    def __init__(self, host: Host, wait: Callable[[], None]) -> None:
        self._host, self._wait = host, wait

    def read(self) -> HostReadings:
        self._wait()
        return self._host.read()
