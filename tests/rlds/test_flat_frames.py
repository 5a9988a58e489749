"""A flat JSON episode with its frames beside it, damaged: what doctor and repair make of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from continuonbrain.rlds import reader
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.flat import export_flat
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.repair import repair

RecordEpisode = Callable[..., Path]


@pytest.fixture
def flat(tmp_path: Path, record: RecordEpisode) -> Path:
    """NAME.json of five steps, NAME.frames beside it."""
    (tmp_path / "flat").mkdir()
    file = tmp_path / "flat" / "run.1.json"
    export_flat(open_episode(record(5)), file)
    return file


def _frame(flat: Path, index: int) -> Path:
    return flat.with_name("run.1.frames") / f"{index:06d}.jpg"


def test_a_whole_one_becomes_a_folder_with_every_frame(flat: Path, tmp_path: Path) -> None:
    assert examine(flat) == []
    before = [open_episode(flat).frame_jpeg(index) for index in range(5)]
    (result,) = repair(flat, tmp_path / "out")
    assert (result.steps_kept, result.aside) == (5, ())
    (folder,) = map(Path, result.episodes)
    assert [open_episode(folder).frame_jpeg(index) for index in range(5)] == before
    assert [finding for finding in examine(folder) if finding.severity == ERROR] == []


def test_frames_that_are_not_whole_are_findings_and_are_set_aside(flat: Path, tmp_path: Path) -> None:
    _frame(flat, 1).unlink()
    data = bytearray(_frame(flat, 3).read_bytes())
    data[:8] = bytes(8)
    _frame(flat, 3).write_bytes(data)
    (flat.with_name("run.1.frames") / "extra.jpg").write_bytes(b"of no step")
    found = [finding for finding in examine(flat) if finding.severity == ERROR]
    assert [(f.step, f.field, Path(f.file).name) for f in found] == [
        (1, "observation.frame", "000001.jpg"),
        (3, "observation.frame", "000003.jpg"),
    ]
    assert all("repair" in finding.remedy for finding in found)
    (result,) = repair(flat, tmp_path / "out")
    assert [[step.tick for step in open_episode(Path(e))] for e in result.episodes] == [[0], [2], [4]]
    assert all(open_episode(Path(e)).frame(0).shape == (24, 32, 3) for e in result.episodes)
    aside = Path(result.aside_path)
    assert (aside / "run.1.frames-000003.jpg.raw").read_bytes() == data
    assert (aside / "run.1.frames-extra.jpg.raw").read_bytes() == b"of no step"


@pytest.mark.parametrize("target", ["/etc/passwd", "../run.1.frames.of.another/000002.jpg"])
def test_a_link_that_leads_out_is_a_finding_and_is_not_read(flat: Path, tmp_path: Path, target: str) -> None:
    frame = _frame(flat, 2)
    other = flat.with_name("run.1.frames.of.another")
    other.mkdir()
    frame.rename(other / frame.name)
    os.symlink(target, frame)
    (finding,) = [f for f in examine(flat) if f.severity == ERROR]
    assert (finding.step, finding.field) == (2, "observation.frame")
    assert "leads out" in finding.problem
    with pytest.raises(EpisodeError, match="leads out"):
        open_episode(flat).frame(2)
    (result,) = repair(flat, tmp_path / "out")
    assert result.steps_kept == 4


def test_frames_of_a_folder_that_did_not_come_along_are_named(flat: Path, tmp_path: Path) -> None:
    value = json.loads(flat.read_text())
    for step in value["steps"]:
        step["observation"]["frame"]["file"] = "blobs/000000.tfrecord"
    flat.write_text(json.dumps(value))
    assert {finding.step for finding in examine(flat) if finding.severity == ERROR} == set(range(5))
    (result,) = repair(flat, tmp_path / "out")
    assert result.steps_kept == 5  # the actions are whole
    assert any("the frames of 5 steps" in text for text in result.done)


def test_one_that_is_too_long_is_refused_by_all_with_a_remedy(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_FLAT_BYTES", flat.stat().st_size - 1)
    (finding,) = examine(flat)
    assert "too long" in finding.problem
    assert "as a folder" in finding.remedy
    for use in (open_episode, lambda path: repair(path, tmp_path / "out")):
        with pytest.raises(EpisodeError, match="too long"):
            use(flat)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"steps": [', 'foo,"steps": ['),
        ('"steps": [', '"foo":,"steps": ['),
        ("\n]}", "\n],}"),
        ("\n]}", "\n] x}"),
        ("\n]}", '\n] x,"y":1}'),
    ],
)
def test_what_is_no_json_between_the_entries_is_refused(flat: Path, old: str, new: str) -> None:
    text = flat.read_text()
    assert old in text
    flat.write_text(text.replace(old, new, 1))
    with pytest.raises(EpisodeError, match="not a flat episode"):
        open_episode(flat)
    with pytest.raises(json.JSONDecodeError):
        json.loads(flat.read_text())


def test_other_keys_of_any_name_are_passed_over(flat: Path) -> None:
    text = flat.read_text()
    flat.write_text(text.replace("\n]}", '\n] , "a:\\"b, {": [1, {"x": 2}], "c" : "d:,"}', 1))
    json.loads(flat.read_text())
    assert len(open_episode(flat)) == 5
