"""Sampling by surprise, beside sampling as the trainer does it: the rule, and a training with either.

The steps, the loss, the pool and its chances are the trainer's own (`trainer/job.py`); what differs is the chance of
drawing a sample. Surprise is what the policy that drives now would have answered, against what the person did: by
`loss`, the divergence of its answers from the lesson's (cross entropy less the target's own entropy), or by `action`,
how far the command that its path asks for now is from the one that the person's path asks for.

"live" follows the losses of the steps themselves, as prioritised experience replay does (Schaul et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continuonbrain.loops.shadow import THROTTLE_WEIGHT
from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.lora import attach_lora
from continuonbrain.model.streams import Streams
from continuonbrain.policy import codec
from continuonbrain.policy.calibration import THROTTLE_PER_MPS
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.policy.torch_engine import read_answers
from continuonbrain.trainer.job import JobSettings
from continuonbrain.trainer.objective import query_weights, soft_targets
from continuonbrain.trainer.pool import Pool
from continuonbrain.trainer.steps import StepLoop
from continuonbrain.trainer.training_state import TrainingState

FLOOR = 0.2
"""Of the mean surprise: what a sample counts that surprises nobody."""
_NEAR = 3
"""Knots of the path that a command for now is made of: up to 0.4 m."""
_FULL_LOCK = 1.63
"""Curvature at full steering, 1/m."""
_BATCH = 64
Measure = Literal["loss", "action", "live"]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arm:
    """A way of drawing. strength 0 is the trainer's own."""

    measure: Measure = "loss"
    strength: float = 0.0

    @property
    def name(self) -> str:
        return "off" if not self.strength else f"{self.measure} ^{self.strength:g}"


def attend(chances: F64, groups: NDArray[np.int64], surprise: F64, strength: float) -> F64:
    """Chances `[n]` times (FLOOR + surprise / its mean in the group) ** strength, each group's sum as it was. groups:
    a number for each lesson's words, -1 for what is drawn as before (replay)."""
    out = chances.copy()
    for group in np.unique(groups[groups >= 0]):
        rows = groups == group
        mean = float(surprise[rows].mean())
        if mean <= 0:
            continue
        raised = chances[rows] * (FLOOR + surprise[rows] / mean) ** strength
        out[rows] = raised * (chances[rows].sum() / raised.sum())
    return out


def _divergence(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """By sample `[B]`: the objective without the entropy of its targets, which no answer can be below."""
    entropy = -torch.special.xlogy(targets, targets).sum(-1)
    crossed = -(targets * torch.log_softmax(logits.float(), -1)).sum(-1)
    return ((crossed - entropy) * weights).sum(-1) / weights.sum(-1).clamp_min(1e-6)


def distance(
    bends: NDArray[np.float32],
    speeds: NDArray[np.float32],
    curvature: NDArray[np.float32],
    speed_ahead: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> F64:
    """How far the commands for now are apart that two paths ask for, by sample `[n]`: hypot of steering and half of
    throttle, as `loops/shadow.py` has it. bends, curvature `[n, 8]` 1/m; speeds, speed_ahead `[n, 2]` m/s; weights
    `[n, 10]`: what of the lesson is known."""
    near = weights[:, :_NEAR]
    bend = (np.abs(bends - curvature)[:, :_NEAR] * near).sum(1)
    bend /= np.maximum(near.sum(1), 1) * _FULL_LOCK
    knots = len(codec.CURVATURE_KNOTS_M)
    faster = np.abs(speeds - speed_ahead)[:, 0] * weights[:, knots]
    out: F64 = np.hypot(bend, THROTTLE_WEIGHT * (1 + THROTTLE_PER_MPS) * faster).astype(float)
    return out


def surprises(model: DrivingModel, layout: PromptLayout, pool: Pool, streams: Streams) -> dict[Measure, F64]:
    """Of every sample `[n]`, by measure, with the model as it is."""
    weights = torch.from_numpy(pool.weights) * query_weights()
    by_loss, by_action = [], []
    with torch.inference_mode():
        for start in range(0, len(pool), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(pool)))
            logits = model.decode(streams.select(torch.from_numpy(rows)))
            targets = soft_targets(layout, pool.curvature[rows], pool.speed_ahead[rows])
            by_loss.append(_divergence(logits, targets, weights[torch.from_numpy(rows)]).double().numpy())
            answered = read_answers(layout, logits)
            lesson = pool.curvature[rows], pool.speed_ahead[rows], pool.weights[rows]
            by_action.append(distance(answered.curvature, answered.speed, *lesson))
    loss = np.concatenate(by_loss).clip(0.0)
    return {"loss": loss, "live": loss, "action": np.concatenate(by_action)}


def train(
    model: DrivingModel,
    layout: PromptLayout,
    pool: Pool,
    streams: Streams,
    chances: F64,
    groups: NDArray[np.int64],
    surprise: F64,
    arm: Arm,
    settings: JobSettings,
    base_sha256: str,
) -> Sequence[float]:
    """Train a fresh adapter of `model` for `settings.max_steps`; the losses. The same seed draws the same numbers in
    every arm."""
    torch.manual_seed(settings.seed)
    parameters = attach_lora(
        model, base_sha256=base_sha256, rank=settings.rank, alpha=settings.alpha, targets=settings.targets
    )
    weights = torch.from_numpy(pool.weights) * query_weights()
    seen = surprise.copy()
    drawn = attend(chances, groups, seen, arm.strength)
    state = TrainingState(
        "",
        {n: p for n, p in model.language_model.named_parameters() if p.requires_grad},
        torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay),
        np.random.default_rng([settings.seed, 1]),
        losses=[],
        good=[p.detach().clone() for p in parameters],
        samples=len(pool),
        streams_sha256="",
        budget_s=settings.max_wall_time_s,
    )

    def backward_of_batch(_pause: Callable[[], None]) -> float:
        nonlocal drawn
        if arm.measure == "live" and arm.strength:
            drawn = attend(chances, groups, seen, arm.strength)
        rows = state.sampler.choice(len(pool), size=settings.batch_size, p=drawn)
        index = torch.from_numpy(rows)
        targets = soft_targets(layout, pool.curvature[rows], pool.speed_ahead[rows])
        logits = model.decode(streams.select(index))
        loss = -((targets * torch.log_softmax(logits.float(), -1)).sum(-1) * weights[index]).mean()
        loss.backward()
        if arm.measure == "live" and arm.strength:
            seen[rows] = _divergence(logits.detach(), targets, weights[index]).double().numpy().clip(0.0)
        return float(loss.detach())

    ended = StepLoop(state, settings, backward_of_batch, None, lambda _: None, lambda _: 0.0).run()
    if ended != "steps":
        raise RuntimeError(f"the training ended early: {ended}")
    return state.losses
