"""Small real episodes for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.metadata import EpisodeMetadata
from continuonbrain.rlds.recorder import EpisodeRecorder

RecordEpisode = Callable[..., Path]


@pytest.fixture
def metadata() -> EpisodeMetadata:
    return make_metadata_example()


@pytest.fixture
def record(tmp_path: Path) -> RecordEpisode:
    """record(steps, episode_id="e", terminal=False) -> the folder of a closed episode."""

    def run(
        steps: int, *, episode_id: str = "episode", terminal: bool = False, into: Path | None = None
    ) -> Path:
        recorder = EpisodeRecorder(
            into or tmp_path / "episodes", metadata=make_metadata_example(episode_id), queue_size=10_000
        )
        for tick in range(steps):
            assert recorder.append(make_step_example(tick))
        return recorder.close(terminal=terminal)

    return run
