"""Steps that the keeper itself had to drop are marked in the step that follows and counted in the metadata."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from continuonbrain.loops import episode_keeper
from continuonbrain.loops.episode_keeper import EpisodeKeeper
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.step import Step


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


def _told(path: Path) -> tuple[list[int], list[int], int]:
    """(ticks, marks, the metadata's count)."""
    episode = open_episode(path)
    state = RecordingState.of(episode.metadata)
    assert state is not None
    steps = list(episode)
    return [s.tick for s in steps], [s.dropped_before for s in steps], state.dropped


def test_steps_that_found_no_episode_are_marked_in_the_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_keeper, "_RETRY_S", 0.0)
    refusals = [OSError(errno.ENOSPC, "No space left on device")] * 3

    def open_recorder(_instruction: str, _source: str, _kind: str) -> EpisodeRecorder:
        if refusals:
            raise refusals.pop()
        return EpisodeRecorder(tmp_path, metadata=make_metadata_example("e"))

    keeper = EpisodeKeeper(open_recorder)
    for tick in range(6):
        keeper.append(make_step_example(tick, size=(8, 8)))
    keeper.close()
    assert _told(tmp_path / "e") == ([3, 4, 5], [3, 0, 0], 3)
    assert (keeper.dropped, keeper.recorded) == (3, 3)


def test_steps_that_found_the_queue_full_are_marked_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_keeper, "_LONGEST_BACKLOG", 3)
    wait = [True]

    class Slow(EpisodeRecorder):
        def append(self, step: Step) -> bool:
            while wait[0]:
                time.sleep(0.001)
            return super().append(step)

    keeper = EpisodeKeeper(lambda _i, _s, _k: Slow(tmp_path, metadata=make_metadata_example("e")))
    keeper.append(make_step_example(0, size=(8, 8)))
    _wait(lambda: keeper._queue.empty())
    kept = [keeper.append(make_step_example(tick, size=(8, 8))) for tick in range(1, 8)]
    assert kept == [True] * 3 + [False] * 4
    wait[0] = False
    _wait(lambda: keeper.recorded == 4)
    keeper.append(make_step_example(8, size=(8, 8)))
    _wait(lambda: keeper.recorded == 5)
    assert keeper.dropped == 4
    wait[0] = True
    kept = [keeper.append(make_step_example(tick, size=(8, 8))) for tick in range(9, 15)]
    wait[0] = False
    keeper.close()
    ticks, marks, dropped = _told(tmp_path / "e")
    late = kept.count(False)
    assert ticks[:5] == [0, 1, 2, 3, 8]
    assert marks[:5] == [0, 0, 0, 0, 4]
    assert (sum(marks), dropped, keeper.dropped) == (4, 4 + late, 4 + late)
    assert late > 0
    assert open_episode(tmp_path / "e").metadata.provenance["undelivered_drops"] == late


def test_an_episode_is_of_the_kind_that_its_steps_were_driven_as_however_late_the_disk_is(
    tmp_path: Path,
) -> None:
    opened: list[tuple[str, str]] = []

    def open_late(_instruction: str, source: str, kind: str) -> EpisodeRecorder:
        time.sleep(0.2)  # by then the mode is another one
        opened.append((source, kind))
        return EpisodeRecorder(tmp_path, metadata=make_metadata_example(f"e{len(opened)}"))

    keeper = EpisodeKeeper(open_late)
    for tick, kind in enumerate(("lesson", "lesson", "correction", "lesson")):
        assert keeper.append(replace(make_step_example(tick), source="human"), kind)  # type: ignore[arg-type]
    keeper.close()
    assert opened == [("human", "lesson"), ("human", "correction"), ("human", "lesson")]
    assert [len(open_episode(tmp_path / name)) for name in keeper.episodes] == [2, 1, 1]
