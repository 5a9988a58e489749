"""Claims about the parts of the arm64 checks that need no emulator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cpio
import debian_root
import fake_pi
import powercut
import pytest
import smoke
from emulation import binfmt_line, script
from machine import in_order
from write_log import Told, Write

REPOSITORY = Path(__file__).resolve().parents[2]


def test_everything_that_is_missing_is_said_at_once_with_its_remedy() -> None:
    tools = {"mkfs.ext4": "e2fsprogs", "e2fsck": "e2fsprogs", "uv": "uv (pip install uv)", "sh": "dash"}
    problems = debian_root.missing(tools, uid=1000, release="6.1.0-1-amd64", which={"sh": "/bin/sh"}.get)
    assert len(problems) == 3
    assert "sudo" in problems[0]
    assert "apt-get install e2fsprogs" in problems[1]
    assert "mkfs.ext4" in problems[1]
    assert "pip install uv" in problems[2]
    assert debian_root.missing(tools, uid=0, release="6.1.0-1-amd64", which=lambda tool: tool) == []


def test_an_old_kernel_is_said_where_it_matters() -> None:
    def problems(tools: dict[str, str], release: str) -> list[str]:
        return debian_root.missing(tools, uid=0, release=release, which=lambda tool: tool)

    for release in ("5.15.0", "6.1.0-1-amd64", "6.6.99", "strange"):
        assert release in problems(debian_root.USER_EMULATION, release)[0]
        assert problems(debian_root.MACHINE_EMULATION, release) == []
    for release in ("6.7.0", "6.18.44-x", "7.0"):
        assert problems(debian_root.USER_EMULATION, release) == []


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (
        debian_root.locked(tmp_path / "w"),
        pytest.raises(SystemExit, match="--work"),
        debian_root.locked(tmp_path / "w"),
    ):
        pass


def test_torch_is_the_last_one_without_cuda_on_arm64_and_another_elsewhere() -> None:
    text = (REPOSITORY / "constraints.txt").read_text()
    there, here = (smoke.pinned(text, machine=machine) for machine in ("aarch64", "x86_64"))
    assert there["torch"] == "2.10.0"
    assert here["torch"] != there["torch"]
    assert there["numpy"] == here["numpy"]
    assert there["ai-edge-litert"]
    assert "typing-extensions" in there


def platform_told(**changes: Any) -> str:
    pins = smoke.pinned((REPOSITORY / "constraints.txt").read_text(), machine="aarch64")
    told = {
        "machine": "aarch64",
        "python": "3.11.2",
        "cpuinfo": ["0xd0b"],
        "torch": "2.10.0+cpu",
        "torch_cuda": None,
        "installed": {"torch": "2.10.0+cpu", "Numpy": pins["numpy"], "unpinned": "1"},
    }
    return "some warning\n" + json.dumps(told | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"machine": "x86_64"}, "x86_64"),
        ({"cpuinfo": ["0xd08"]}, "0xd08"),
        ({"torch_cuda": "13.0"}, "13.0"),
        ({"installed": {"torch": "2.13.0"}}, "2.13.0"),
        ({"installed": {"nvidia-cublas": "13"}}, "nvidia-cublas"),
    ],
)
def test_another_machine_or_other_versions_fail(changes: dict[str, Any], said: str) -> None:
    assert "2 versions" in smoke.check_platform(platform_told())
    with pytest.raises(smoke.PartFailed, match=said):
        smoke.check_platform(platform_told(**changes))


@pytest.mark.parametrize("answer", [1.001, float("nan"), float("inf")])
def test_an_engine_that_answers_otherwise_fails(answer: float) -> None:
    native = {"torch_base": [[1.0, 2.0]], "torch_adapter": [[1.5, 2.0]], "litert_fp32_base": [[9.0]]}
    check = smoke.check_answers(native, "torch")
    assert "base" in check(json.dumps({"torch_base": [[1.0, 2.0]], "torch_adapter": [[1.5, 2.0]]}))
    with pytest.raises(smoke.PartFailed, match="differs"):
        check(json.dumps({"torch_base": [[answer, 2.0]], "torch_adapter": [[1.5, 2.0]]}))
    with pytest.raises(smoke.PartFailed, match="asked for"):
        check(json.dumps({"torch_base": [[1.0, 2.0]]}))


def test_an_adapter_without_effect_fails() -> None:
    same = {"torch_base": [[1.0, 2.0]], "torch_adapter": [[1.0, 2.0]]}
    with pytest.raises(smoke.PartFailed, match="moves"):
        smoke.check_answers(same, "torch")(json.dumps(same))


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (smoke.check_recorder, '{"rounds": 2, "acknowledged_steps": 0, "acknowledged_steps_lost": 0}'),
        (
            smoke.check_recorder,
            '{"rounds": 2, "acknowledged_steps": 5, "acknowledged_steps_lost": 1, "unreadable_episodes": 0}',
        ),
        (smoke.check_guards, '{"violations": 0, "control": 0}'),
        (smoke.check_tests, "1 failed, 3 passed in 2 s"),
        (smoke.check_tests, ""),
        (smoke.check_store, '{"history_ok": false}'),
        (smoke.check_platform, "Traceback: killed"),
    ],
)
def test_a_part_that_did_not_do_its_work_fails(check: Any, text: str) -> None:
    with pytest.raises(smoke.PartFailed):
        check(text)


def test_the_last_object_of_an_output_is_read_on_one_line_or_many() -> None:
    assert smoke.last_json('{"a": 1}\nnoise\n{\n  "b": {\n    "c": 2\n  }\n}\n') == {"b": {"c": 2}}


def test_the_script_quotes_what_a_shell_would_read() -> None:
    text = script(Path("/r"), ["echo", "a b; reboot"], {Path("/x y"): "/tmp"}, {"A": "$HOME"})
    assert "'a b; reboot'" in text
    assert "'/x y'" in text
    assert "'A=$HOME'" in text
    assert text.index("binfmt_misc/register") < text.index("exec")


def test_the_binfmt_line_matches_arm64_programs_only() -> None:
    magic, mask = (
        bytes.fromhex(part.replace("\\x", "")) for part in binfmt_line().split(":")[4:6]
    )  # fmt: skip

    def matches(header: bytes) -> bool:
        return bytes(h & m for h, m in zip(header, mask, strict=True)) == magic

    arm64 = bytes.fromhex("7f454c4602010100 0000000000000000 0300b700")
    x86 = bytes.fromhex("7f454c4602010100 0000000000000000 03003e00")
    assert matches(arm64)
    assert not matches(x86)


def test_the_fake_processor_is_a_cortex_a76(tmp_path: Path) -> None:
    cpuinfo, cpu = fake_pi.write(tmp_path)
    assert cpuinfo.read_text().count("CPU part\t: 0xd0b") == 4
    assert "CPU variant\t: 0x4" in cpuinfo.read_text()
    assert (cpu / "cpu3/regs/identification/midr_el1").read_text() == "0x00000000414fd0b1\n"


def test_modules_come_after_what_they_need() -> None:
    def module(*needs: str) -> bytes:
        return b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"

    modules = {"a": module("b-c", "built_in"), "b_c": module("d"), "d": module(), "unused": module()}
    assert in_order(["a", "d", "absent"], modules) == ["d", "b_c", "a"]


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs the program cpio")
def test_cpio_reads_the_archive(tmp_path: Path) -> None:
    files = {"init": b"#!/bin/sh\n", "a/b/c": b"12345", "a/empty": b""}
    subprocess.run(
        ["cpio", "-idm", "--quiet"], input=cpio.archive(files), cwd=tmp_path, check=True, timeout=30
    )
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    assert (tmp_path / "init").stat().st_mode & 0o111


def ran(*lines: Told) -> powercut.Run:
    writes = [Write(0, 0, at, at + 512) for at in range(512, 5120, 512)]
    return powercut.Run("sync", b"", bytes(5632), writes, list(lines))


def entry(recorder: int = 0, promotion: int = 0) -> dict[str, Any]:
    return {"image": 0, "mounted": True, "recorder": ["x"] * recorder, "promotion": ["x"] * promotion}


@pytest.mark.parametrize(
    ("found", "control", "ok"),
    [
        ([entry(), entry()], [entry(1), entry(0, 1)], True),
        ([entry(), entry(1)], [entry(1), entry(0, 1)], False),
        ([entry(), entry()], [entry(), entry()], False),
        (
            [entry(), entry()],
            [entry(3), entry(1)],
            False,
        ),  # promotions survive without fsync: nothing is shown
    ],
)
def test_a_check_whose_control_finds_nothing_is_not_ok(
    found: list[dict[str, Any]], control: list[dict[str, Any]], ok: bool
) -> None:
    told = powercut.report(ran(Told(0, "SYNCED e 5"), Told(0, "PROMOTED 2")), found, control)
    assert told["ok"] is ok
    assert (told["images"], told["control_images"]) == (2, 2)
    assert (told["recorder"]["acknowledged"], told["promotion"]["acknowledged"]) == (5, 2)


def test_the_power_goes_after_the_first_acknowledgement_only() -> None:
    import random

    found = powercut.cuts(ran(Told(2048, "PROMOTING 1")), 500, random.Random(0))
    assert set(found) == set(range(4, 10))
    with pytest.raises(SystemExit, match="--seconds"):
        powercut.cuts(ran(Told(9999, "PROMOTING 1")), 1, random.Random(0))


def test_zeros_of_an_image_are_holes_and_images_do_not_touch(tmp_path: Path) -> None:
    disks = tmp_path / "disks"
    with disks.open("wb") as file:
        file.truncate(3 << 20)
    image = bytearray(1 << 20)
    image[-1] = 7
    powercut.write_sparse(disks, 1, image)
    data = disks.read_bytes()
    assert data[(2 << 20) - 1] == 7
    assert data.count(0) == len(data) - 1
    assert disks.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("program", ["smoke.py", "powercut.py"])
def test_help_needs_neither_root_nor_tools_and_nonsense_is_refused(program: str) -> None:
    path = REPOSITORY / "deploy" / "arm64" / program
    told = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0
    assert "--json" in told.stdout
    bad = subprocess.run([sys.executable, path, "--images", "0"], capture_output=True, text=True, timeout=60)
    assert bad.returncode == 2
    assert "--images" in bad.stderr
