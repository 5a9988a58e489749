"""The training objective on action tokens: soft-target cross entropy over the whole vocabulary, weighted by query."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from continuonbrain.policy import codec
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.trainer.states import F32

# What is 3 m away is seen again before it is reached, even by a slow decider.
_WEIGHTS = (1.5, 1.5, 1.5, 1.5, 1.25, 1.25, 1.0, 0.7, 1.5, 1.5)


def query_weights(weights_by_query: Sequence[float] = _WEIGHTS) -> Tensor:
    """Loss weight of each query, mean 1, `[10]`."""
    weights = torch.tensor(weights_by_query)
    return weights / weights.mean()


def soft_targets(layout: PromptLayout, curvature: F32, speed_ahead: F32) -> Tensor:
    """Target distributions over the vocabulary, `[B, 10, V]`."""
    n, knots = curvature.shape
    out = torch.zeros(n, codec.QUERIES, layout.vocabulary)
    bins, first = codec.CURVATURE_BINS.count, layout.curvature_first
    out[:, :knots, first : first + bins] = torch.from_numpy(codec.encode_curvature(curvature))
    bins, first = codec.SPEED_BINS.count, layout.speed_first
    out[:, knots:, first : first + bins] = torch.from_numpy(codec.encode_speed(speed_ahead))
    return out


def action_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy. logits and targets `[B, 10, V]`, weights `[10]` or `[B, 10]`."""
    return -((targets * torch.log_softmax(logits.float(), -1)).sum(-1) * weights).mean()
