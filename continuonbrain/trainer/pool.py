"""What a job draws its batches from: several sets of samples as one, in random order, and their streams."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.streams import Streams, collate
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.trainer.dataset import Samples, mirrored, sampling_weights
from continuonbrain.trainer.look import Look, unwatched

_ENCODE_BATCH = 16
"""A closing gate waits for one of these: about a second of a small computer."""


class Pool:
    """Sets of samples in one order, without a second copy of their frames. order: int64, a permutation of all."""

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
        self.stamps = np.concatenate([p.stamps for p in parts])[order]

    def __len__(self) -> int:
        return len(self._order)

    def frames(self, rows: slice) -> NDArray[np.uint8]:
        """Frames `[n, 120, 160, 3]` of the rows."""
        return self.frames_at(np.arange(len(self))[rows])

    def frames_at(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames `[n, 120, 160, 3]` of the rows of these numbers."""
        wanted = self._order[rows]
        of = np.searchsorted(self._starts, wanted, side="right") - 1
        return np.stack(
            [
                self._parts[part].frames[i - self._starts[part]]
                for part, i in zip(of.tolist(), wanted, strict=True)
            ]
        )

    def sha256(self, look: Look = unwatched) -> str:
        """Identity of the samples and their order."""
        digest = hashlib.sha256(self._order.tobytes())
        for part in self._parts:
            digest.update(part.sha256(look).encode())
        return digest.hexdigest()


class MixSettings(Protocol):
    """What `mix` needs of a job's settings."""

    @property
    def mirror(self) -> bool: ...

    @property
    def balance(self) -> bool: ...

    @property
    def replay_share(self) -> float: ...


Weigh = Callable[[Sequence[str]], NDArray[np.float64]]
"""The instructions of the lessons, once for each of a sample's images in the pool -> the chance of drawing each, `[n]`,
1 together."""


def mix(
    samples: Samples,
    replay: Samples | None,
    settings: MixSettings,
    sampler: np.random.Generator,
    weigh: Weigh = sampling_weights,
) -> tuple[Pool, NDArray[np.float64]]:
    """Lessons, their mirror image and replay as one pool in random order, and the chance of drawing each. weigh: how
    lessons are balanced among themselves, where they are."""
    parts = [samples, mirrored(samples)] if settings.mirror else [samples]
    taught = [i for p in parts for i in p.instructions]
    chances = weigh(taught) if settings.balance else np.full(len(taught), 1 / len(taught))
    if replay is not None and len(replay) and settings.replay_share > 0:
        share = settings.replay_share
        chances = np.concatenate([(1 - share) * chances, np.full(len(replay), share / len(replay))])
        parts.append(replay)
    # In random order, so that what a slow machine has cached when its share of the time is up is a fair sample.
    order = sampler.permutation(len(chances))
    return Pool(parts, order), chances[order]


Recall = Callable[[int, NDArray[np.int64], NDArray[np.uint8]], Streams | None]
"""Monotonic nanoseconds of a frame, the prompt's tokens `[T]`, the frame -> its streams, if they were kept."""


def encode(
    model: DrivingModel,
    layout: PromptLayout,
    pool: Pool,
    go_on: Callable[[int, int], bool],
    recall: Recall | None = None,
) -> tuple[Streams, int]:
    """The frozen pass over the pool, in its order, for as long as `go_on(done, total)` says so; and how many samples
    needed none, because `recall` had their streams."""
    total, done, recalled = len(pool), 0, 0
    cache: Streams | None = None
    while done < total:
        rows = slice(done, min(done + _ENCODE_BATCH, total))
        ids, frames = layout.ids(pool.instructions[rows], pool.speeds[rows]), pool.frames(rows)
        kept: dict[int, Streams] = {}
        if recall is not None:
            for i in np.flatnonzero(pool.stamps[rows]):
                found = recall(int(pool.stamps[rows][i]), ids[i], frames[i])
                if found is not None:
                    kept[int(i)] = found
        missing = [i for i in range(len(ids)) if i not in kept]
        parts = list(kept.values())
        if missing:
            with torch.inference_mode():
                parts.append(model.encode(torch.from_numpy(ids[missing]), torch.from_numpy(frames[missing])))
        order = torch.from_numpy(np.argsort([*kept, *missing]))
        part = collate(parts)
        # One allocation for all, filled in place: joining parts at the end would need the memory twice.
        cache = cache or part.room_for(total)
        cache.put(rows, part.select(order) if kept else part)
        recalled += len(kept)
        done = rows.stop
        if not go_on(done, total):
            break
    assert cache is not None
    return cache.head(done), recalled
