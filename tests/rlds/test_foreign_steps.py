"""Datasets of others with one Example for each step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.foreign_steps import StepRecordEpisode
from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.tfds import export_step_records
from continuonbrain.rlds.tfrecord import FeatureIn, encode_example, frame_record
from tests.rlds.foreign_datasets import png, same

RecordEpisode = Callable[..., Path]


def _step_record(episode: str, index: int | None, **more: FeatureIn) -> bytes:
    """As another robot of the ecosystem writes it: no is_first, no is_last, seven joints."""
    example: dict[str, FeatureIn] = {
        "episode_id": [episode.encode()],
        "reward": [0.5],
        "is_terminal": [False],
        "observation": [b'{"robot_state": {"joint_positions": [0.1, 0.2]}, "task": "pick", "gone": null}'],
        "action": [b'{"command": [1, 2, 3, 4, 5, 6, 7], "source": "arm"}'],
        "step_metadata": [b'{"surprise": "0.1"}'],
        "action_command": np.full(7, index or 0, np.float32),
        **more,
    }
    if index is not None:
        example["step_index"] = [index]
    return frame_record(encode_example(example))


def test_steps_of_several_episodes_in_several_files_are_gathered(tmp_path: Path) -> None:
    order = [("b", 1), ("a", 0), ("b", 0), ("a", 2)]
    (tmp_path / "0.tfrecord").write_bytes(b"".join(_step_record(*entry) for entry in order))
    (tmp_path / "1.tfrecord").write_bytes(_step_record("a", 1) + _step_record("c", None) * 2)
    memory = open_memory(tmp_path)
    assert memory.format == "step-records"
    assert [(e.episode_id, len(e)) for e in memory.episodes] == [("b", 2), ("a", 3), ("c", 2)]
    for index, step in enumerate(memory.episode(1)):
        assert (step.is_first, step.is_last, step.is_terminal) == (index == 0, index == 2, False)
        same(step.values["action_command"], np.full(7, index, np.float32))
        same(step.values["observation/robot_state/joint_positions"], np.array([0.1, 0.2]))
        assert step.values["observation/task"] == "pick"
        assert "observation/gone" not in step.values
        assert step.recorded is None  # seven joints are no car
    (tmp_path / "2.tfrecord").write_bytes(_step_record("a", 1))
    with pytest.raises(EpisodeError, match="step_index 1 of episode 'a' is there twice"):
        open_memory(tmp_path)


def test_our_own_step_records_come_back_as_steps(tmp_path: Path, record: RecordEpisode) -> None:
    episode = open_episode(record(4, terminal=True))
    export_step_records(episode, tmp_path / "x.tfrecord")
    (view,) = open_memory(tmp_path / "x.tfrecord").episodes
    assert isinstance(view, StepRecordEpisode)
    assert view.gaps == 0
    assert view.episode_id == "episode"
    assert [step.recorded for step in view] == list(episode)


def test_a_camera_in_a_step_record_is_a_frame(tmp_path: Path) -> None:
    data, pixels = png(6, 5, 3)
    (tmp_path / "x.tfrecord").write_bytes(_step_record("a", 0, cam=[data], note=[b"\xff"]))
    memory = open_memory(tmp_path / "x.tfrecord")
    (frame,) = memory.frames(0, 0).values()
    same(frame, pixels)
    assert memory.step(0, 0).values["note"] == b"\xff"
