"""Training on token samples: any Gemma 3n or Gemma 4 checkpoint, in two phases that never share memory.

1. Caching: the layers below the cut, one sample at a time; its streams go to disk. Samples whose streams are there
   already cost nothing.
2. Steps: the layers above, the output projection and the adapter; a batch is read back from disk in small parts, so
   that a closing gate waits for a part and not for a batch.
"""

from __future__ import annotations

import gc
import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from continuonbrain.errors import BrainError
from continuonbrain.model.checkpoint import Checkpoint
from continuonbrain.model.decoder import decoder_of
from continuonbrain.model.head_loss import IGNORED, head_loss
from continuonbrain.model.lora import add_lora, lora_config, peft_files
from continuonbrain.model.phases import Precision, load_bottom, load_top
from continuonbrain.model.stream_store import StreamStore, identity
from continuonbrain.model.streams import Streams, collate
from continuonbrain.model.suffix import capture, keep, run_suffix
from continuonbrain.trainer.steps import JobResult, Progress, Save, StepLoop
from continuonbrain.trainer.training_state import TrainingState


@dataclass(frozen=True, slots=True)
class TokenSample:
    """A prompt with its answer. ids: token ids `[T]`; answer: how many of the last ones are the answer, at least 1
    and less than T. They are predicted, each from what stands before it."""

    ids: tuple[int, ...]
    answer: int

    def __post_init__(self) -> None:
        if not 0 < self.answer < len(self.ids):
            raise BrainError(
                f"a sample of {len(self.ids)} tokens cannot have {self.answer} answer tokens",
                remedy="give every sample a prompt and at least one answer token (an episode without labels has none)",
            )

    @property
    def positions(self) -> Tensor:
        """Where the answer is predicted, int64 `[answer]`."""
        return torch.arange(len(self.ids) - self.answer - 1, len(self.ids) - 1)

    @property
    def labels(self) -> Tensor:
        """What is predicted there, int64 `[answer]`."""
        return torch.tensor(self.ids[-self.answer :])

    def key(self) -> str:
        """Its name in a cache."""
        return hashlib.sha256(f"{self.answer}:{','.join(map(str, self.ids))}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class LanguageSettings:
    """Caps and hyperparameters. part: samples of a batch that go through the layers together."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    plus_one: bool = False
    int8: bool = True
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 8
    part: int = 2
    max_steps: int = 300
    max_wall_time_s: float = 3600.0
    seed: int = 0
    max_memory_mib: int | None = None
    cache_mib: int = 4096


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

    Raises:
        CheckpointError, LoraError, StreamStoreError: named, with a remedy; no adapter is written.
        BrainError: no samples.
    """
    if not samples:
        raise BrainError("there are no samples to learn from", remedy="record teleoperation first")
    started = time.monotonic()
    checkpoint = Checkpoint(folder)
    precision = Precision.of_this_machine(int8=settings.int8)
    kind = identity(base_sha256, "tokens", str(precision), str(settings.plus_one))
    store = StreamStore(cache, kind, max_bytes=settings.cache_mib << 20)
    paused, recalled = _cache(
        checkpoint, samples, settings, precision, store, on_progress, wait_until_allowed
    )
    gc.collect()
    cache_s = time.monotonic() - started

    torch.manual_seed(settings.seed)
    model, head = load_top(checkpoint, precision, plus_one=settings.plus_one)
    config = lora_config(
        model, settings.targets, rank=settings.rank, alpha=settings.alpha, plus_one=settings.plus_one
    )
    wrapped = add_lora(model, config, plus_one=settings.plus_one)
    decoder = decoder_of(wrapped, plus_one=settings.plus_one)
    parameters = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    state = TrainingState(
        _fingerprint(settings, base_sha256, samples),
        parameters,
        torch.optim.AdamW(parameters.values(), settings.learning_rate, weight_decay=settings.weight_decay),
        np.random.default_rng(settings.seed),
        losses=[],
        good=[p.detach().clone() for p in parameters.values()],
        samples=len(samples),
        budget_s=settings.max_wall_time_s - (cache_s - paused),
    )
    result = JobResult(
        {},
        samples=len(samples),
        trainable_parameters=sum(p.numel() for p in parameters.values()),
        cache_s=cache_s,
        recalled=recalled,
    )
    if state_path is not None and state.load(state_path):
        result.resumed_at = state.step

    def backward_of_batch(pause: Callable[[], None]) -> float:
        size = min(settings.batch_size, len(samples))
        rows = state.sampler.choice(len(samples), size=size, replace=False)
        answers = sum(samples[int(i)].answer for i in rows)
        total = 0.0
        for start in range(0, size, settings.part):
            if start:
                pause()
            part = [samples[int(i)] for i in rows[start : start + settings.part]]
            streams, labels = collate([_streams(store, s) for s in part]), _labels(part)
            # The mean over the batch's answer tokens, whatever parts it comes in.
            share = sum(s.answer for s in part) / answers
            loss = head_loss(run_suffix(decoder, streams), labels, head, soft_cap=decoder.soft_cap) * share
            loss.backward()
            total += float(loss.detach())
        return total

    began = time.monotonic()
    loop = StepLoop(state, settings, backward_of_batch, state_path, on_progress, wait_until_allowed)
    result.ended = loop.run()
    result.losses, result.steps, result.train_s = state.losses, state.step, time.monotonic() - began
    if result.steps:
        with tempfile.TemporaryDirectory() as scratch:
            result.files = peft_files(wrapped, Path(scratch), base_sha256=base_sha256)
    result.peak_rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if state_path is not None:
        state_path.unlink(missing_ok=True)
    return result


def _cache(
    checkpoint: Checkpoint,
    samples: Sequence[TokenSample],
    settings: LanguageSettings,
    precision: Precision,
    store: StreamStore,
    on_progress: Callable[[Progress], None],
    wait_until_allowed: Callable[[Save], float],
) -> tuple[float, int]:
    """Put every sample's streams on disk; seconds paused, and how many were there before."""
    missing = [s for s in samples if store.get(s.key()) is None]
    paused, known = 0.0, len(samples) - len(missing)
    if not missing:
        return paused, known
    decoder = load_bottom(checkpoint, precision, plus_one=settings.plus_one)
    for done, sample in enumerate(missing, start=1):
        ids = torch.tensor([sample.ids])
        with torch.no_grad():
            bottom = capture(decoder, lambda ids=ids: decoder.text(input_ids=ids, use_cache=False))  # type: ignore[misc]
            store.put(sample.key(), keep(decoder, bottom, [sample.positions])[0])
        on_progress(Progress("cache", done, len(missing)))
        paused += wait_until_allowed(lambda: None)
    lost = sum(sample.key() not in store for sample in samples)
    if lost:
        raise BrainError(
            f"the training cache holds {settings.cache_mib} MiB: too little for {len(samples)} samples, "
            f"{lost} are missing",
            remedy="raise cache_mib, or train on fewer episodes (max_episodes)",
        )
    return paused, known


def _streams(store: StreamStore, sample: TokenSample) -> Streams:
    found = store.get(sample.key())
    if found is None:
        raise BrainError(
            f"the training cache in {store.folder} lost a sample", remedy="train again: it is computed anew"
        )
    return found


def _labels(part: Sequence[TokenSample]) -> Tensor:
    out = torch.full((len(part), max(s.answer for s in part)), IGNORED)
    for row, sample in enumerate(part):
        out[row, : sample.answer] = sample.labels
    return out


def _fingerprint(settings: LanguageSettings, base_sha256: str, samples: Sequence[TokenSample]) -> str:
    asked = json.dumps(asdict(settings), sort_keys=True)
    keys = "".join(s.key() for s in samples)
    return hashlib.sha256(f"{asked}\n{base_sha256}\n{keys}".encode()).hexdigest()
