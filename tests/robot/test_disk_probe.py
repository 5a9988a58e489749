"""Claims about the disk's free space: one that stands still is tried, one that cannot be moved shows no life."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from continuonbrain.robot.disk_probe import DiskProbe
from continuonbrain.robot.host import LinuxHost


def answer(free: int, flags: int = 0) -> os.statvfs_result:
    return os.statvfs_result((4096, 4096, 10**6, free, free, 1, 1, 1, flags, 255))


def test_a_quiet_disk_is_tried_and_shows_life(tmp_path: Path) -> None:
    now, shown = [0.0], 500_000

    def quiet(path: Path) -> os.statvfs_result:
        """Nobody writes here but the trial, whose space is missing from a real disk."""
        blocks = sum(os.fstat(int(fd)).st_blocks for fd in os.listdir("/proc/self/fd") if trial(fd, tmp_path))
        return answer(shown - blocks * 512 // 4096)

    probe = DiskProbe(tmp_path, clock=lambda: now[0], statvfs=quiet, quiet_s=600.0)
    assert probe.take() == (shown * 4096 / 2**20, 1.0)
    now[0] = 599.0
    assert probe.take()[1] == 1.0, "not tried yet"
    now[0] = 601.0
    assert probe.take()[1] == 2.0
    assert list(tmp_path.iterdir()) == []


def trial(fd: str, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(str(folder))
    except OSError:
        return False


def test_a_number_that_does_not_move_shows_no_life_and_is_not_tried_at_every_look(tmp_path: Path) -> None:
    now, looks = [0.0], [0]

    def frozen(path: Path) -> os.statvfs_result:
        looks[0] += 1
        return answer(500_000)

    probe = DiskProbe(tmp_path, clock=lambda: now[0], statvfs=frozen, quiet_s=600.0)
    for now[0] in range(0, 660, 1):
        assert probe.take()[1] == 1.0
    assert looks[0] == 660 + 6, "one trial of three tries"


def test_a_disk_that_is_mounted_read_only_or_cannot_be_written_is_no_reading(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="read-only"):
        DiskProbe(tmp_path, clock=lambda: 0.0, statvfs=lambda _p: answer(9999, os.ST_RDONLY)).take()
    host = LinuxHost(tmp_path, names=("disk_free_mib",), statvfs=lambda _p: answer(9999, os.ST_RDONLY))
    reading = host.read().disk_free_mib
    assert reading.value is None
    assert "mounted read-only" in (reading.error or "")
    gone = DiskProbe(tmp_path / "gone", clock=lambda: 0.0, statvfs=lambda _p: answer(500_000), quiet_s=0.0)
    gone.take()
    with pytest.raises(OSError, match="gone"):
        gone.take()


def test_a_disk_that_refused_a_trial_is_no_reading_until_one_succeeds(tmp_path: Path) -> None:
    now, free = [0.0], [500_000]
    root = tmp_path / "root"
    probe = DiskProbe(root, clock=lambda: now[0], statvfs=lambda _p: answer(free[0]), quiet_s=10.0)
    probe.take()
    for now[0] in (11.0, 12.0, 40.0, 80.0, 100.0):
        free[0] -= now[0] > 20.0  # somebody else still can
        with pytest.raises(OSError, match="nothing can be reserved"):
            probe.take()
    root.mkdir()
    now[0] = 150.0
    probe.take()


def test_the_real_disk_of_this_machine_can_be_moved(tmp_path: Path) -> None:
    now = [0.0]
    probe = DiskProbe(tmp_path, clock=lambda: now[0], quiet_s=0.0)
    seen = [probe.take()[1] for now[0] in (0.0, 100.0, 200.0)]
    assert seen == [1.0, 2.0, 3.0]
