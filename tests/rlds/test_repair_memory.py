"""Repair of whole memories: names, the folder it writes to, a full disk, the command."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.rlds.repair import repair
from continuonbrain.rlds.repair_rules import part_names
from continuonbrain.rlds.repair_survey import survey
from continuonbrain.rlds.writer import BLOB_FILE, METADATA_FILE, STEPS_FILE, EpisodeWriter
from tests.rlds.sick_episodes import contents, small_steps, write_episode

RecordEpisode = Callable[..., Path]
runner = CliRunner()


def test_a_memory_is_repaired_episode_by_episode_and_one_in_use_is_left_alone(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    write_episode(memory, small_steps(2), "whole")
    torn = write_episode(memory, small_steps(3), "torn")
    os.truncate(torn / STEPS_FILE, (torn / STEPS_FILE).stat().st_size - 9)
    (write_episode(memory, small_steps(1), "bare") / METADATA_FILE).unlink()
    with EpisodeWriter(memory, metadata=make_metadata_example("live")) as live:
        live.write(small_steps(1)[0])
        results = {Path(result.source).name: result for result in repair(memory, tmp_path / "out")}
        with pytest.raises(EpisodeError, match="being recorded"):
            repair(live.path, tmp_path / "single")
    assert not (tmp_path / "single").exists()
    assert {name: result.action for name, result in results.items()} == {
        "bare": "repaired",
        "live": "in use",
        "torn": "repaired",
        "whole": "copied",
    }
    assert [path.name for path in list_episodes(tmp_path / "out")] == ["bare", "torn", "whole"]
    assert [finding for finding in examine(tmp_path / "out") if finding.severity == ERROR] == []
    assert any(finding.file == str(memory / "bare" / METADATA_FILE) for finding in examine(memory))
    again = repair(tmp_path / "out", tmp_path / "again")
    assert {result.action for result in again} == {"copied"}


def test_names_of_parts_keep_out_of_each_others_way() -> None:
    assert part_names("e", 1, set()) == ["e"]
    assert part_names("e", 2, {"e-b"}) == ["e-r-a", "e-r-b"]
    assert part_names("aside", 1, {"aside"}) == ["aside-a"]
    many = part_names("e" * 128, 30, set())
    assert many == sorted(many)
    assert len(set(many)) == 30
    assert {len(name) for name in many} == {128}


def test_out_must_be_new_and_outside_of_the_source(tmp_path: Path, record: RecordEpisode) -> None:
    path = record(2)
    before = contents(path.parent)
    with pytest.raises(EpisodeError, match="exists already"):
        repair(path, tmp_path)
    with pytest.raises(EpisodeError, match="inside the source"):
        repair(path, path / "out")
    with pytest.raises(EpisodeError, match="inside the source"):
        repair(path.parent, path.parent / "out")
    (tmp_path / "link").symlink_to(path)
    for out in (tmp_path / "link" / "out", path.parent / ".." / path.parent.name / path.name / "out"):
        with pytest.raises(EpisodeError, match="inside the source"):
            repair(path, out)
    with pytest.raises(EpisodeError, match="no such episode"):
        repair(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EpisodeError, match="no episode in it"):
        repair(tmp_path / "empty", tmp_path / "out")
    assert contents(path.parent) == before


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_episode(tmp_path / "memory", small_steps(2))
    os.truncate(path / BLOB_FILE, (path / BLOB_FILE).stat().st_size - 1)
    before = contents(path)

    def no_space(*_: object, **__: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("continuonbrain.rlds.repair.rewritten", no_space)
    with pytest.raises(OSError, match="No space"):
        repair(path, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []
    assert contents(path) == before


def test_the_command_says_what_it_did_and_its_exit_code_whether_a_step_was_kept(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "memory", small_steps(3))
    os.truncate(path / STEPS_FILE, (path / STEPS_FILE).stat().st_size - 9)
    told = runner.invoke(app, ["repair", str(path), str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    assert "2 steps kept, 1 set aside" in told.output
    assert f"aside: {STEPS_FILE}, step 2, bytes " in told.output
    assert "is_last is now true at step 1" in told.output
    assert runner.invoke(app, ["doctor", str(tmp_path / "out"), "--json"]).exit_code == 0
    as_json = runner.invoke(app, ["repair", str(path), str(tmp_path / "out2"), "--json"])
    (entry,) = json.loads(as_json.stdout)["episodes"]
    assert (entry["action"], entry["steps_kept"], entry["steps_aside"]) == ("repaired", 2, 1)
    assert entry["aside"][0]["field"] == "crc32c"
    (path / STEPS_FILE).write_bytes(b"")
    nothing = runner.invoke(app, ["repair", str(path), str(tmp_path / "out3"), "--json"])
    assert nothing.exit_code == 1
    assert json.loads(nothing.stdout)["steps_kept"] == 0


def test_a_survey_of_a_whole_episode_finds_nothing_to_put_aside(tmp_path: Path) -> None:
    found = survey(write_episode(tmp_path / "memory", small_steps(3)))
    assert (found.aside, found.notes, found.lines, found.sealed) == ([], [], 3, True)
