"""Teaches a reflex head the roads of some samples, from a head that knows the base's roads.

The same pool as the adapter's job: lessons, their mirror image, replay. The intent of every sample is what the model,
with the adapter that the head will travel with, makes of its instruction. Steps, bounds and pauses are those of every
job (`steps.py`). The stage takes seconds and starts anew when it was interrupted; from the same seed it ends with the
same bytes unless the clock ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional as F

from continuonbrain.model.reflex_net import ReflexNet, load_weights, reflex_bytes
from continuonbrain.policy.codec import CURVATURE_KNOTS_M
from continuonbrain.policy.reflex import HIDDEN, INTENT, Reflex, ReflexError
from continuonbrain.trainer.look import Look
from continuonbrain.trainer.pool import Pool
from continuonbrain.trainer.steps import Progress, Save, StepLoop
from continuonbrain.trainer.training_state import TrainingState
from continuonbrain.trainer.wall_time import steps_s

_KNOT_WEIGHTS = (1.5, 1.5, 1.5, 1.25, 1.0, 0.75, 0.5, 0.35)
"""The head is asked again before what is far away is reached."""
_BEND = 0.1  # 1/m: below it errors count squared, above it by their size (a driver's answers to pushes are outliers)


Intend = Callable[[Sequence[str], Look], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ReflexSettings:
    """Caps and hyperparameters of the stage. max_wall_time_s bounds it (`wall_time.steps_s`)."""

    max_steps: int = 150
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    max_wall_time_s: float = 12.0
    seed: int = 0
    max_memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class TaughtReflex:
    """data: the head's file, b"" when not one sound step was made; ended: why the steps ended."""

    data: bytes
    losses: list[float]
    seconds: float
    ended: str


def curvature_loss(found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Huber loss over curvatures `[B, 8]` in 1/m, nearer knots counting more; weights `[B, 8]`, 0 where unknown."""
    each = F.smooth_l1_loss(found, wanted, beta=_BEND, reduction="none")
    return (each * weights * torch.tensor(_KNOT_WEIGHTS)).mean()


def new_net(trunk: torch.nn.Module | None = None) -> ReflexNet:
    """A net of the shape that `policy.reflex` serves."""
    return ReflexNet(intent=INTENT, knots=len(CURVATURE_KNOTS_M), hidden=HIDDEN, trunk=trunk)


def teach_reflex(
    start: bytes,
    pool: Pool,
    chances: NDArray[np.float64],
    intents: Intend,
    settings: ReflexSettings,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    wait_until_allowed: Callable[[Save], float] = lambda _save: 0.0,
) -> TaughtReflex:
    """Train a head from the file `start`. intents: of n instructions, `[n, 10]`; it looks at the gates as it is given.

    How long it takes to learn what is meant leaves at least half of the time for steps; a pause costs none of it.

    Raises:
        ReflexError: start is no reflex head.
    """
    began, paused = time.monotonic(), 0.0

    def look() -> None:
        nonlocal paused
        paused += wait_until_allowed(lambda: None)

    probes = torch.from_numpy(Reflex(start).probes)
    torch.manual_seed(settings.seed)
    net = new_net()
    load_weights(net, load(start))
    meant = torch.from_numpy(intents(pool.instructions, look))
    wanted = torch.from_numpy(pool.curvature)
    weights = torch.from_numpy(pool.weights[:, : wanted.shape[1]])
    parameters = dict(net.named_parameters())
    state = TrainingState(
        fingerprint="",
        parameters=parameters,
        optimiser=torch.optim.AdamW(
            parameters.values(), settings.learning_rate, weight_decay=settings.weight_decay
        ),
        sampler=np.random.default_rng(settings.seed),
        losses=[],
        good=[p.detach().clone() for p in parameters.values()],
        samples=len(pool),
        streams_sha256="",
        budget_s=steps_s(settings.max_wall_time_s, time.monotonic() - began - paused),
    )

    def backward_of_batch(_pause: Callable[[], None]) -> float:
        rows = state.sampler.choice(len(pool), size=settings.batch_size, p=chances)
        index = torch.from_numpy(rows)
        found = net(torch.from_numpy(pool.frames_at(rows)), meant[index])
        loss = curvature_loss(found, wanted[index], weights[index])
        loss.backward()
        return float(loss.detach())

    def told(progress: Progress) -> None:
        on_progress(replace(progress, phase="reflex"))

    ended = StepLoop(state, settings, backward_of_batch, None, told, wait_until_allowed).run()
    data = reflex_bytes(net, probes) if state.losses else b""
    if data:
        try:
            Reflex(data)
        except ReflexError:  # fp16 could not hold a weight
            data, ended = b"", "weights not finite"
    return TaughtReflex(data, state.losses, time.monotonic() - began, ended)
