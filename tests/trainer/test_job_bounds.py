"""Claims about the training job's bounds: its time, its memory, and the pauses that it is told to make."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from continuonbrain.trainer.steps import Save
from tests.trainer.quick_job import Clock, Train, all_finite


def test_the_job_ends_when_its_time_is_up(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    result = train(
        max_steps=100,
        max_wall_time_s=5.0,
        on_progress=lambda p: clock.passes(1.0 if p.phase == "train" else 0.0) and None,
    )
    assert result.ended == "wall time"
    assert result.steps == 6  # the one that was running when the time ended is finished
    assert all_finite(result)


def test_time_that_ends_while_caching_ends_the_job_there(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    result = train(max_wall_time_s=5.0, on_progress=lambda p: clock.passes(6.0) and None)
    assert (result.ended, result.steps, result.losses, result.files) == ("wall time", 0, [], {})


def test_a_pause_at_a_closed_gate_costs_neither_steps_nor_learning_rate(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    calls = []

    def closed_for_an_hour(_save: Save) -> float:
        calls.append(clock.now)
        return clock.passes(3600.0)

    paused = train(max_wall_time_s=5.0, wait_until_allowed=closed_for_an_hour)
    assert paused.ended == "steps"
    assert len(calls) >= paused.steps + 1  # before every step, and while caching
    straight = train(max_wall_time_s=5.0)
    assert paused.files == straight.files


def test_a_pause_that_raises_ends_the_job_with_nothing(train: Train) -> None:
    def stop(_save: Save) -> float:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        train(wait_until_allowed=stop)


def test_the_memory_limit_ends_the_job_before_a_step(train: Train) -> None:
    result = train(max_memory_mib=256)  # torch alone takes more
    assert (result.ended, result.steps, result.files) == ("memory limit", 0, {})
