"""Single steps: what bounds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from continuonbrain.trainer.steps import StepLoop  # noqa: E402
from continuonbrain.trainer.training_state import TrainingState  # noqa: E402


@dataclass(frozen=True)
class Settings:
    max_steps: int = 1
    learning_rate: float = 1.0
    max_memory_mib: int | None = None


def one_step(gradient: list[float]) -> torch.Tensor:
    """What a parameter of zeros becomes by a step of plain descent, as a multiple of the learning rate."""
    parameter = torch.nn.Parameter(torch.zeros(len(gradient)))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    state = TrainingState(
        fingerprint="",
        parameters={"p": parameter},
        optimiser=optimiser,
        sampler=np.random.default_rng(0),
        losses=[],
        good=[parameter.detach().clone()],
        samples=1,
        streams_sha256="",
        budget_s=1e9,
    )

    def backward(_pause: Callable[[], None]) -> float:
        parameter.grad = torch.tensor(gradient)
        return 1.0

    assert StepLoop(state, Settings(), backward, None, lambda _: None, lambda _: 0.0).run() == "steps"
    return -parameter.detach() / optimiser.param_groups[0]["lr"]


def test_a_gradient_longer_than_one_is_cut_to_one_and_keeps_its_direction() -> None:
    assert torch.allclose(one_step([3e6, 4e6]), torch.tensor([0.6, 0.8]))
    assert torch.allclose(one_step([0.03, 0.04]), torch.tensor([0.03, 0.04]))
