"""A brain root of another user: whose it is, and how to run the command, in one sentence. No bare refusals."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.root_option import as_owner
from continuonbrain.errors import BelongsToAnotherError, told_from
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.storage.layout import BrainLayout, init_brain_root

OWNER = "nobody"
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
"""Root without the rights that let it into every folder: a user like any other."""
CAN_BE_ANOTHER = os.geteuid() == 0 and shutil.which("setpriv") is not None
as_another = pytest.mark.skipif(not CAN_BE_ANOTHER, reason="needs root and setpriv (util-linux)")


@pytest.fixture
def root(tmp_path: Path) -> BrainLayout:
    layout = init_brain_root(tmp_path / "brain", "sim-donkey", base_model=tiny_base_folder())
    for path in (layout.root, *layout.root.rglob("*")):
        shutil.chown(path, OWNER)
    return layout


def said(layout: BrainLayout, command: str) -> subprocess.CompletedProcess[str]:
    words = [*shlex.split(command), "--root", str(layout.root)]
    return subprocess.run(
        [*WITHOUT_RIGHTS, sys.executable, "-m", "continuonbrain", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"COLUMNS": "300"},
    )


@as_another
@pytest.mark.parametrize(
    "command",
    [
        "mode park",
        "adapters list",
        "train",
        "episodes list",
        "run --seconds 1",
        "init",
        "consolidate",
        "serve",
        "backup list",
    ],
)
def test_a_root_that_only_its_owner_may_read(root: BrainLayout, command: str) -> None:
    root.root.chmod(0o700)
    done = said(root, command)
    assert done.returncode == 2, done.stdout
    assert f"{root.root} belongs to the user {OWNER} and is closed to root" in done.stderr
    again = f"try: sudo -u {OWNER} {sys.executable} -m continuonbrain {command} --root {root.root}"
    assert again in done.stderr
    assert "Permission denied" not in done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) == 2


@as_another
def test_the_doctor_says_so_beside_what_it_finds_of_the_machine(root: BrainLayout) -> None:
    root.root.chmod(0o700)
    done = said(root, "doctor")
    assert done.returncode == 1
    assert f"belongs to the user {OWNER}" in done.stdout
    assert f"sudo -u {OWNER}" in done.stdout
    assert "Permission denied" not in done.stderr + done.stdout
    assert "python" in done.stdout


@as_another
@pytest.mark.parametrize("command", ["train", "run --seconds 1", "init", "serve", "consolidate"])
def test_a_root_that_all_may_read_and_its_owner_write(root: BrainLayout, command: str) -> None:
    root.root.chmod(0o755)
    done = said(root, command)
    assert done.returncode == 2
    assert f"belongs to the user {OWNER} and is closed to root" in done.stderr
    assert f"try: sudo -u {OWNER} " in done.stderr


def other(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """Everything that is there belongs to this user."""
    monkeypatch.setattr(Path, "lstat", lambda path: SimpleNamespace(st_uid=uid, at=os.lstat(path)))


def test_an_owner_without_a_name_is_named_as_sudo_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other(monkeypatch, 4_000_123)
    told = told_from(PermissionError(13, "Permission denied", str(tmp_path / "gone" / "config.json")))
    assert isinstance(told, BelongsToAnotherError)
    assert told.owner == "#4000123"
    assert f"{tmp_path} belongs to the user #4000123" in told.message


@pytest.mark.parametrize("uid", [0, os.geteuid()])
def test_what_is_the_systems_or_ones_own_is_nobody_elses(
    uid: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other(monkeypatch, uid)
    told = told_from(PermissionError(13, "Permission denied", str(tmp_path)))
    assert told is not None
    assert not isinstance(told, BelongsToAnotherError)
    assert told.remedy == "make it readable and writable for this user"


def test_opening_a_closed_root_is_an_error_that_a_person_can_act_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    other(monkeypatch, 4_000_123)
    monkeypatch.setattr(Path, "is_file", closed)
    with pytest.raises(BelongsToAnotherError):
        open_brain(tmp_path)


@pytest.mark.parametrize(
    ("argv", "environment", "command"),
    [
        (
            ["/venv/bin/continuonbrain", "train", "--root", "/my brain"],
            {"CONTINUONBRAIN_ROOT": "/other"},
            "sudo -u robot /venv/bin/continuonbrain train --root '/my brain'",
        ),
        (
            ["/venv/bin/continuonbrain", "train"],
            {"CONTINUONBRAIN_ROOT": "/other"},
            "sudo -u robot CONTINUONBRAIN_ROOT=/other /venv/bin/continuonbrain train",
        ),
        (["/x/main.py", "train"], {}, f"sudo -u robot {sys.executable} -m continuonbrain train"),
    ],
)
def test_the_command_can_be_copied(argv: list[str], environment: dict[str, Any], command: str) -> None:
    assert as_owner("robot", argv, environment) == command
