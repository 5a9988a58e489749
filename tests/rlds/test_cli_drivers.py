"""`episodes list` and `stats` know who drove, to what label, and what a person marked as bad."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.configs import preset_bytes
from continuonbrain.rlds.marking import driver_of, mark
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.step import SOURCE_AUTOPILOT, SOURCE_HUMAN
from tests.rlds.valid_examples import make_metadata_example, make_step_example

runner = CliRunner()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One episode of each driver, and one of a person that is marked as bad."""
    (tmp_path / "config.json").write_bytes(preset_bytes("sim-donkey"))
    for name, role, tags in (
        ("taught", "human_teleop", ("teach", "track:3", "instruction:drive")),
        ("shown", "human_teleop", ("teleop", "instruction:keep left")),
        ("mistake", "human_teleop", ("correction", "instruction:keep left")),
        ("driven", "autonomous", ("drive", "instruction:drive")),
    ):
        metadata = replace(make_metadata_example(name), control_role=role, tags=tags)
        recorder = EpisodeRecorder(tmp_path / "rlds" / "episodes", metadata=metadata)
        for tick in range(3):
            source = SOURCE_HUMAN if role == "human_teleop" else SOURCE_AUTOPILOT
            assert recorder.append(replace(make_step_example(tick), source=source))
        folder = recorder.close()
        if name == "mistake":
            mark(folder, bad=True)
    return tmp_path


def test_list_says_who_drove_to_what_label_and_what_is_bad(root: Path) -> None:
    told = runner.invoke(app, ["list", "--root", str(root), "--json"])
    rows = json.loads(told.stdout)["episodes"]
    assert sorted((r["driver"], r["label"], r["bad"]) for r in rows) == [
        ("person", "keep left", False),
        ("person", "keep left", True),
        ("policy", "drive", False),
        ("simulated teacher", "drive", False),
    ]
    shown = runner.invoke(app, ["list", "--root", str(root)], env={"COLUMNS": "200"}).stdout
    assert "simulated teacher" in shown
    assert shown.count("marked as bad") == 1


def test_stats_count_drivers_labels_and_marks_and_leave_the_bad_out_of_training(root: Path) -> None:
    told = json.loads(runner.invoke(app, ["stats", "--root", str(root), "--json"]).stdout)
    assert told["episodes_by_driver"] == {"person": 2, "policy": 1, "simulated teacher": 1}
    assert told["episodes_by_label"] == {"drive": 2, "keep left": 2}
    assert told["episodes_marked_bad"] == 1
    assert told["training"]["left_out_steps"]["episode marked as bad"] == 3
    shown = runner.invoke(app, ["stats", "--root", str(root)], env={"COLUMNS": "200"}).stdout
    assert "drivers: person (2), policy (1), simulated teacher (1)" in shown
    assert "marked as bad: 1, nobody learns from them" in shown


def test_an_imported_drive_is_a_persons_and_who_says_nothing_is_nobodys() -> None:
    metadata = make_metadata_example("e")
    assert driver_of(replace(metadata, control_role="human_teleop", tags=("teach",))) == "person"
    assert driver_of(replace(metadata, control_role="", tags=())) == ""
