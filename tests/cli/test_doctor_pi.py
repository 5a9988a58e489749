"""The doctor's look at a Raspberry Pi, on folders that imitate one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from continuonbrain.cli import doctor_pi
from continuonbrain.cli.doctor_check import Check
from continuonbrain.cli.doctor_pi import pi_checks

ROOT = Path("/opt/continuonos/brain")


def put(top: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    """One that is well."""
    files: dict[str, str | bytes] = {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/device-tree/chosen/power/max_current": (5000).to_bytes(4, "big"),
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "0\n",
        "sys/class/video4linux/video0/name": "rp1-cfe-csi2_ch0\n",
        "sys/class/video4linux/video20/name": "pispbe-input\n",
        "dev/i2c-1": "",
        "proc/self/mounts": "/dev/mmcblk0p2 / ext4 rw,noatime 0 0\ntmpfs /run tmpfs rw 0 0\n",
        "sys/fs/ext4/mmcblk0p2/errors_count": "0\n",
        "run/systemd/timesync/synchronized": "",
        "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable:    6000000 kB\n",
        "etc/group": "i2c:x:998:\nvideo:x:44:\n",
    }
    for name, content in files.items():
        put(tmp_path, **{name: content})
    return tmp_path


def silent(_command: Sequence[str]) -> str:
    return ""


def found(top: Path, name: str) -> Check:
    return {check.name: check for check in pi_checks(ROOT, top=top, run=silent)}[name]


def test_another_computer_is_not_asked(tmp_path: Path) -> None:
    assert pi_checks(ROOT, top=tmp_path, run=silent) == []


def test_a_pi_that_is_well(pi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    checks = pi_checks(ROOT, top=pi, run=silent)
    assert len(checks) == 9
    assert [check.name for check in checks if not check.ok] == []


def test_throttling_now_and_since_boot(pi: Path) -> None:
    file = next(pi.glob("sys/devices/platform/*/*firmware/get_throttled"))
    file.write_text("50005\n")
    power = found(pi, "power")
    assert not power.ok
    assert power.value == "now: under-voltage, throttled; since boot: under-voltage, throttled"
    file.write_text("80000\n")
    assert found(pi, "power").value == "now: well; since boot: near the temperature limit"
    assert "fan" in found(pi, "power").remedy
    file.unlink()
    assert not found(pi, "power").ok
    told = doctor_pi.check_throttling(pi, lambda _command: "throttled=0x0")
    assert told.ok


@pytest.mark.parametrize(
    ("name", "content", "check", "says"),
    [
        ("proc/device-tree/chosen/power/max_current", b"\0\0\x0b\xb8", "supply", "3000 mA"),
        ("sys/class/video4linux/video0/name", b"rpi-hevc-dec", "camera", "none found"),
        ("proc/self/mounts", b"/dev/mmcblk0p2 / ext4 ro,noatime 0 0", "mount", "read-only"),
        ("proc/self/mounts", b"", "mount", "names none"),
        ("sys/fs/ext4/mmcblk0p2/errors_count", b"3\n", "file systems", "3 errors"),
        ("proc/meminfo", b"MemAvailable: 200000 kB", "memory", "195 MiB"),
        ("proc/meminfo", b"\xff\xfe", "memory", "does not tell"),
    ],
)
def test_what_is_wrong_is_told_with_a_remedy(
    pi: Path, name: str, content: bytes, check: str, says: str
) -> None:
    put(pi, **{name: content})
    told = found(pi, check)
    assert not told.ok
    assert says in told.value
    assert told.remedy


def test_the_disk_that_counts_is_the_roots_own(pi: Path) -> None:
    mounts = "/dev/mmcblk0p2 / ext4 ro 0 0\n/dev/nvme0n1p1 /opt/continuonos ext4 rw 0 0\n"
    put(pi, **{"proc/self/mounts": mounts})
    assert found(pi, "mount").ok
    assert "nvme0n1p1" in found(pi, "mount").value


@pytest.mark.parametrize(
    ("gone", "check"), [("dev/i2c-1", "i2c"), ("run/systemd/timesync/synchronized", "clock")]
)
def test_what_is_missing_is_told(pi: Path, gone: str, check: str) -> None:
    (pi / gone).unlink()
    told = found(pi, check)
    assert not told.ok
    assert not told.needed
    assert told.remedy


def test_groups_that_this_user_lacks(pi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(doctor_pi, "_own_groups", lambda: {"video"})
    told = found(pi, "groups")
    assert not told.ok
    assert told.value == "not in i2c"
    assert told.remedy == "sudo usermod -aG i2c $USER, then log in again"
