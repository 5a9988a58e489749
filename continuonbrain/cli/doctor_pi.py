"""What `continuonbrain doctor` looks at on a Raspberry Pi besides: power, devices, disk, clock, memory, groups.

Everything is read below a folder that stands for "/", so that any Pi can be imitated. Only a disk that is read-only
fails the doctor: a robot without a camera, or one that stands on a desk with a weak supply, may be meant.
"""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from continuonbrain.cli.doctor_check import Check

_LEAST_AVAILABLE_MIB = 700
_FULL_SUPPLY_MA = 5000
_COMMAND_S = 5.0
_DEVICE_GROUPS = ("i2c", "gpio", "input", "video")
_NO_CAMERAS = ("pispbe", "rpi-hevc-dec", "bcm2835-codec", "bcm2835-isp", "rpivid")
"""Video nodes that every Pi has, whether a camera is there or not."""
_THROTTLED = {
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "near the temperature limit",
}
"""Bits of the firmware's get_throttled; the same 16 bits higher since the last boot (Raspberry Pi documentation,
"vcgencmd get_throttled")."""

Ask = Callable[[Sequence[str]], str]
"""A program's output, "" when it is not there or says no."""


def ask(command: Sequence[str]) -> str:
    """The real one."""
    found = shutil.which(command[0])
    if found is None:
        return ""
    try:
        done = subprocess.run(
            [found, *command[1:]], capture_output=True, text=True, errors="replace", timeout=_COMMAND_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def is_pi(top: Path = Path("/")) -> bool:
    """Whether the device tree says so."""
    return "Raspberry Pi" in _text(top / "proc/device-tree/model")


def pi_checks(root: Path, *, top: Path = Path("/"), run: Ask = ask) -> list[Check]:
    """All checks, for the brain root `root`; none on another computer."""
    if not is_pi(top):
        return []
    return [
        check_throttling(top, run),
        *check_supply(top),
        check_camera(top),
        check_i2c(top),
        check_mount(root, top),
        *check_ext4(top),
        check_clock(top, run),
        check_memory(top),
        check_groups(top),
    ]


def check_throttling(top: Path, run: Ask) -> Check:
    """Under-voltage and heat, now and since boot, by the firmware."""
    files = sorted((top / "sys/devices/platform").glob("soc*/*firmware/get_throttled"))
    told = _text(files[0]) if files else run(["vcgencmd", "get_throttled"]).partition("=")[2]
    try:
        bits = int(told, 16)
    except ValueError:
        return Check(
            "power", False, "the firmware does not tell", "sudo apt install raspi-utils", needed=False
        )
    now = [words for bit, words in _THROTTLED.items() if bits >> bit & 1]
    since = [words for bit, words in _THROTTLED.items() if bits >> bit + 16 & 1]
    value = f"now: {', '.join(now) or 'well'}; since boot: {', '.join(since) or 'well'}"
    cold = "under-voltage" in now + since
    remedy = (
        "a 5 V, 5 A supply and a short cable; motors on a supply of their own" if cold else "a fan, more air"
    )
    return Check("power", not now and not since, value, remedy, needed=False)


def check_supply(top: Path) -> list[Check]:
    """What the supply offered a Pi 5 (USB-PD); nothing where the firmware does not say."""
    try:
        offered = int.from_bytes((top / "proc/device-tree/chosen/power/max_current").read_bytes()[:4], "big")
    except OSError:
        return []
    remedy = "a 5 V, 5 A supply; with one that does not say so over USB-PD: PSU_MAX_CURRENT=5000 (rpi-eeprom-config)"
    return [Check("supply", offered >= _FULL_SUPPLY_MA, f"{offered} mA offered", remedy, needed=False)]


def check_camera(top: Path) -> Check:
    """A video node that is a camera's: the others are there without one."""
    names = [_text(file) for file in sorted((top / "sys/class/video4linux").glob("*/name"))]
    cameras = sorted({name for name in names if name and not name.startswith(_NO_CAMERAS)})
    remedy = "power off, look at the ribbon cable's seat and side; then rpicam-hello --list-cameras"
    return Check("camera", bool(cameras), ", ".join(cameras) or "none found", remedy, needed=False)


def check_i2c(top: Path) -> Check:
    """The bus of motor driver and battery sensor."""
    there = (top / "dev/i2c-1").exists()
    remedy = "sudo raspi-config nonint do_i2c 0, then reboot"
    return Check("i2c", there, "/dev/i2c-1" if there else "/dev/i2c-1 is not there", remedy, needed=False)


def check_mount(root: Path, top: Path) -> Check:
    """The root's file system is writable: Linux makes a damaged one read-only (mount(8), errors=remount-ro)."""
    remedy = "copy the brain root away, then fsck the disk from another system; a card that does it again is worn out"
    best: tuple[int, str, bool] | None = None
    for line in _text(top / "proc/self/mounts").splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        point = Path(fields[1].replace("\\040", " "))
        # A later line of the same place lies over an earlier one.
        if root.absolute().is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = len(point.parts), f"{fields[0]} on {point} ({fields[2]})", "ro" in fields[3].split(",")
    if best is None:
        return Check("mount", False, "/proc/self/mounts names none", "mount /proc", needed=False)
    _, where, read_only = best
    return Check("mount", not read_only, f"{where} is {'read-only' if read_only else 'writable'}", remedy)


def check_ext4(top: Path) -> list[Check]:
    """Errors that ext4 has noted on a disk (ext4(5), errors_count); one line for each that has some, or for all."""
    counts: dict[str, str] = {}
    for file in sorted((top / "sys/fs/ext4").glob("*/errors_count")):
        counts[file.parent.name] = _text(file)
    if not counts:
        return []
    bad = [f"{disk}: {count} errors noted" for disk, count in counts.items() if count not in ("0", "")]
    remedy = "copy the brain root away, then fsck from another system; replace the card"
    return [Check("file systems", not bad, "; ".join(bad) or "no errors noted", remedy, needed=False)]


def check_clock(top: Path, run: Ask) -> Check:
    """Whether anything has set the clock. An offline robot lives without: times of day are labels to it."""
    synced = (top / "run/systemd/timesync/synchronized").exists()
    synced = synced or run(["timedatectl", "show", "--property=NTPSynchronized", "--value"]) == "yes"
    if synced:
        return Check("clock", True, "synchronised", needed=False)
    remedy = (
        "sudo date -s 'YYYY-MM-DD HH:MM', and a coin cell at the Pi 5's J5 keeps it; drives are not disturbed"
    )
    return Check("clock", False, "not synchronised: dates of episodes may be wrong", remedy, needed=False)


def check_memory(top: Path) -> Check:
    """Memory that is to be had (MemAvailable, proc_meminfo(5))."""
    remedy = "stop the desktop: sudo systemctl set-default multi-user.target && sudo reboot"
    for line in _text(top / "proc/meminfo").splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "MemAvailable:" and words[1].isdecimal():
            free = int(words[1]) // 1024
            return Check(
                "memory", free >= _LEAST_AVAILABLE_MIB, f"{free} MiB available", remedy, needed=False
            )
    return Check("memory", False, "/proc/meminfo does not tell", "mount /proc", needed=False)


def check_groups(top: Path) -> Check:
    """This user may open the devices; the services' account gets its groups from `continuonbrain install`."""
    there = {line.partition(":")[0] for line in _text(top / "etc/group").splitlines()}
    missing = [] if os.geteuid() == 0 else [g for g in _DEVICE_GROUPS if g in there - _own_groups()]
    value = f"not in {', '.join(missing)}" if missing else "may open the devices"
    remedy = f"sudo usermod -aG {','.join(missing)} $USER, then log in again"
    return Check("groups", not missing, value, remedy, needed=False)


def _own_groups() -> set[str]:
    names = set()
    for number in {os.getegid(), *os.getgroups()}:
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:  # a group without a name
            continue
    return names


def _text(path: Path) -> str:
    """What a small file says, "" when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""
