"""The harness that kills recorders: it finds nothing in ours, and finds one that acknowledges too early."""

from __future__ import annotations

import pytest

from benchmarks import kill_recorder
from continuonbrain.rlds.recorder import EpisodeRecorder


def test_no_acknowledged_step_is_lost_in_some_rounds() -> None:
    found = kill_recorder.measure(40, quiet=True, seed=7)
    assert (found["rounds"], found["acknowledged_steps_lost"], found["unreadable_episodes"]) == (40, 0, 0)
    assert found["acknowledged_steps"] > 60
    assert found["recovered"] > 10


def test_a_recorder_that_acknowledges_what_is_still_in_its_queue_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        EpisodeRecorder, "acknowledged", property(lambda self: self._writer.written + self._queue.qsize() + 1)
    )
    assert kill_recorder.measure(40, quiet=True, seed=7)["acknowledged_steps_lost"] > 0
