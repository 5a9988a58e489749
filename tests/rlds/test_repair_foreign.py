"""Repair of what others have written, and of garbage, in bounded work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.repair import repair
from continuonbrain.rlds.writer import BLOB_FILE, METADATA_FILE, STEPS_FILE
from tests.rlds.sick_episodes import is_sick, small_steps, ticks_of, write_episode


def _theirs(tmp_path: Path, lines: list[str]) -> Path:
    folder = tmp_path / "theirs"
    (folder / "steps").mkdir(parents=True)
    (folder / METADATA_FILE).write_text(json.dumps(make_metadata_example().to_json()))
    (folder / STEPS_FILE).write_text("".join(lines))
    return folder


def _their_step(tick: int, **more: Any) -> str:
    value = {
        "observation": {"headset_pose": {"x": tick}, "robot_state": {"timestamp_nanos": 100 + tick}},
        "action": {"command": [0.5, 0.25], "source": "human_teleop_xr", "annotation": "é"},
        "is_terminal": False,
        "reward": 0.5,
        **more,
    }
    return json.dumps(value, ensure_ascii=False) + "\n"


def test_keys_of_other_recorders_and_ticks_that_were_line_numbers_stay(tmp_path: Path) -> None:
    path = _theirs(tmp_path, [_their_step(0), "{broken\n", _their_step(2), _their_step(3)[:-1]])
    (result,) = repair(path, tmp_path / "out")
    assert [ticks_of(folder) for folder in result.episodes] == [[0], [2, 3]]
    line = json.loads((Path(result.episodes[1]) / STEPS_FILE).read_text().splitlines()[1])
    assert line["observation"]["headset_pose"] == {"x": 3}
    assert (line["reward"], line["action"]["annotation"]) == (0.5, "é")
    assert (line["is_first"], line["is_last"]) == (False, True)
    assert [step.monotonic_ns for step in open_episode(Path(result.episodes[1]))] == [102, 103]


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
@pytest.mark.parametrize("key", ["reward", "command"])
def test_numbers_that_are_not_finite_cannot_be_kept(tmp_path: Path, number: str, key: str) -> None:
    bad = _their_step(1).replace(
        '"reward": 0.5' if key == "reward" else "0.25", f'"reward": {number}' if key == "reward" else number
    )
    path = _theirs(tmp_path, [_their_step(0), bad, _their_step(2)])
    assert is_sick(path)
    (result,) = repair(path, tmp_path / "out")
    assert [ticks_of(folder) for folder in result.episodes] == [[0], [2]]


def _flat(steps: list[Any], metadata: Any = None) -> str:
    shown = make_metadata_example("flat").to_json() if metadata is None else metadata
    return json.dumps({"metadata": shown, "steps": steps})


def test_a_flat_json_is_repaired_into_a_folder_from_whatever_is_left(tmp_path: Path) -> None:
    steps = [make_step_example(tick).to_json() for tick in range(4)]
    text = _flat(steps)
    starts = [text.index('{"observation"', 0)]
    while (at := text.find('{"observation"', starts[-1] + 1)) > 0:
        starts.append(at)
    file = tmp_path / "some.json"
    cuts = [*range(0, len(text), 61), *(at + extra for at in starts[1:] for extra in (-3, -2, -1, 0, 1))]
    for number, cut in enumerate(cuts):
        file.write_text(text[:cut])
        whole = sum(end - 2 <= cut for end in starts[1:]) + (cut >= len(text) - 2)
        (result,) = repair(file, tmp_path / f"out-{number}")
        assert result.steps_kept == whole, cut
        assert [len(open_episode(Path(folder))) for folder in result.episodes] == [whole] * bool(whole)
        assert all(not is_sick(Path(folder)) for folder in result.episodes)
    damaged = text.replace('"fast_loop_tick": "1"', '"fast_loop_tick: "1"')
    file.write_text(damaged)
    (result,) = repair(file, tmp_path / "out")
    assert [_ticks_only(folder) for folder in result.episodes] == [[0], [2, 3]]
    (bad,) = [item for item in result.aside if item.step is not None]
    assert (bad.step, bad.start) == (1, damaged.index('{"observation"', starts[0] + 1))


def _ticks_only(folder: str) -> list[int]:
    return [step.tick for step in open_episode(Path(folder))]


def test_garbage_that_nests_and_garbage_without_end_are_put_aside_in_bounded_work(tmp_path: Path) -> None:
    file = tmp_path / "garbage.json"
    file.write_text('{"metadata": 1, "steps": [' + '{"action": [1, ' * 40_000)
    (result,) = repair(file, tmp_path / "flat")
    assert result.action == "nothing kept"
    path = _theirs(tmp_path, ["\x00\n" * 30_000, "x" * (3 << 20), "\n", _their_step(7)])
    (result,) = repair(path, tmp_path / "out")
    assert result.steps_kept == 1
    assert len(result.aside) < 1100
    assert sum(item.lines for item in result.aside) == 30_001
    findings = examine(path)
    assert len(findings) < 1100
    assert any("more lines from here on are no steps" in finding.problem for finding in findings)


def test_a_pipe_in_place_of_frames_is_not_waited_for(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "memory", small_steps(2))
    (path / BLOB_FILE).unlink()
    os.mkfifo(path / BLOB_FILE)
    assert is_sick(path)
    (result,) = repair(path, tmp_path / "out")
    assert result.action == "nothing kept"
