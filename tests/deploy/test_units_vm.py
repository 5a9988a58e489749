"""What of the emulated machine's check can be tried without one: its report, its disk's recipe, its probe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.install.settings import InstallSettings
from continuonbrain.install.units import SERVICES, unit_files

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "deploy/arm64"))

import units  # noqa: E402
import vm_container  # noqa: E402
import vm_image  # noqa: E402
import vm_machine  # noqa: E402
import vm_parts  # noqa: E402
import vm_report  # noqa: E402
import vm_walls  # noqa: E402

TOLD: list[dict[str, Any]] = [
    {"systemd": "252", "kernel": "6.1"},
    {"name": "installs", "ok": True, "seconds": 1.5, "detail": "well"},
    {"name": "becomes_ready", "ok": True, "seconds": 2.0, "detail": "all"},
    {"end": True, "ok": True},
]


def console(told: list[dict[str, Any]]) -> bytes:
    lines = [f"[ 1.0] a driver says {{}}\r\n{vm_report.MARK}{json.dumps(line)}\r\n" for line in told]
    return "".join(lines).encode()


@given(cut=st.lists(st.integers(1, 400), max_size=6))
def test_the_report_is_the_same_however_the_console_comes_in(cut: list[int]) -> None:
    data, report, at = console(TOLD), vm_report.Report("cortex-a76"), 0
    seen = []
    for size in [*cut, len(data)]:
        seen += report.feed(data[at : at + size])
        at += size
    assert [part.name for part in seen] == ["installs", "becomes_ready"]
    told = report.to_json()
    assert told["ok"] is True
    assert told["emulated"] is True
    assert (told["systemd"], told["kernel"], told["cpu"]) == ("252", "6.1", "cortex-a76")
    assert [part["seconds"] for part in told["parts"]] == [1.5, 2.0]


@pytest.mark.parametrize(
    "told",
    [
        [],
        TOLD[:1],
        TOLD[:-1],  # it ended before it was done
        [TOLD[0], TOLD[-1]],  # nothing was shown
        [*TOLD[:2], {"name": "becomes_ready", "ok": False, "seconds": 1, "detail": "no"}, TOLD[-1]],
    ],
)
def test_what_was_not_shown_is_not_ok(told: list[dict[str, Any]]) -> None:
    report = vm_report.Report("cortex-a76")
    report.feed(console(told))
    assert not report.ok
    assert report.to_json()["ok"] is False


def test_a_failure_tells_its_journal() -> None:
    report = vm_report.Report("cortex-a76")
    (part,) = report.feed(console([{"name": "devices", "ok": False, "detail": "EPERM", "journal": "why"}]))
    assert part.line().splitlines() == ["FAIL devices (0 s): EPERM", "why"]
    assert "0 of 1 parts" in report.summary()


def test_modules_come_after_what_they_need() -> None:
    dep = (
        "kernel/fs/ext4.ko: kernel/fs/jbd2.ko kernel/lib/crc16.ko\n"
        "kernel/fs/jbd2.ko:\n"
        "kernel/lib/crc16.ko:\n"
        "kernel/virtio_blk.ko: kernel/virtio.ko\n"
        "kernel/virtio.ko:\n"
    )
    order = vm_image.load_order(dep, ("virtio_blk", "built-in", "ext4"))
    assert order == [
        "kernel/virtio.ko",
        "kernel/virtio_blk.ko",
        "kernel/lib/crc16.ko",
        "kernel/fs/jbd2.ko",
        "kernel/fs/ext4.ko",
    ]


def test_the_disk_has_what_the_package_needs() -> None:
    text = (TREE / "pyproject.toml").read_text()
    wanted = vm_image.requirements(text, vm_image.EXTRAS)
    assert any(line.startswith("torch") for line in wanted)
    assert any(line.startswith("numpy") for line in wanted)
    with pytest.raises(vm_image.BuildError, match="no extra wings"):
        vm_image.requirements(text, ("wings",))


def test_missing_tools_are_named() -> None:
    with pytest.raises(vm_image.BuildError, match=r"apt install .*qemu-system-arm.*pip install uv"):
        vm_image.need_tools(lambda _name: None)


@pytest.mark.parametrize("process", ["control", "policy"])
def test_the_probe_stands_behind_the_same_walls(process: str, tmp_path: Path) -> None:
    settings = InstallSettings(Path("/opt/continuonos/brain"), Path("/usr/bin/env"))
    files = unit_files(settings)
    text = files[f"continuonbrain-{process}.service"]
    probe = vm_walls.probe_unit(text, Path("/opt/continuonos/brain/probe.json"))
    walls = (
        "Protect",
        "Private",
        "Restrict",
        "Device",
        "SystemCall",
        "NoNew",
        "Capab",
        "User=",
        "ReadWrite",
        "Memory",
    )
    ours = [line for line in text.splitlines() if line.startswith(walls)]
    assert len(ours) > 20
    assert [line for line in probe.splitlines() if line.startswith(walls)] == ours
    assert "Type=oneshot" in probe
    assert "Type=notify" not in probe
    assert "ExecStopPost=" not in probe
    assert probe.count("ExecStart=") == 1
    if shutil.which("systemd-analyze"):
        unit = tmp_path / "probe.service"
        unit.write_text(probe.replace(vm_machine.PYTHON, "/usr/bin/env"))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
        )
        assert "probe.service" not in done.stdout + done.stderr


def test_it_looks_at_every_unit_that_is_installed() -> None:
    assert {vm_machine.unit(process) for process in vm_machine.PROCESSES} == set(SERVICES)


def test_the_machine_is_a_pi_s_cpu_without_a_network() -> None:
    command = units.machine(vm_image.Built(Path("k"), Path("i"), Path("d")))
    assert command[command.index("-cpu") + 1] == "cortex-a76"
    assert command[command.index("-nic") + 1] == "none"


def test_one_part_can_be_asked_for() -> None:
    command = units.machine(vm_image.Built(Path("k"), Path("i"), Path("d")), "walls_hold,devices")
    words = command[command.index("-append") + 1]
    assert vm_machine.asked_for(words) == ["walls_hold", "devices"]
    assert vm_machine.asked_for("console=ttyAMA0 quiet") == []


def test_the_container_runs_parts_that_there_are_and_all_but_one(tmp_path: Path) -> None:
    names = [part.__name__ for part in vm_parts.ALL]
    assert set(names) - set(vm_container.PARTS) == {"devices"}
    assert [name for name in names if name in vm_container.PARTS] == list(vm_container.PARTS)
    assert "memory_limit" not in vm_container.parts_here(cgroups=tmp_path)
    (tmp_path / "cgroup.controllers").touch()
    assert vm_container.parts_here(cgroups=tmp_path) == vm_container.PARTS
    assert f"--parts {','.join(vm_container.PARTS)}" in vm_container.service(vm_container.PARTS)
    words = vm_container.script(TREE, tmp_path)
    # This computer is seen read-only: everything that is written goes into the copy, or is told.
    assert words.count("--bind=") == 1
    assert f"--bind={tmp_path}/told:" in words
    done = subprocess.run(["bash", "-n"], input=words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_machine_that_dies_is_a_failure(tmp_path: Path) -> None:
    report = vm_report.Report("cortex-a76")
    words = f"import sys; sys.stdout.buffer.write({console(TOLD[:2])!r})"
    units.watch([sys.executable, "-c", words], report, tmp_path / "console.log", say=False, limit_s=30)
    assert [part.name for part in report.parts] == ["installs"]
    assert not report.ok
