"""The training job: cached streams below, LoRA steps in the KV-shared layers above.

1. Every sample, and its mirror image, goes once through the frozen part (connector and layers below the cut):
   `Streams`.
2. Steps run the shared layers only, at the ten query positions, with AdamW; samples are drawn so that rarely
   taught instructions count more.

Replay: a share of every batch comes from the base's own family of states, so that a new road does not cost the
old ones. It cannot fight with the lessons over the servo: labels are paths in the world, and trim, gain and sign
live in the calibration.

The loop is bounded by steps and by wall time, whichever comes first, and the learning rate falls to zero by
then: on a slow machine there are fewer steps, not an adapter that was cut off in the middle. A loss that is not
finite ends the loop with the last good adapter.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.lora import adapter_files, attach_lora
from continuonbrain.model.streams import Streams
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.trainer.dataset import Samples, mirrored, sampling_weights
from continuonbrain.trainer.objective import action_loss, query_weights, soft_targets

_ENCODE_BATCH = 64
_WARM_UP = 0.1
_CACHE_SHARE = 0.45
"""Of the wall time, for the frozen pass: on a slow machine fewer samples are cached, and steps are left for them."""


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Caps and hyperparameters, from the config. max_wall_time_s bounds caching and steps together."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    batch_size: int = 32
    max_steps: int = 300
    max_wall_time_s: float = 60.0
    seed: int = 0
    mirror: bool = True
    balance: bool = True
    replay_share: float = 0.34


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is: phase "cache" or "train", step of steps, loss (None while caching)."""

    phase: str
    step: int
    steps: int
    loss: float | None = None


@dataclass(slots=True)
class JobResult:
    """What came out. files: the adapter as a PEFT folder's files; ended: why the loop ended."""

    files: dict[str, bytes]
    losses: list[float] = field(default_factory=list)
    steps: int = 0
    cache_s: float = 0.0
    train_s: float = 0.0
    ended: str = "steps"
    peak_rss_mib: float = 0.0
    samples: int = 0
    trainable_parameters: int = 0


class _Pool:
    """Several sets of samples as one, in an order of its own, without a second copy of their frames."""

    def __init__(self, parts: Sequence[Samples], order: NDArray[np.int64]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(p) for p in parts)])
        self._order = order
        instructions = [i for p in parts for i in p.instructions]
        speeds = [v for p in parts for v in p.speeds]
        self.instructions = [instructions[i] for i in order]
        self.speeds = [speeds[i] for i in order]
        self.curvature = np.concatenate([p.curvature for p in parts])[order]
        self.speed_ahead = np.concatenate([p.speed_ahead for p in parts])[order]
        self.weights = np.concatenate([p.weights for p in parts])[order]

    def __len__(self) -> int:
        return len(self._order)

    def frames(self, rows: slice) -> NDArray[np.uint8]:
        """Frames `[n, 120, 160, 3]` of the rows."""
        wanted = self._order[rows]
        of = np.searchsorted(self._starts, wanted, side="right") - 1
        return np.stack(
            [
                self._parts[part].frames[i - self._starts[part]]
                for part, i in zip(of.tolist(), wanted, strict=True)
            ]
        )


def _encode(
    model: DrivingModel, layout: PromptLayout, pool: _Pool, go_on: Callable[[int, int], bool]
) -> Streams:
    """The frozen pass over the pool, in its order, for as long as `go_on(done, total)` says so."""
    total, done = len(pool), 0
    cache: Streams | None = None
    while done < total:
        rows = slice(done, min(done + _ENCODE_BATCH, total))
        with torch.inference_mode():
            ids = torch.from_numpy(layout.ids(pool.instructions[rows], pool.speeds[rows]))
            part = model.encode(ids, torch.from_numpy(pool.frames(rows)))
        # One allocation for all, filled in place: joining parts at the end would need the memory twice.
        cache = cache or part.room_for(total)
        cache.put(rows, part)
        done = rows.stop
        if not go_on(done, total):
            break
    assert cache is not None
    return cache.head(done)


def train_adapter(
    model: DrivingModel,
    layout: PromptLayout,
    samples: Samples,
    settings: JobSettings,
    *,
    base_sha256: str,
    replay: Samples | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    wait_until_allowed: Callable[[], float] = lambda: 0.0,
) -> JobResult:
    """Train one adapter. `model` must have no adapter attached; afterwards it has the new one.

    replay: states that the base knows, mixed into every batch against forgetting.

    wait_until_allowed is called before every step and after every batch that is cached: it blocks while a gate is
    closed and returns the seconds that it did, which do not count against the wall time. An exception from it ends
    the job with nothing. When the time is up before the first step, the result has no files and no losses.
    """
    started = time.monotonic()
    deadline = started + settings.max_wall_time_s
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    parts = [samples, mirrored(samples)] if settings.mirror else [samples]
    taught = [i for p in parts for i in p.instructions]
    chances = sampling_weights(taught) if settings.balance else np.full(len(taught), 1 / len(taught))
    if replay is not None and len(replay) and settings.replay_share > 0:
        share = settings.replay_share
        chances = np.concatenate([(1 - share) * chances, np.full(len(replay), share / len(replay))])
        parts.append(replay)

    # In random order, so that what a slow machine has cached when its share of the time is up is a fair sample.
    order = rng.permutation(len(chances))
    pool, chances = _Pool(parts, order), chances[order]
    cache_until = started + _CACHE_SHARE * settings.max_wall_time_s

    def cached(done: int, total: int) -> bool:
        nonlocal deadline, cache_until
        on_progress(Progress("cache", done, total))
        waited = wait_until_allowed()
        deadline, cache_until = deadline + waited, cache_until + waited
        return time.monotonic() < cache_until

    streams = _encode(model, layout, pool, cached)
    n = len(streams)
    chances = chances[:n] / chances[:n].sum()
    weights = torch.from_numpy(pool.weights[:n]) * query_weights()
    parameters = attach_lora(
        model, base_sha256=base_sha256, rank=settings.rank, alpha=settings.alpha, targets=settings.targets
    )
    result = JobResult({}, samples=n, trainable_parameters=sum(p.numel() for p in parameters))
    result.cache_s = time.monotonic() - started

    def draw() -> tuple[Streams, torch.Tensor, torch.Tensor]:
        rows = rng.choice(n, size=settings.batch_size, p=chances)
        index = torch.from_numpy(rows)
        targets = soft_targets(layout, pool.curvature[rows], pool.speed_ahead[rows])
        return streams.select(index), targets, weights[index]

    _steps(model, draw, parameters, settings, deadline, result, on_progress, wait_until_allowed)
    result.train_s = time.monotonic() - started - result.cache_s
    result.files = adapter_files(model) if result.steps else {}
    result.peak_rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate at a progress in [0, 1]: cosine up over the first tenth, cosine down to zero."""
    if progress < _WARM_UP:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / _WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - _WARM_UP) / (1 - _WARM_UP))))


def _steps(
    model: DrivingModel,
    draw: Callable[[], tuple[Streams, torch.Tensor, torch.Tensor]],
    parameters: list[torch.nn.Parameter],
    settings: JobSettings,
    deadline: float,
    result: JobResult,
    on_progress: Callable[[Progress], None],
    wait_until_allowed: Callable[[], float],
) -> None:
    optimiser = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    began = time.monotonic()
    last_good: list[Any] = [p.detach().clone() for p in parameters]
    for step in range(settings.max_steps):
        # A pause is no progress: it moves both ends, or a long one would end the learning rate's cycle.
        paused = wait_until_allowed()
        began, deadline = began + paused, deadline + paused
        if time.monotonic() > deadline:
            result.ended = "wall time"
            break
        # Of the steps or of the time, whichever is nearer to its end.
        spent = (time.monotonic() - began) / max(1e-9, deadline - began)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * one_cycle(max(step / settings.max_steps, spent))
        batch, targets, weights = draw()
        loss = action_loss(model.decode(batch), targets, weights)
        value = float(loss.detach())
        if not math.isfinite(value):
            with torch.no_grad():
                for parameter, good in zip(parameters, last_good, strict=True):
                    parameter.copy_(good)
            result.ended = "loss not finite"
            break
        optimiser.zero_grad()
        loss.backward()
        if not math.isfinite(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))):
            # The parameters of this step gave a finite loss: they stay as they are.
            result.ended = "gradient not finite"
            break
        if step % 20 == 0:
            last_good = [p.detach().clone() for p in parameters]
        optimiser.step()
        result.losses.append(value)
        result.steps = step + 1
        on_progress(Progress("train", step + 1, settings.max_steps, value))
