"""Small real episodes for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continuonbrain.rlds.example_view import BYTES, FLOAT, Record, index_records, view_example
from continuonbrain.rlds.examples import make_metadata_example, make_step_example
from continuonbrain.rlds.metadata import EpisodeMetadata
from continuonbrain.rlds.recorder import EpisodeRecorder
from tests.rlds.valid_examples import make_valid

RecordEpisode = Callable[..., Path]
Examples = Callable[[Path], Iterator[dict[str, Any]]]


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


@pytest.fixture(scope="session")
def examples() -> Examples:
    """examples(file) -> each Example of a TFRecord file, whole: key -> list of bytes, float32 or int64 array."""

    def run(file: Path) -> Iterator[dict[str, Any]]:
        for offset in index_records(file):
            out: dict[str, Any] = {}
            for key, column in view_example(Record(file, offset)).items():
                if column.kind == BYTES:
                    out[key] = [column.item(at) for at in range(column.count)]
                else:
                    dtype = np.dtype(np.float32 if column.kind == FLOAT else np.int64)
                    out[key] = column.numbers(0, column.count, dtype)
            yield out

    return run


@pytest.fixture(scope="session")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small valid example of each kind. Copy before damaging one."""
    return make_valid(tmp_path_factory.mktemp("valid"))
