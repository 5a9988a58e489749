"""`continuonbrain train` as a command: what it answers when nothing comes of it, in words and as an exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from continuonbrain.loops.mid import Outcome
from continuonbrain.storage.layout import init_brain_root


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "continuonbrain.cli.main", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_too_few_episodes_is_a_no_with_what_to_do(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    said = train("--root", str(layout.root))
    assert said.returncode == 1, said.stderr
    assert "min_episodes" in said.stdout
    assert "next: record or import more episodes" in said.stdout
    programs = train("--root", str(layout.root), "--json")
    assert programs.returncode == 1
    assert json.loads(programs.stdout)["phase"] == "waiting"


def test_no_root_needs_a_person(tmp_path: Path) -> None:
    said = train("--root", str(tmp_path / "nowhere"))
    assert said.returncode == 2
    assert "init" in said.stderr


@pytest.mark.parametrize(
    ("outcome", "no"),
    [
        (Outcome("promoted", ""), False),
        (Outcome("judged", ""), False),
        (Outcome("refused", ""), True),
        (Outcome("gates", ""), True),
        (Outcome("waiting", ""), True),
        (Outcome("waiting", "", nothing_new=True), False),
    ],
)
def test_what_is_a_no(outcome: Outcome, no: bool) -> None:
    assert outcome.said_no is no
