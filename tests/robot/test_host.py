"""Claims about reading the machine: real files, no invented defaults, age travels with the value."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from continuonbrain.errors import BrainError
from continuonbrain.robot.host import (
    READING_NAMES,
    FileHost,
    HostReadings,
    LinuxHost,
    Reading,
    SimulatedHost,
    host_for,
)


def put(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")
    return file


@pytest.fixture
def pi5(tmp_path: Path) -> Path:
    """A fake Raspberry Pi 5 with a battery."""
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48750")
    put(tmp_path, "sys/class/thermal/thermal_zone1/type", "rp1_adc")
    put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "61000")
    put(tmp_path, "sys/class/power_supply/BAT0/type", "Battery")
    put(tmp_path, "sys/class/power_supply/BAT0/present", "1")
    put(tmp_path, "sys/class/power_supply/BAT0/capacity", "83")
    put(tmp_path, "sys/class/power_supply/BAT0/status", "Discharging")
    put(tmp_path, "sys/class/power_supply/BAT0/voltage_now", "7912250")
    put(tmp_path, "sys/class/power_supply/mouse/type", "Battery")
    put(tmp_path, "sys/class/power_supply/mouse/scope", "Device")
    put(tmp_path, "sys/class/power_supply/mouse/capacity", "3")
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005")
    put(tmp_path, "proc/uptime", "1234.56 4000.00")
    put(tmp_path, "proc/pressure/memory", "some avg10=1.50 avg60=0.10 avg300=0.00 total=77\nfull avg10=9.00")
    put(tmp_path, "proc/pressure/io", "some avg10=12.00 avg60=0.10 avg300=0.00 total=99")
    put(tmp_path, "proc/loadavg", "0.52 0.40 0.30 1/200 4242")
    put(tmp_path, "proc/meminfo", "MemTotal:  8000000 kB\nMemFree: 10 kB\nMemAvailable:    4194304 kB")
    return tmp_path


def test_a_pi_is_read_from_sys_and_proc(pi5: Path) -> None:
    readings = LinuxHost(pi5, clock=lambda: 7.0).read()
    assert readings.cpu_temp_c.value == 48.75, "the processor's zone, not the hotter ADC's"
    assert readings.battery_fraction.value == 0.83, "the robot's battery, not the mouse's"
    assert readings.throttled.value == float(0x50005)
    assert (readings.memory_pressure.value, readings.io_pressure.value) == (1.5, 12.0)
    assert readings.docked.value == 0.0
    assert readings.load.value == 0.52
    assert readings.memory_available_mib.value == 4096.0
    assert readings.disk_free_mib.value is not None
    assert readings.disk_free_mib.value > 0
    assert {getattr(readings, name).monotonic_s for name in READING_NAMES} <= {7.0, None}


def test_an_empty_machine_has_only_missing_readings_with_reasons(tmp_path: Path) -> None:
    readings = LinuxHost(tmp_path, disk_path=tmp_path / "absent").read()
    for name in READING_NAMES:
        reading = getattr(readings, name)
        assert reading.value is None, name
        assert reading.error, name


@pytest.mark.parametrize(
    ("path", "text", "name"),
    [
        ("sys/class/thermal/thermal_zone0/temp", "", "cpu_temp_c"),
        ("sys/class/thermal/thermal_zone0/temp", "warm", "cpu_temp_c"),
        ("sys/class/thermal/thermal_zone0/temp", "nan", "cpu_temp_c"),
        ("sys/class/power_supply/BAT0/capacity", "full", "battery_fraction"),
        ("sys/class/power_supply/BAT0/present", "0", "battery_fraction"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "zz", "throttled"),
        ("proc/meminfo", "MemTotal: 1 kB", "memory_available_mib"),
        ("proc/loadavg", "", "load"),
    ],
)
def test_garbage_in_a_kernel_file_is_a_missing_reading_and_spoils_no_other(
    pi5: Path, path: str, text: str, name: str
) -> None:
    put(pi5, path, text)
    readings = LinuxHost(pi5).read()
    assert getattr(readings, name).value is None
    assert getattr(readings, name).error
    others = set(READING_NAMES) - {name, "idle_s", "teleop_active"}
    assert all(getattr(readings, other).value is not None for other in others)


def test_without_the_firmware_file_the_hwmon_driver_tells_of_under_voltage(pi5: Path) -> None:
    (pi5 / "sys/devices/platform/soc/soc:firmware/get_throttled").unlink()
    put(pi5, "sys/class/hwmon/hwmon2/name", "rpi_volt")
    for text, bits in (("0", 0.0), ("1", 1.0)):
        put(pi5, "sys/class/hwmon/hwmon2/in0_lcrit_alarm", text)
        assert LinuxHost(pi5).read().throttled.value == bits


def test_the_throttle_file_is_found_where_a_pi_5_has_it(pi5: Path) -> None:
    (pi5 / "sys/devices/platform/soc/soc:firmware/get_throttled").unlink()
    put(pi5, "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "0x4")
    assert LinuxHost(pi5).read().throttled.value == 4.0


def test_a_simulated_robot_has_a_simulated_machine_and_a_real_one_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "host.json"
    FileHost(file).write(SimulatedHost(clock=lambda: 2.0).read())
    simulated = host_for("sim-donkey", host_file=file, disk_path=tmp_path).read()
    real = host_for("donkey", host_file=file, disk_path=tmp_path).read()
    assert simulated.disk_free_mib.value == 16384.0
    assert "statvfs" in real.disk_free_mib.source
    assert simulated.idle_s.value == real.idle_s.value == 3600.0
    assert simulated.docked.value == real.docked.value == 1.0


def test_a_broken_processor_zone_hides_behind_no_other_zone(pi5: Path) -> None:
    put(pi5, "sys/class/thermal/thermal_zone2/type", "cpu-thermal")
    (pi5 / "sys/class/thermal/thermal_zone2/temp").mkdir()
    assert LinuxHost(pi5).read().cpu_temp_c.value is None


def test_a_slow_probe_yields_an_old_reading_not_a_fresh_one(pi5: Path) -> None:
    ticks = iter(range(100))
    readings = LinuxHost(pi5, clock=lambda: float(next(ticks)), names=("battery_fraction",)).read()
    assert readings.battery_fraction.monotonic_s == 0.0


def test_idle_time_comes_from_the_robot_or_is_missing(pi5: Path) -> None:
    robot = SimulatedHost(clock=lambda: 3.0)
    robot.set(idle_s=12.0, teleop_active=1.0)
    readings = LinuxHost(pi5, robot_state=robot).read()
    assert readings.idle_s == Reading(12.0, 3.0, "simulated", pulse=1.0)
    assert readings.teleop_active.value == 1.0
    assert LinuxHost(pi5).read().idle_s.value is None

    class Broken:
        def read(self) -> HostReadings:
            raise OSError("gone")

    broken = LinuxHost(pi5, robot_state=Broken()).read()
    assert "gone" in (broken.idle_s.error or "")


def test_the_simulated_host_ages_when_frozen_and_fails_on_request() -> None:
    now = [1.0]
    host = SimulatedHost(clock=lambda: now[0], jitter=False)
    host.freeze()
    now[0] = 9.0
    assert host.read().load.monotonic_s == 1.0
    host.thaw()
    host.fail("cpu_temp_c", "unplugged")
    assert host.read().cpu_temp_c == Reading(None, 9.0, "simulated", "unplugged")
    host.set(cpu_temp_c=40.0)
    assert host.read().cpu_temp_c.value == 40.0
    with pytest.raises(BrainError, match="cpu_temperature"):
        host.set(cpu_temperature=40.0)


def test_the_host_file_carries_values_times_and_errors_to_another_process(tmp_path: Path) -> None:
    source = SimulatedHost(clock=lambda: 5.0)
    source.fail("battery_fraction", "no answer")
    source.set(cpu_temp_c=math.nan)
    path = tmp_path / "run" / "host.json"
    FileHost(path).write(source.read())
    readings = FileHost(path).read()
    assert readings.load.value == 0.1
    assert readings.load.monotonic_s == 5.0
    assert readings.battery_fraction.value is None
    assert readings.battery_fraction.error == "no answer"
    assert readings.cpu_temp_c.value is None, "NaN is no value"
    assert [file.name for file in path.parent.iterdir()] == ["host.json"], "no temporary file stays"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "{",
        '{"schema": 1}',
        "[" * 100_000,
        "\x00",
        '{"schema": 1, "readings": {}}',
        " " * 70_000,
    ],
)
def test_a_host_file_that_makes_no_sense_is_missing_readings(tmp_path: Path, text: str) -> None:
    path = tmp_path / "host.json"
    path.write_text(text)
    readings = FileHost(path).read()
    assert all(getattr(readings, name).value is None for name in READING_NAMES)
    assert all(getattr(readings, name).error for name in READING_NAMES)


def test_a_host_file_from_before_the_reboot_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    FileHost(path, boot_id="old").write(SimulatedHost().read())
    assert "boot" in (FileHost(path, boot_id="new").read().load.error or "")
    assert "no such file" in (FileHost(tmp_path / "absent.json").read().load.error or "")


def test_wrong_types_inside_the_host_file_are_missing_readings(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    FileHost(path).write(SimulatedHost().read())
    document = json.loads(path.read_text())
    document["readings"]["load"] = {"value": True, "monotonic_s": "now", "source": 3, "error": None}
    document["readings"]["idle_s"] = 5
    path.write_text(json.dumps(document))
    readings = FileHost(path).read()
    assert readings.load.value is None
    assert readings.load.error
    assert readings.idle_s.value is None
    assert readings.teleop_active.value == 0.0


def test_an_unwritable_host_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(BrainError, match=r"host\.json"):
        FileHost(tmp_path / "run" / "host.json").write(SimulatedHost().read())


def test_a_host_file_that_is_a_fifo_does_not_hang_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "host.json")
    assert "not a regular file" in (FileHost(tmp_path / "host.json").read().load.error or "")
