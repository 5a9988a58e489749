"""The plan's example does what it says, with the real base."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.storage.layout import BrainLayout, init_brain_root
from continuonbrain.trainer.examples.pi5_integration import main


@pytest.fixture
def layout(tmp_path: Path, taught: Path) -> BrainLayout:
    layout = init_brain_root(tmp_path / "b", "pi5-donkey", base_model=tiny_base_folder())
    for path in list_episodes(taught):
        shutil.copytree(path, layout.episodes_dir / path.name)
    settings = json.loads(layout.config_path.read_text())
    settings |= {"min_episodes": 4, "max_steps": 3, "batch_size": 4}
    settings["training"] |= {"threads": 1, "reflex_steps": 0, "rank": 2}
    layout.config_path.write_text(json.dumps(settings))
    return layout


def test_a_round_ends_in_a_judged_candidate(layout: BrainLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(layout.root), "--simulate-host"]) == 1  # three steps teach nothing
    said = capsys.readouterr().out
    assert "gate battery: open" in said
    assert "violates True" in said
    assert "numbers to learn" in said
    assert "\nread: 1 of 6" in said or "\nread: 0 of 6" in said
    assert "\ntrain: " in said
    assert "\njudge: " in said
    assert said.splitlines()[-1].startswith("refused: ")
    assert (layout.candidate / "verdict.json").is_file()
    assert not layout.current.exists()


def test_help_and_a_wrong_root_do_not_need_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "continuonbrain.trainer.examples.pi5_integration", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    told = run("--help")
    assert told.returncode == 0, told.stderr
    assert "--simulate-host" in told.stdout
    told = run("--root", str(tmp_path / "nowhere"))
    assert told.returncode == 2
    assert "not a brain root" in told.stderr
    told = run("--root", str(init_brain_root(tmp_path / "b", "sim-donkey").root))  # and here it is needed
    assert told.returncode == 2
    assert told.stderr.startswith("this needs the Python module torch")


def test_where_no_robot_tells_anything_the_gates_are_closed_and_nothing_is_trained(
    layout: BrainLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(layout.root)]) == 1
    said = capsys.readouterr().out
    assert "gate idle: closed" in said
    assert said.splitlines()[-1].startswith("gates: ")
    assert not layout.candidate.exists()
