"""Claims about reading the machine: real files, no invented defaults, age travels with the value."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from continuonbrain.errors import BrainError
from continuonbrain.robot.host import (
    READING_NAMES,
    FileHost,
    HostReadings,
    LinuxHost,
    MixedHost,
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
    source = SimulatedHost(clock=lambda: 5.0, jitter=False)
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


@pytest.mark.parametrize(
    ("files", "docked"),
    [
        ({"BAT0/status": "Charging"}, 1.0),
        ({"BAT0/status": "Full"}, 1.0),
        ({"BAT0/status": "Not charging"}, 0.0),
        ({"BAT0/status": "Unknown"}, 0.0),
        ({"AC/type": "Mains", "AC/online": "1"}, 1.0),
        ({"AC/type": "Mains", "AC/online": "0"}, 0.0),
        ({"usb/type": "USB", "usb/online": "2"}, 1.0),
        ({"usb/type": "USB", "usb/online": "7"}, None),
        ({"usb/type": "USB", "usb/online": "yes"}, None),
        ({"usb/type": "USB"}, None),
        ({"mouse/status": "Charging"}, 0.0),
    ],
)
def test_the_power_supplies_tell_whether_the_robot_is_plugged_in(
    pi5: Path, files: dict[str, str], docked: float | None
) -> None:
    for name, text in files.items():
        put(pi5, f"sys/class/power_supply/{name}", text)
    reading = LinuxHost(pi5).read().docked
    assert reading.value == docked
    assert not reading.absent
    assert docked is not None or reading.error


def test_the_robots_own_word_on_its_dock_counts_before_the_power_supplies(pi5: Path) -> None:
    file = FileHost(pi5 / "host.json")
    told = SimulatedHost().read()  # docked
    file.write(told)
    assert LinuxHost(pi5, robot_state=file).read().docked.value == 1.0
    file.write(replace(told, docked=Reading.missing("robot", "feels no dock", monotonic_s=1.0, absent=True)))
    assert LinuxHost(pi5, robot_state=file).read().docked.value == 0.0, "left to the supplies"
    for broken in ("contact bounces", "no such sensor"):
        file.write(replace(told, docked=Reading.missing("robot", broken, monotonic_s=1.0)))
        assert LinuxHost(pi5, robot_state=file).read().docked.value is None
    file.path.unlink()
    assert LinuxHost(pi5, robot_state=file).read().docked.value is None


def test_a_kernel_without_psi_says_so_and_garbage_is_a_fault(pi5: Path) -> None:
    shutil.rmtree(pi5 / "proc/pressure")
    reading = LinuxHost(pi5).read().io_pressure
    assert reading.absent
    assert "no PSI" in (reading.error or "")
    for text in ("", "full avg10=1.0", "some", "some avg10=much", "some avg10", "some avg10=nan"):
        put(pi5, "proc/pressure/io", text)
        reading = LinuxHost(pi5).read().io_pressure
        assert reading.value is None, text
        assert not reading.absent
    put(pi5, "proc/pressure/io", "some avg10=3.00 avg60=0.00 avg300=0.00 total=1")
    (pi5 / "proc/uptime").unlink()
    frozen = LinuxHost(pi5).read()
    assert frozen.io_pressure.value is frozen.load.value is frozen.memory_available_mib.value is None
    assert not frozen.load.absent, "no /proc lacks its clock"


def test_only_a_sensor_that_the_machine_does_not_have_is_absent(pi5: Path) -> None:
    (pi5 / "sys/class/power_supply/BAT0/capacity").unlink()
    (pi5 / "sys/class/thermal/thermal_zone0/temp").unlink()
    readings = LinuxHost(pi5).read()
    assert not readings.battery_fraction.absent
    assert not readings.cpu_temp_c.absent
    shutil.rmtree(pi5 / "sys")
    readings = LinuxHost(pi5).read()
    for name in ("battery_fraction", "cpu_temp_c", "throttled", "docked"):
        assert getattr(readings, name).absent, name


def test_constant_values_come_with_a_pulse_that_moves_while_their_source_lives(pi5: Path) -> None:
    names = ("battery_fraction", "throttled", "docked", "load", "memory_pressure", "io_pressure")
    before = LinuxHost(pi5).read()
    assert LinuxHost(pi5).read().load.pulse == before.load.pulse, "a frozen copy"
    put(pi5, "sys/class/power_supply/BAT0/voltage_now", "7911000")
    put(pi5, "sys/class/thermal/thermal_zone0/temp", "49300")
    put(pi5, "proc/uptime", "1235.06 4000.00")
    after = LinuxHost(pi5).read()
    for name in names:
        was, now = getattr(before, name), getattr(after, name)
        assert was.value == now.value
        assert None not in (was.pulse, now.pulse)
        assert was.pulse != now.pulse, name
    (pi5 / "sys/class/power_supply/BAT0/voltage_now").unlink()
    assert LinuxHost(pi5).read().battery_fraction.pulse is None


def test_a_simulated_machine_moves_as_a_real_one_does() -> None:
    now = [0.0]
    host = SimulatedHost(clock=lambda: now[0])
    host.set(cpu_temp_c=50.0, idle_s=10.0)
    seen = []
    for now[0] in range(50):
        seen.append(host.read())
    assert 1 < len({r.cpu_temp_c.value for r in seen}) < 10
    assert max(r.cpu_temp_c.value or 0.0 for r in seen) == 50.0
    assert len({r.memory_available_mib.value for r in seen}) > 1
    assert [r.idle_s.value for r in seen] == [10.0 + t for t in range(50)]
    own = SimulatedHost()
    own.set(disk_free_mib=7.0, battery_fraction=0.1)
    mixed = MixedHost(host, own).read()
    assert (mixed.disk_free_mib.value, mixed.battery_fraction.value) == (7.0, 0.9)
