"""Claims about the loss: a knot without weight teaches nothing, and a perfect answer has the least."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from continuonbrain.policy.prompt import PromptLayout  # noqa: E402
from continuonbrain.trainer.dataset import Samples  # noqa: E402
from continuonbrain.trainer.objective import action_loss, query_weights, soft_targets  # noqa: E402


def test_knots_without_weight_teach_nothing(prompt_layout: PromptLayout, recorded: Samples) -> None:
    samples = recorded.select(np.arange(4))
    logits = torch.randn(4, 10, prompt_layout.vocabulary, requires_grad=True)
    weights = torch.from_numpy(samples.weights) * query_weights()
    weights[:, 7] = 0.0
    targets = soft_targets(prompt_layout, samples.curvature, samples.speed_ahead)
    assert torch.allclose(targets.sum(-1), torch.ones(4, 10))
    action_loss(logits, targets, weights).backward()
    assert logits.grad is not None
    assert not logits.grad[:, 7].any()
    assert logits.grad[:, 1].any()


def test_a_perfect_answer_has_the_least_loss(prompt_layout: PromptLayout, recorded: Samples) -> None:
    samples = recorded.select(np.arange(4))
    targets = soft_targets(prompt_layout, samples.curvature, samples.speed_ahead)
    right = torch.log(targets + 1e-9)
    wrong = torch.log(soft_targets(prompt_layout, samples.curvature + 0.5, samples.speed_ahead) + 1e-9)
    assert action_loss(right, targets, query_weights()) < action_loss(wrong, targets, query_weights())
