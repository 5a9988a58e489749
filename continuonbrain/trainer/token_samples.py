"""Prompts with answers as token ids, and how an adapter is trained on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from continuonbrain.errors import BrainError
from continuonbrain.model.head_loss import IGNORED


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


def padded_labels(samples: Sequence[TokenSample]) -> Tensor:
    """The answers of several samples, int64 `[n, longest answer]`, `IGNORED` behind the shorter ones."""
    out = torch.full((len(samples), max(s.answer for s in samples)), IGNORED)
    for row, sample in enumerate(samples):
        out[row, : sample.answer] = sample.labels
    return out
