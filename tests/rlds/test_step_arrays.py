"""A number that float64 holds and float32 does not never becomes an infinity in somebody's dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from continuonbrain.cli.episodes import app
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.lerobot import export_lerobot
from continuonbrain.rlds.memory import open_memory
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.tfds import export_step_records, export_tfds
from continuonbrain.rlds.writer import EpisodeWriter

HUGE = 3.5e38
LARGEST = float(np.finfo(np.float32).max)

WAYS: dict[str, Callable[[Path, Path], Any]] = {
    "tfds": lambda path, out: export_tfds([path], out),
    "lerobot": lambda path, out: export_lerobot([path], out),
    "steps": lambda path, out: export_step_records(open_episode(path), out.with_name("out.tfrecord")),
    "view": lambda path, out: [dict(step.values) for step in open_memory(path).episode(0)],
}
VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "steering": ({"command": (-HUGE, 0.0)}, "action.command[0]"),
    "throttle": ({"command": (0.0, HUGE)}, "action.command[1]"),
    "proposal": ({"proposed": (0.0, HUGE)}, "action.proposed[1]"),
    "speed": ({"speed_mps": HUGE}, "observation.robot_state.speed_mps"),
    "yaw rate": ({"yaw_rate_rps": -HUGE}, "observation.robot_state.yaw_rate_rps"),
}


def _written(memory: Path, changes: dict[str, Any]) -> Path:
    with EpisodeWriter(memory, metadata=make_metadata_example("e")) as writer:
        for tick in range(4):
            step = make_step_example(tick, size=(8, 8))
            writer.write(replace(step, **changes) if tick == 2 else step)
    return writer.path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", VALUES)
def test_a_number_beyond_float32_is_refused_and_named(way: str, which: str, tmp_path: Path) -> None:
    if way == "lerobot":
        pytest.importorskip("pyarrow")
    if (way, which) == ("steps", "proposal"):
        pytest.skip("a record per step holds proposals as JSON, whole")
    changes, field = VALUES[which]
    path = _written(tmp_path / "memory", changes)
    with pytest.raises(EpisodeError, match="too large for 32 bits") as caught:
        WAYS[way](path, tmp_path / "out")
    error = caught.value
    assert (error.file, error.step, error.field) == (path, 2, field)
    assert "3.5e+38" in error.problem
    assert f"continuonbrain episodes show {path}" in error.remedy
    assert [left for left in tmp_path.rglob("*") if "memory" not in str(left) and left.is_file()] == []
    assert CliRunner().invoke(app, ["show", str(path)]).exit_code == 0  # the remedy can be followed


@pytest.mark.parametrize("way", WAYS)
def test_the_largest_number_of_float32_passes(way: str, tmp_path: Path) -> None:
    if way == "lerobot":
        pytest.importorskip("pyarrow")
    path = _written(tmp_path / "memory", {"speed_mps": LARGEST, "command": (-LARGEST, 1e-300)})
    WAYS[way](path, tmp_path / "out")
    values = open_memory(path).step(0, 2).values
    assert values["observation/state"][0] == np.float32(LARGEST)  # type: ignore[index]
    assert values["action"].tolist() == [-LARGEST, 0.0]  # type: ignore[union-attr]
