"""One call opens every kind of memory, all say the same, and what cannot be opened says what to give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.feature_spec import parse_features
from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.tfds import export_step_records, export_tfds
from tests.rlds.foreign_datasets import same

RecordEpisode = Callable[..., Path]
runner = CliRunner()


def test_one_call_opens_every_kind_and_all_say_the_same(tmp_path: Path, record: RecordEpisode) -> None:
    folder = record(4, terminal=True)
    original = open_episode(folder)
    export_tfds([folder], tmp_path / "tfds")
    export_step_records(original, tmp_path / "steps.tfrecord")
    out = tmp_path / "json"
    result = runner.invoke(app, ["export", str(folder), str(out), "--format", "json", "--json"])
    assert result.exit_code == 0, result.output
    paths = {
        "folder": folder,
        "memory": folder.parent,
        "flat-json": out / "episode.json",
        "tfds": tmp_path / "tfds",
        "step-records": tmp_path / "steps.tfrecord",
    }
    for form, path in paths.items():
        memory = open_memory(path)
        assert (memory.format, len(memory), len(memory.episode(0))) == (form, 1, 4)
        for index, want in enumerate(original):
            step = memory.step(0, index)
            assert (step.is_first, step.is_last, step.is_terminal) == (index == 0, index == 3, index == 3)
            if step.recorded is not None:
                assert step.recorded == want
            key = "action_command" if form == "step-records" else "action"
            same(step.values[key], np.array(want.command, np.float32))
            if form != "step-records":  # that format has no room for them
                assert step.values["language_instruction"] == "keep left"
                (frame,) = memory.frames(0, index).values()
                np.testing.assert_array_equal(frame, original.frame(index))
        shown = runner.invoke(app, ["show", str(path), "--episode", "0", "--json"])
        assert shown.exit_code == 0, shown.output
        assert json.loads(shown.stdout)["steps"] == 4


def test_flat_json_with_its_frames_round_trips(tmp_path: Path, record: RecordEpisode) -> None:
    folder = record(3)
    original = open_episode(folder)
    for _ in range(2):
        result = runner.invoke(app, ["export", str(folder), str(tmp_path / "out"), "--format", "json"])
    assert result.exit_code == 1  # never over another
    path = tmp_path / "out" / "episode.json"
    value = json.loads(path.read_text())
    assert [s["observation"]["video_frame_id"] for s in value["steps"]] == [
        f"episode.frames/{n:06d}.jpg" for n in range(3)
    ]
    copy = open_episode(path)
    assert copy.metadata == original.metadata
    assert list(copy) == list(original)
    assert [copy.frame_jpeg(n) for n in range(3)] == [original.frame_jpeg(n) for n in range(3)]
    path.write_text(json.dumps(value, indent=3))  # a tool that formats it anew
    assert list(open_episode(path)) == list(original)
    (tmp_path / "out" / "episode.frames" / "000001.jpg").write_bytes(b"")
    with pytest.raises(EpisodeError, match="0 bytes are here"):
        copy.frame(1)
    assert sorted(child.name for child in (tmp_path / "out").iterdir()) == ["episode.frames", "episode.json"]


def test_what_cannot_be_opened_says_what_to_give(tmp_path: Path, record: RecordEpisode) -> None:
    shard = export_tfds([record(1)], tmp_path / "a").path
    export_tfds([record(1, episode_id="x")], tmp_path / "a", version="2.0.0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.bin").write_bytes(b"x")
    for path, problem in (
        (tmp_path / "nothing", "nothing to open"),
        (tmp_path / "empty", "no episodes are in this folder"),
        (tmp_path / "x.bin", "neither a flat JSON"),
        (tmp_path / "a", "2 datasets are in this folder"),
        (next(shard.glob("*.tfrecord*")), "one shard of a TFDS dataset"),
    ):
        with pytest.raises(EpisodeError, match=problem) as caught:
            open_memory(path)
        assert caught.value.remedy
    assert open_memory(shard / "features.json").format == "tfds"
    with pytest.raises(EpisodeError, match="not one of episodes"):
        parse_features({"featuresDict": {"features": {"image": {"image": {"dtype": "uint8"}}}}})
