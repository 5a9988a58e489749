"""A training job of a few steps on a random base, a clock that a test moves, and a loss that goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors

from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.trainer import job, steps
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.job import JobSettings, train_adapter
from continuonbrain.trainer.objective import action_loss
from continuonbrain.trainer.pool import Recall
from continuonbrain.trainer.steps import JobResult, Progress, Save

if TYPE_CHECKING:
    from continuonbrain.model.driving import DrivingModel

BASE_SHA256 = "ba5e" * 16
QUICK = JobSettings(rank=2, alpha=4.0, batch_size=8, max_steps=6, max_wall_time_s=1e9)
Train = Callable[..., JobResult]


def training_on(
    untrained_model: Callable[..., DrivingModel], prompt_layout: PromptLayout, recorded: Samples
) -> Train:
    """What the fixture `train` gives."""
    samples = recorded.select(np.arange(0, 96, 2))

    def run(
        *,
        on_progress: Callable[[Progress], None] = lambda _: None,
        wait_until_allowed: Callable[[Save], float] = lambda _save: 0.0,
        state_path: Path | None = None,
        recall: Recall | None = None,
        model: DrivingModel | None = None,
        **settings: Any,
    ) -> JobResult:
        return train_adapter(
            model or untrained_model(),
            prompt_layout,
            samples,
            replace(QUICK, **settings),
            base_sha256=BASE_SHA256,
            on_progress=on_progress,
            wait_until_allowed=wait_until_allowed,
            state_path=state_path,
            recall=recall,
        )

    return run


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (job, steps):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def passes(self, seconds: float) -> float:
        self.now += seconds
        return seconds


def all_finite(result: JobResult) -> bool:
    tensors = load_tensors(result.files["adapter_model.safetensors"])
    return bool(tensors) and all(bool(torch.isfinite(t).all()) for t in tensors.values())


def spoil(monkeypatch: pytest.MonkeyPatch, at_step: int, how: Callable[[Any, Any], Any]) -> None:
    calls = 0

    def spoiled(logits: Any, targets: Any, weights: Any) -> Any:
        nonlocal calls
        calls += 1
        loss = action_loss(logits, targets, weights)
        return how(loss, logits) if calls > at_step else loss

    monkeypatch.setattr(job, "action_loss", spoiled)
