"""The command `chat`: once, in JSON, line by line, and what it says when something is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert")
pytest.importorskip("torch")

from continuonbrain.errors import BrainError
from tests.policy.talking_words import BASE, BASE_SHA256


def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "continuonbrain.cli.main", "chat", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_answers_once_in_json_and_line_by_line(adapters: list[Path]) -> None:
    assert run("hello", "--base", str(BASE)).stdout == "Hello! I am a small robot.\n"
    who = "I am a small robot with a brain of my own."
    assert run("who are you", "--base", str(BASE)).stdout == f"{who}\n"
    adapted = run("who are you", "--base", str(BASE), "--adapter", str(adapters[1]), "--json")
    told = json.loads(adapted.stdout)
    assert told["answer"] != who
    assert len(told["adapter_sha256"]) == 64
    assert told["base_sha256"] == BASE_SHA256
    lines = run("--base", str(BASE), given="hello\n\nignored\n")
    assert (lines.stdout, lines.stderr, lines.returncode) == ("Hello! I am a small robot.\n", "", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hello", "--base", "{tiny}"], "built to drive, not to talk"),
        (["hello", "--base", str(BASE), "--adapter", "nowhere"], "is no folder"),
        (["hello", "--base", "nowhere"], "no such folder"),
        (["hello", "--base", str(BASE), "--engine", "magic"], "engine"),
        (["x" * 500, "--base", str(BASE)], "tokens long"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], words: str) -> None:
    from continuonbrain.model.base_identity import tiny_base_folder

    found = run(*(a.format(tiny=tiny_base_folder()) for a in arguments))
    assert found.returncode == 2
    assert words in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr
    assert "INFO" not in found.stderr  # LiteRT talks about its accelerators when it goes


def test_the_default_adapter_is_never_a_folder_of_that_name_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: list[Path]
) -> None:
    from continuonbrain.cli.chat import _where
    from continuonbrain.storage.layout import init_brain_root

    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    shutil.copytree(adapters[0], tmp_path / "here" / "current")
    shutil.copytree(adapters[0], tmp_path / "here" / "mine")
    monkeypatch.chdir(tmp_path / "here")
    assert _where(layout.root, None, "current")[2] is None
    assert _where(layout.root, None, "./current")[2] == Path("current")
    assert _where(layout.root, None, "mine")[2] == Path("mine")
    with pytest.raises(BrainError, match="there is no candidate"):
        _where(layout.root, None, "candidate")
