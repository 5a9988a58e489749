"""`continuonbrain train` as a command: what it answers when nothing comes of it, in words and as an exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from continuonbrain.cli.train import gates_advice, summary, trained_text
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
    *_, came, following = said.stdout.splitlines()
    assert came.startswith("nothing was learned; 0 of ")
    assert following.startswith("next: more episodes: continuonbrain run")
    programs = train("--root", str(layout.root), "--json")
    assert programs.returncode == 1
    assert json.loads(programs.stdout)["phase"] == "waiting"


def test_no_root_needs_a_person(tmp_path: Path) -> None:
    said = train("--root", str(tmp_path / "nowhere"))
    assert said.returncode == 2
    assert "init" in said.stderr


def test_layers_that_a_shared_layer_lacks_are_said_to_be_left_out(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    path = layout.root / "config.json"
    config = json.loads(path.read_text()) | {"lora_layers": ["q_proj", "k_proj", "v_proj"]}
    path.write_text(json.dumps(config))
    assert "lora_layers: k_proj, v_proj left out" in train("--root", str(layout.root)).stdout


def test_what_a_job_did_is_one_line() -> None:
    figures = {"steps": 294, "train_s": 58.1, "ended": "wall time", "samples": 900, "recalled": 12}
    said = trained_text(figures | {"resumed_at": 30, "reflex_steps": 137, "reflex_s": 11.6})
    assert (
        "294 LoRA steps in 58.1 s, ended by max_wall_time_s of config.json, gone on with at step 30" in said
    )
    assert "137 steps of the reflex head" in said
    assert "12 of 900" in said
    assert "gone on" not in trained_text(figures | {"resumed_at": 0})


_DID = {"episodes": 9, "held_out": 3}


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (
            Outcome(
                "promoted", "000002-ab drives now", verdict={"passed": True}, training=_DID, left_out=["x"]
            ),
            (
                "learned from 9 episodes (3 more held out to judge it), 1 left out; the verdict is yes; promoted: "
                "000002-ab drives now"
            ),
        ),
        (
            Outcome("refused", "no gain", verdict={"passed": False}, training=_DID),
            (
                "learned from 9 episodes (3 more held out to judge it); the verdict is no; not promoted, "
                "what drove before goes on: no gain"
            ),
        ),
        (
            Outcome("refused", "of another base", verdict={"passed": True}),
            (
                "nothing was trained, the candidate was judged; the verdict is yes; not promoted, what drove "
                "before goes on: of another base"
            ),
        ),
        (
            Outcome("judged", "passed; not promoted yet (--hold)", verdict={"passed": True}, training=_DID),
            (
                "learned from 9 episodes (3 more held out to judge it); the verdict is yes; not promoted yet "
                "(--hold)"
            ),
        ),
        (
            Outcome("promoted", "000002-ab drives now"),
            "nothing was trained: the candidate of an earlier round has passed; promoted: 000002-ab drives now",
        ),
        (Outcome("gates", "idle: 3 s"), "nothing was learned; gates are closed: idle: 3 s"),
        (Outcome("waiting", "2 of 8 episodes"), "nothing was learned; 2 of 8 episodes"),
    ],
)
def test_what_came_of_it_is_one_sentence(outcome: Outcome, sentence: str) -> None:
    assert summary(outcome) == sentence


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


def test_a_pause_gets_the_step_that_ends_it(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "b", "pi5-donkey")
    opened, shut = {"open": True, "reason": ""}, {"open": False, "reason": ""}
    paused = gates_advice({"gates": {"owner": shut, "idle": opened}}, layout, simulated=True)
    assert str(layout.owner_pause_path) in paused
    assert "--simulate-host" not in paused
    assert "idle" not in paused
    warm = gates_advice({"gates": {"owner": opened, "temperature": shut}}, layout, simulated=False)
    assert warm == "wait until the robot is idle, cool and charged; where no robot runs: --simulate-host"
    both = gates_advice({"gates": {"owner": shut, "temperature": shut}}, layout, simulated=False)
    assert str(layout.owner_pause_path) in both
    assert "--simulate-host" in both
    assert "--simulate-host" not in gates_advice({"gates": {"disk": shut}}, layout, simulated=True)
    assert "daily" in gates_advice({"gates": {"budget": shut}}, layout, simulated=True)


def test_what_is_kept_unseen_for_exams_is_counted() -> None:
    told = {"episodes": 12, "held_out": 4, "for_exams": 1}
    said = summary(Outcome("refused", "why", training=told, verdict={"passed": False}))
    assert "learned from 12 episodes (4 more held out to judge it, 1 kept unseen for" in said
