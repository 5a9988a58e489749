"""Training on token samples, from a checkpoint folder, by whichever route it allows (`language_routes.py`).

A batch goes through in small parts, so that a closing gate waits for a part and not for a batch.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from continuonbrain.errors import BrainError
from continuonbrain.model.lora import peft_files
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.trainer.language_routes import route_for
from continuonbrain.trainer.steps import JobResult, Progress, Save, StepLoop, peak_rss_mib
from continuonbrain.trainer.token_samples import LanguageSettings, TokenSample
from continuonbrain.trainer.training_state import TrainingState


def train_language(
    folder: Path,
    samples: Sequence[TokenSample],
    settings: LanguageSettings,
    *,
    base_sha256: str,
    cache: Path,
    state_path: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    wait_until_allowed: Callable[[Save], float] = lambda _save: 0.0,
) -> JobResult:
    """Train one adapter on a checkpoint folder. See `job.train_adapter` for the callbacks and the state.

    cache: folder for what is computed once a sample. It belongs to one job at a time, and so does the state.

    Raises:
        CheckpointError, LoraError, RecordCacheError: named, with a remedy; no adapter is written.
        LockHeldError, LockFileError: another job works with this cache or state; they cannot be written.
        BrainError: no samples.
    """
    if not samples:
        raise BrainError("there are no samples to learn from", remedy="record teleoperation first")
    locks = {cache / "job.lock"}
    if state_path is not None:
        locks.add(state_path.with_name(f"{state_path.name}.lock"))
    with contextlib.ExitStack() as alone:
        for lock in sorted(locks):
            with contextlib.suppress(OSError):  # the lock says what is wrong
                lock.parent.mkdir(parents=True, exist_ok=True)
            alone.enter_context(ProcessLock(lock, purpose=f"train on {folder}"))
        return _train(
            folder,
            samples,
            settings,
            base_sha256=base_sha256,
            cache=cache,
            state_path=state_path,
            on_progress=on_progress,
            wait_until_allowed=wait_until_allowed,
        )


def _train(
    folder: Path,
    samples: Sequence[TokenSample],
    settings: LanguageSettings,
    *,
    base_sha256: str,
    cache: Path,
    state_path: Path | None,
    on_progress: Callable[[Progress], None],
    wait_until_allowed: Callable[[Save], float],
) -> JobResult:
    started = time.monotonic()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    paused = 0.0
    loop: StepLoop | None = None

    def look() -> None:
        nonlocal paused
        if loop is None:  # until then there is nothing that a new start would not find again
            paused += wait_until_allowed(lambda: None)
        else:
            loop.pause()

    route = route_for(folder, settings, base_sha256=base_sha256, cache=cache, look=look)
    recalled = route.prepare(samples, lambda done, total: on_progress(Progress("cache", done, total)))
    gc.collect()
    cache_s = time.monotonic() - started
    torch.manual_seed(settings.seed)
    wrapped = route.open()
    parameters = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    state = TrainingState(
        _fingerprint(settings, base_sha256, samples),
        parameters,
        torch.optim.AdamW(parameters.values(), settings.learning_rate, weight_decay=settings.weight_decay),
        np.random.default_rng(settings.seed),
        losses=[],
        good=[p.detach().clone() for p in parameters.values()],
        samples=len(samples),
        streams_sha256="",  # from one store, always computed one by one: what is lost comes back the same
        budget_s=settings.max_wall_time_s - (time.monotonic() - started - paused),
    )
    result = JobResult(
        {},
        samples=len(samples),
        trainable_parameters=sum(p.numel() for p in parameters.values()),
        cache_s=cache_s,
        recalled=recalled,
        route=route.name,
    )
    if state_path is not None and state.load(state_path):
        result.resumed_at = state.step

    def backward_of_batch(_pause: Callable[[], None]) -> float:
        size = min(settings.batch_size, len(samples))
        rows = state.sampler.choice(len(samples), size=size, replace=False)
        answers = sum(samples[int(i)].answer for i in rows)
        total = 0.0
        for start in range(0, size, settings.part):
            part = [samples[int(i)] for i in rows[start : start + settings.part]]
            # The mean over the batch's answer tokens, whatever parts it comes in.
            loss = route.loss(part) * (sum(s.answer for s in part) / answers)
            loss.backward()
            total += float(loss.detach())
        return total

    loop = StepLoop(state, settings, backward_of_batch, state_path, on_progress, wait_until_allowed)
    result.ended = loop.run()
    result.losses, result.steps, result.train_s = state.losses, state.step, state.spent_s
    if result.steps:
        with tempfile.TemporaryDirectory() as scratch:
            result.files = peft_files(wrapped, Path(scratch), base_sha256=base_sha256)
    result.peak_rss_mib = peak_rss_mib()
    return result


def _fingerprint(settings: LanguageSettings, base_sha256: str, samples: Sequence[TokenSample]) -> str:
    asked = json.dumps(asdict(settings) | {"threads": None}, sort_keys=True)
    keys = "".join(s.key() for s in samples)
    return hashlib.sha256(f"{asked}\n{base_sha256}\n{keys}".encode()).hexdigest()
