"""The training job: cached streams below, LoRA steps in the KV-shared layers above.

1. Every sample, and its mirror image, goes once through the frozen part (connector and layers below the cut):
   `Streams` (`pool.py`).
2. Steps run the shared layers only, at the ten query positions, with AdamW; samples are drawn so that rarely
   taught instructions count more.

Replay: a share of every batch comes from the base's own family of states, so that a new road does not cost the
old ones. It cannot fight with the lessons over the servo: labels are paths in the world, and trim, gain and sign
live in the calibration.

The steps, their bounds and how a job is put down and taken up again are in `steps.py`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.lora import adapter_files, attach_lora
from continuonbrain.model.plain_lora import Begun, Start
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.objective import action_loss, query_weights, soft_targets
from continuonbrain.trainer.pool import Recall, encode, mix
from continuonbrain.trainer.steps import JobResult, Progress, Save, StepLoop, above_memory, peak_rss_mib
from continuonbrain.trainer.training_state import TrainingState, saved_samples

_CACHE_MEMORY_SHARE = 0.85
"""Of the memory, for what is cached; steps need the rest."""
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


def train_adapter(
    model: DrivingModel,
    layout: PromptLayout,
    samples: Samples,
    settings: JobSettings,
    *,
    base_sha256: str,
    replay: Samples | None = None,
    start: Start | None = None,
    state_path: Path | None = None,
    recall: Recall | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    wait_until_allowed: Callable[[Save], float] = lambda _save: 0.0,
) -> JobResult:
    """Train one adapter. `model` must have no adapter attached; afterwards it has the new one.

    replay: states that the base knows, mixed into every batch against forgetting.

    start: an adapter to go on from, or to train on top of: the result is then both of them, of both ranks together.

    state_path: where the job stands, on disk. The same job (settings, base, samples, streams) found there is gone on
    with. The file stays when the job has ended: whoever has made the adapter safe removes it (`forget_state`).

    recall: finds what the policy computed while it was acting, so that it is not computed again.

    wait_until_allowed is called before every step, after every batch that is cached, and between the parts of all else
    that takes long, with a function that puts the job on disk: it blocks while a gate is closed and returns the seconds
    that it did, which do not count against the wall time. An exception from it ends the job; what is on disk stays.
    When the time is up before the first step, the result has no files and no losses.
    """
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    sampler = np.random.default_rng(settings.seed)
    paused = 0.0

    def look() -> None:
        nonlocal paused
        paused += wait_until_allowed(_nothing_to_save)

    pool, chances = mix(samples, replay, settings, sampler)
    begins = base_sha256 if start is None else f"{base_sha256} {start.sha256}"
    fingerprint = _fingerprint(settings, begins, pool.sha256(look))
    cached_before = None if state_path is None else saved_samples(state_path, fingerprint)

    def go_on(done: int, total: int) -> bool:
        on_progress(Progress("cache", done, total))
        look()
        if cached_before is not None:
            return done < cached_before
        in_time = time.monotonic() - started - paused < _CACHE_SHARE * settings.max_wall_time_s
        return in_time and not above_memory(settings.max_memory_mib, share=_CACHE_MEMORY_SHARE)

    streams, recalled = encode(model, layout, pool, go_on, recall)
    streams_sha256 = streams.sha256(look)
    n = len(streams)
    chances = chances[:n] / chances[:n].sum()
    weights = torch.from_numpy(pool.weights[:n]) * query_weights()
    rank = settings.rank + (start.lora.rank if start is not None and start.frozen else 0)
    parameters = attach_lora(
        model,
        base_sha256=base_sha256,
        rank=rank,
        alpha=settings.alpha * rank / settings.rank,  # what is new has the same scale, whatever lies below it
        targets=settings.targets,
    )
    begun = None if start is None else Begun(model.language_model, start)
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
        streams_sha256=streams_sha256,
        budget_s=settings.max_wall_time_s - (cache_s - paused),
    )
    if state_path is not None and state.load(state_path):
        result.resumed_at = state.step

    def backward_of_batch(_pause: Callable[[], None]) -> float:
        if begun is not None:
            begun.hold()
        rows = state.sampler.choice(n, size=settings.batch_size, p=chances)
        index = torch.from_numpy(rows)
        targets = soft_targets(layout, pool.curvature[rows], pool.speed_ahead[rows])
        loss = action_loss(model.decode(streams.select(index)), targets, weights[index])
        loss.backward()
        return float(loss.detach())

    result.ended = StepLoop(
        state, settings, backward_of_batch, state_path, on_progress, wait_until_allowed
    ).run()
    result.losses, result.steps, result.train_s = state.losses, state.step, state.spent_s
    if begun is not None:
        begun.hold()
    result.files = adapter_files(model) if result.steps else {}
    result.peak_rss_mib = peak_rss_mib()
    return result


def _nothing_to_save() -> None:
    """While samples are cached there is nothing yet that a new start would not find again."""


def _fingerprint(settings: JobSettings, base_sha256: str, pool_sha256: str) -> str:
    asked = json.dumps(asdict(settings), sort_keys=True)
    return hashlib.sha256(f"{asked}\n{base_sha256}\n{pool_sha256}".encode()).hexdigest()
