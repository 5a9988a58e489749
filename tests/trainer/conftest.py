"""Recorded samples for the trainer's tests, and the simplest possible drives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from continuonbrain.policy.calibration import Calibration
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.robot.protocol import FRAME_SHAPE
from continuonbrain.trainer.dataset import Drive, Samples, build_samples, read_drive

if TYPE_CHECKING:
    from continuonbrain.model.driving import DrivingModel
    from continuonbrain.policy.prompt import PromptLayout
    from tests.trainer.quick_job import Train


@pytest.fixture(scope="session")
def recorded(taught: Path) -> Samples:
    """96 samples of the taught episodes."""
    samples = build_samples([read_drive(p) for p in list_episodes(taught)], Calibration())
    return samples.select(np.linspace(0, len(samples) - 1, 96).astype(np.int64))


@pytest.fixture
def make_drive() -> Callable[..., Drive]:
    """make_drive(steering, throttle, speed, yaw_rate): a drive in memory whose frames are grey."""

    def make(
        steering: Any,
        throttle: Any,
        speed: Any,
        yaw_rate: Any,
        *,
        measured: bool = True,
        labelled: Any = None,
        run_end: Any = None,
    ) -> Drive:
        n = len(steering)
        episode: Any = SimpleNamespace(
            path=Path("made"), frame=lambda i: np.full(FRAME_SHAPE, i % 256, np.uint8)
        )
        return Drive(
            episode,
            np.asarray(steering, float),
            np.asarray(throttle, float),
            np.asarray(speed, float),
            np.asarray(yaw_rate, float),
            measured,
            np.ones(n, bool) if labelled is None else np.asarray(labelled, bool),
            ["drive"] * n,
            np.full(n, n - 1) if run_end is None else np.asarray(run_end),
            np.arange(1, n + 1),
        )

    return make


@pytest.fixture
def train(
    untrained_model: Callable[..., DrivingModel], prompt_layout: PromptLayout, recorded: Samples
) -> Train:
    """train(**settings) on 48 recorded samples and a fresh random base."""
    from tests.trainer.quick_job import training_on

    return training_on(untrained_model, prompt_layout, recorded)
