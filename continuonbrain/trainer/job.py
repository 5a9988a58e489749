"""The training job: cached streams below, LoRA steps in the KV-shared layers above.

1. Every sample, and its mirror image, goes once through the frozen part (connector and layers below the cut):
   `Streams` (`pool.py`).
2. Steps run the shared layers only, at the ten query positions, with AdamW; samples are drawn so that rarely
   taught instructions count more.

Replay: a share of every batch comes from the base's own family of states, so that a new road does not cost the
old ones. It cannot fight with the lessons over the servo: labels are paths in the world, and trim, gain and sign
live in the calibration.

The loop is bounded by steps and by wall time, whichever comes first, and the learning rate falls to zero by
then: on a slow machine there are fewer steps, not an adapter that was cut off in the middle. A loss that is not
finite, or that grows far beyond where it began, ends the loop with the last good adapter.

A job can be interrupted between any two steps, for a second or a week: with a `state_path` it puts its state on disk
before it pauses, every now and then while it works, and when it is told to stop; the same job started again goes on
from there, to the bit (`training_state.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch

from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.lora import adapter_files, attach_lora
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.trainer.dataset import Samples, mirrored, sampling_weights
from continuonbrain.trainer.objective import action_loss, query_weights, soft_targets
from continuonbrain.trainer.pool import Pool, Recall, encode
from continuonbrain.trainer.training_state import TrainingState, saved_samples

Save = Callable[[], None]

_WARM_UP = 0.1
_CACHE_MEMORY_SHARE = 0.85
"""Of the memory, for what is cached; steps need the rest."""
_SNAPSHOT_EVERY = 20
_SAVE_EVERY_S = 30.0
_EXPLODED = 2.0
"""Times the mean of the first losses: the loss of a sound run falls, and no batch is that much harder."""
_CACHE_SHARE = 0.45
"""Of the wall time, for the frozen pass: on a slow machine fewer samples are cached, and steps are left for them."""


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Caps and hyperparameters, from the config. max_wall_time_s bounds caching and steps together; max_memory_mib the
    process's resident memory: above it no more samples are cached, and the job ends as when its time is up."""

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
    max_memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is: phase "cache" or "train", step of steps, loss (None while caching)."""

    phase: str
    step: int
    steps: int
    loss: float | None = None


@dataclass(slots=True)
class JobResult:
    """What came out. files: the adapter as a PEFT folder's files; ended: why the loop ended; resumed_at: the step
    that an interrupted job was taken up at; recalled: samples that needed no pass through the frozen layers."""

    files: dict[str, bytes]
    losses: list[float] = field(default_factory=list)
    steps: int = 0
    cache_s: float = 0.0
    train_s: float = 0.0
    ended: str = "steps"
    resumed_at: int = 0
    recalled: int = 0
    peak_rss_mib: float = 0.0
    samples: int = 0
    trainable_parameters: int = 0


def train_adapter(
    model: DrivingModel,
    layout: PromptLayout,
    samples: Samples,
    settings: JobSettings,
    *,
    base_sha256: str,
    replay: Samples | None = None,
    state_path: Path | None = None,
    recall: Recall | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    wait_until_allowed: Callable[[Save], float] = lambda _save: 0.0,
) -> JobResult:
    """Train one adapter. `model` must have no adapter attached; afterwards it has the new one.

    replay: states that the base knows, mixed into every batch against forgetting.

    state_path: where the job stands, on disk. The same job (settings, base, samples) found there is gone on with;
    the file is removed when the job has ended.

    recall: finds what the policy computed while it was acting, so that it is not computed again.

    wait_until_allowed is called before every step and after every batch that is cached, with a function that puts
    the job on disk: it blocks while a gate is closed and returns the seconds that it did, which do not count
    against the wall time. An exception from it ends the job; what is on disk stays. When the time is up before the
    first step, the result has no files and no losses.
    """
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    sampler = np.random.default_rng(settings.seed)
    parts = [samples, mirrored(samples)] if settings.mirror else [samples]
    taught = [i for p in parts for i in p.instructions]
    chances = sampling_weights(taught) if settings.balance else np.full(len(taught), 1 / len(taught))
    if replay is not None and len(replay) and settings.replay_share > 0:
        share = settings.replay_share
        chances = np.concatenate([(1 - share) * chances, np.full(len(replay), share / len(replay))])
        parts.append(replay)

    # In random order, so that what a slow machine has cached when its share of the time is up is a fair sample.
    order = sampler.permutation(len(chances))
    pool, chances = Pool(parts, order), chances[order]
    fingerprint = _fingerprint(settings, base_sha256, pool)
    begun = None if state_path is None else saved_samples(state_path, fingerprint)
    paused = 0.0

    def go_on(done: int, total: int) -> bool:
        nonlocal paused
        on_progress(Progress("cache", done, total))
        paused += wait_until_allowed(_nothing_to_save)
        if begun is not None:
            return done < begun
        in_time = time.monotonic() - started - paused < _CACHE_SHARE * settings.max_wall_time_s
        return in_time and not _above(settings.max_memory_mib, share=_CACHE_MEMORY_SHARE)

    streams, recalled = encode(model, layout, pool, go_on, recall)
    n = len(streams)
    chances = chances[:n] / chances[:n].sum()
    weights = torch.from_numpy(pool.weights[:n]) * query_weights()
    parameters = attach_lora(
        model, base_sha256=base_sha256, rank=settings.rank, alpha=settings.alpha, targets=settings.targets
    )
    cache_s = time.monotonic() - started
    result = JobResult(
        {},
        samples=n,
        trainable_parameters=sum(p.numel() for p in parameters),
        cache_s=cache_s,
        recalled=recalled,
    )
    state = TrainingState(
        fingerprint,
        {name: p for name, p in model.language_model.named_parameters() if p.requires_grad},
        torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay),
        sampler,
        losses=[],
        good=[p.detach().clone() for p in parameters],
        samples=n,
        budget_s=settings.max_wall_time_s - (cache_s - paused),
    )
    if state_path is not None and state.load(state_path):
        result.resumed_at = state.step

    def loss_of_batch() -> torch.Tensor:
        rows = state.sampler.choice(n, size=settings.batch_size, p=chances)
        index = torch.from_numpy(rows)
        targets = soft_targets(layout, pool.curvature[rows], pool.speed_ahead[rows])
        return action_loss(model.decode(streams.select(index)), targets, weights[index])

    began = time.monotonic()
    result.ended = _Steps(state, settings, loss_of_batch, state_path, on_progress, wait_until_allowed).run()
    result.losses, result.steps, result.train_s = state.losses, state.step, time.monotonic() - began
    result.files = adapter_files(model) if result.steps else {}
    result.peak_rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if state_path is not None:
        state_path.unlink(missing_ok=True)
    return result


def _nothing_to_save() -> None:
    """While samples are cached there is nothing yet that a new start would not find again."""


def _above(limit_mib: int | None, *, share: float = 1.0) -> bool:
    """Whether this process's resident memory is above a share of the limit."""
    return limit_mib is not None and psutil.Process().memory_info().rss > share * limit_mib * 2**20


def _fingerprint(settings: JobSettings, base_sha256: str, pool: Pool) -> str:
    asked = json.dumps(asdict(settings), sort_keys=True)
    return hashlib.sha256(f"{asked}\n{base_sha256}\n{pool.sha256()}".encode()).hexdigest()


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate at a progress in [0, 1]: cosine up over the first tenth, cosine down to zero."""
    if progress < _WARM_UP:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / _WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - _WARM_UP) / (1 - _WARM_UP))))


@dataclass(slots=True)
class _Steps:
    """The loop over steps, from wherever the state stands."""

    state: TrainingState
    settings: JobSettings
    loss_of_batch: Callable[[], torch.Tensor]
    state_path: Path | None
    on_progress: Callable[[Progress], None]
    wait_until_allowed: Callable[[Save], float]
    _saved_s: float = field(default_factory=time.monotonic)

    def save(self) -> None:
        """Put the job on disk. A full disk costs the state, not the job."""
        self._saved_s = time.monotonic()
        if self.state_path is not None:
            with contextlib.suppress(OSError):
                self.state.save(self.state_path)

    def run(self) -> str:
        """Why it ended."""
        state, settings = self.state, self.settings
        before = state.spent_s
        began = time.monotonic()
        while state.step < settings.max_steps:
            began += self.wait_until_allowed(self.save)  # a pause is no progress
            state.spent_s = before + time.monotonic() - began
            if state.spent_s > state.budget_s:
                return "wall time"
            if _above(settings.max_memory_mib):
                return "memory limit"
            if time.monotonic() - self._saved_s > _SAVE_EVERY_S:
                self.save()
            # Of the steps or of the time, whichever is nearer to its end.
            progress = max(state.step / settings.max_steps, state.spent_s / max(1e-9, state.budget_s))
            for group in state.optimiser.param_groups:
                group["lr"] = settings.learning_rate * one_cycle(progress)
            if why := self._step():
                return why
            self.on_progress(Progress("train", state.step, settings.max_steps, state.losses[-1]))
        return "steps"

    def _step(self) -> str:
        """One step; why the job must end, "" when it goes on."""
        state = self.state
        parameters = list(state.parameters.values())
        loss = self.loss_of_batch()
        value = float(loss.detach())
        first = state.losses[:10]
        if not math.isfinite(value) or (len(first) == 10 and value > _EXPLODED * sum(first) / 10):
            with torch.no_grad():
                for parameter, good in zip(parameters, state.good, strict=True):
                    parameter.copy_(good)
            return "loss not finite" if not math.isfinite(value) else "loss exploded"
        state.optimiser.zero_grad()
        loss.backward()
        if not math.isfinite(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))):
            return (
                "gradient not finite"  # the parameters of this step gave a finite loss: they stay as they are
            )
        if state.step % _SNAPSHOT_EVERY == 0:
            state.good = [p.detach().clone() for p in parameters]
        state.optimiser.step()
        state.losses.append(value)
        return ""
