"""Prompts with answers as token ids, and how an adapter is trained on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continuonbrain.errors import BrainError
from continuonbrain.model.head_loss import IGNORED

_MOST_RANK = 256


@dataclass(frozen=True, slots=True)
class TokenSample:
    """A prompt with its answer. ids: token ids `[T]`; answer: how many of the last ones are the answer, at least 1
    and less than T. They are predicted, each from what stands before it. frames: pictures uint8 `[H, W, 3]`, in the
    order of their placeholder tokens in the prompt."""

    ids: tuple[int, ...]
    answer: int
    frames: tuple[NDArray[np.uint8], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.answer < len(self.ids):
            raise BrainError(
                f"a sample of {len(self.ids)} tokens cannot have {self.answer} answer tokens",
                remedy="give every sample a prompt and at least one answer token (an episode without labels has none)",
            )
        if min(self.ids) < 0:
            raise BrainError(
                f"token id {min(self.ids)} is negative", remedy="use the ids that the tokenizer gives"
            )
        for frame in self.frames:
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
                raise BrainError(
                    f"a frame is {frame.dtype} of shape {frame.shape}; RGB pictures are uint8 [height, width, 3]",
                    remedy="convert it first",
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
        digest = hashlib.sha256(f"{self.answer}:{','.join(map(str, self.ids))}".encode())
        for frame in self.frames:
            digest.update(frame_key(frame).encode())
        return digest.hexdigest()


def frame_key(frame: NDArray[np.uint8]) -> str:
    """A picture's name."""
    return hashlib.sha256(f"{frame.shape}".encode() + np.ascontiguousarray(frame).tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class LanguageSettings:
    """Caps and hyperparameters. part: samples of a batch that go through the layers together; packed: packed
    copies of bf16 weights, for speed (see `load_top`); frame_px: side of what the vision tower sees; threads: of the
    arithmetic, None leaves what torch has (on a busy machine one is many times faster than all)."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    plus_one: bool = False
    int8: bool = True
    packed: bool = False
    frame_px: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 8
    part: int = 8
    max_steps: int = 300
    max_wall_time_s: float = 3600.0
    seed: int = 0
    max_memory_mib: int | None = None
    cache_mib: int = 4096
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("rank", "batch_size", "part", "max_steps", "frame_px"):
            if getattr(self, name) < 1:
                raise BrainError(f"{name} is {getattr(self, name)}", remedy=f"set {name} to 1 or more")
        if self.rank > _MOST_RANK:
            raise BrainError(
                f"rank is {self.rank}: no longer low, and it may fill the memory",
                remedy=f"set rank to {_MOST_RANK} or less",
            )


def padded_labels(samples: Sequence[TokenSample]) -> Tensor:
    """The answers of several samples, int64 `[n, longest answer]`, `IGNORED` behind the shorter ones."""
    out = torch.full((len(samples), max(s.answer for s in samples)), IGNORED)
    for row, sample in enumerate(samples):
        out[row, : sample.answer] = sample.labels
    return out
