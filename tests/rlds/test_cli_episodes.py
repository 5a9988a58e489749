from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from continuonbrain.cli import episodes
from continuonbrain.cli.episodes import app
from continuonbrain.configs import preset_bytes
from continuonbrain.rlds.writer import STEPS_FILE

RecordEpisode = Callable[..., Path]
runner = CliRunner()


def test_doctor_says_no_by_exit_code_and_names_the_place_in_json(record: RecordEpisode) -> None:
    path = record(3)
    healthy = runner.invoke(app, ["doctor", str(path), "--json"])
    assert healthy.exit_code == 0
    assert json.loads(healthy.stdout) == {"path": str(path), "healthy": True, "findings": []}
    file = path / STEPS_FILE
    file.write_bytes(file.read_bytes()[:-9])
    sick = runner.invoke(app, ["doctor", str(path), "--json"])
    assert sick.exit_code == 1
    found = json.loads(sick.stdout)["findings"]
    assert {finding["step"] for finding in found} == {2}
    assert all(finding["file"] and finding["remedy"] for finding in found)


def test_show_prints_a_summary_and_json(record: RecordEpisode) -> None:
    path = record(30)
    text = runner.invoke(app, ["show", str(path)]).stdout
    assert "30 steps, 30 frames" in text
    assert "keep left (30)" in text
    assert "not measured" in text
    assert json.loads(runner.invoke(app, ["show", str(path), "--json"]).stdout)["steps"] == 30


def test_export_writes_both_formats(tmp_path: Path, record: RecordEpisode) -> None:
    memory = record(2).parent
    for form in ("tfds", "steps"):
        out = tmp_path / form
        result = runner.invoke(app, ["export", str(memory), str(out), "--format", form, "--json"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["steps"] == 2
        assert any(out.rglob("*tfrecord*"))


def test_list_keeps_names_whole_in_80_columns(
    tmp_path: Path, record: RecordEpisode, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_bytes(preset_bytes("sim-donkey"))
    record(4, into=tmp_path / "rlds" / "episodes")
    row = episodes._row(tmp_path / "rlds" / "episodes" / "episode")
    long = {
        "id": "tub-069ce7c8-0000-of-a-long-name",
        "environment_id": "donkeycar-tub/the-tub-of-a-long-name",
    }
    monkeypatch.setattr(episodes, "_row", lambda _path: row | long | {"label": "drive slowly, keep left"})
    said = runner.invoke(app, ["list", "--root", str(tmp_path)], env={"COLUMNS": "80"})
    assert said.exit_code == 0, said.output
    assert long["id"] in said.output
    assert max(map(len, said.output.splitlines())) <= 80


def test_list_reads_the_memory_of_a_brain_root(tmp_path: Path, record: RecordEpisode) -> None:
    (tmp_path / "config.json").write_bytes(preset_bytes("sim-donkey"))
    record(4, into=tmp_path / "rlds" / "episodes")
    result = runner.invoke(app, ["list", "--root", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["episodes"]
    assert (row["id"], row["steps"], row["state"]) == ("episode", 4, "whole")
    for command in ("show", "doctor"):
        named = runner.invoke(app, [command, row["id"], "--root", str(tmp_path), "--json"])
        assert named.exit_code == 0, named.output
        assert json.loads(named.stdout)["path"] == row["path"]
