"""Prompts with answers as token ids, and how an adapter is trained on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continuonbrain.errors import BrainError
from continuonbrain.model.head_loss import IGNORED

_WHOLE = {
    "rank": (1, 256),
    "batch_size": (1, 4096),
    "part": (1, 4096),
    "max_steps": (1, 10_000_000),
    "seed": (0, 2**63 - 1),
    "frame_px": (1, 4096),
    "cache_mib": (0, 1 << 30),
    "threads": (1, 1024),
    "max_memory_mib": (1, 1 << 30),
}
_REAL = {"alpha": True, "learning_rate": True, "weight_decay": False, "max_wall_time_s": True}
"""Whether it must be above 0."""


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
        for name, (least, most) in _WHOLE.items():
            value = getattr(self, name)
            if value is None and name in ("threads", "max_memory_mib"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                why = ": no longer low, and it may fill the memory" if name == "rank" and value else ""
                raise BrainError(
                    f"{name} is {value!r}{why}", remedy=f"set {name} to a whole number from {least} to {most}"
                )
        for name, positive in _REAL.items():
            value = getattr(self, name)
            known = isinstance(value, int | float) and isfinite(value)
            if not known or value < 0 or (positive and value == 0):
                raise BrainError(
                    f"{name} is {value!r}",
                    remedy=f"set {name} to a number {'above 0' if positive else 'from 0'}",
                )
        targets: object = self.targets
        if not isinstance(targets, tuple) or not targets or not all(isinstance(t, str) for t in targets):
            raise BrainError(f"targets is {self.targets!r}", remedy="name the modules to train, as a tuple")


def padded_labels(samples: Sequence[TokenSample]) -> Tensor:
    """The answers of several samples, int64 `[n, longest answer]`, `IGNORED` behind the shorter ones."""
    out = torch.full((len(samples), max(s.answer for s in samples)), IGNORED)
    for row, sample in enumerate(samples):
        out[row, : sample.answer] = sample.labels
    return out
