"""Action codec: an action chunk as ten numbers, each one token of the model's vocabulary, and back.

A chunk is geometry and speed, apart: curvature (1/m, left positive) at eight distances ahead, and speed (m/s)
at two times ahead. Geometry by distance makes "keep left" the same path at any speed, so that "slowly" and
"keep left" compose. Each number is a distribution over evenly spaced bins: the target is a Gaussian of 0.7
bins around the value (so neighbouring bins share credit), and the answer is the expectation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CURVATURE_KNOTS_M = (0.0, 0.2, 0.4, 0.7, 1.1, 1.6, 2.2, 3.0)
SPEED_KNOTS_S = (0.5, 1.5)
QUERIES = len(CURVATURE_KNOTS_M) + len(SPEED_KNOTS_S)

_WIDTH = 0.7
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Bins:
    """count bins with centres evenly from low to high."""

    low: float
    high: float
    count: int

    @property
    def centres(self) -> F32:
        return np.linspace(self.low, self.high, self.count, dtype=np.float32)

    @property
    def step(self) -> float:
        return (self.high - self.low) / (self.count - 1)


# Wheels turned to 0.4 rad on a 0.26 m wheelbase bend the path by 1.63 1/m; one bin is a steering step of 5 %.
# Two bins of margin at both ends keep the expectation of an extreme value unbiased.
CURVATURE_BINS = Bins(-1.8, 1.8, 45)
SPEED_BINS = Bins(-0.2, 2.2, 25)
FULL_SPEED_MPS = 2.0
"""The largest speed that a path can ask for: the bins without their margin."""


def curvature_tokens() -> list[str]:
    """Vocabulary entries of the curvature bins."""
    return [f"<curvature_{i}>" for i in range(CURVATURE_BINS.count)]


def speed_tokens() -> list[str]:
    """Vocabulary entries of the speed bins."""
    return [f"<speed_{i}>" for i in range(SPEED_BINS.count)]


def query_tokens() -> list[str]:
    """Vocabulary entries of the ten questions."""
    return [f"<curvature_at_{d}m>" for d in CURVATURE_KNOTS_M] + [f"<speed_in_{t}s>" for t in SPEED_KNOTS_S]


def _soft(values: F32, bins: Bins) -> F32:
    distance = (np.clip(values, bins.low, bins.high)[..., None] - bins.centres) / bins.step
    weight = np.exp(-0.5 * (distance / _WIDTH) ** 2)
    out: F32 = (weight / weight.sum(-1, keepdims=True)).astype(np.float32)
    return out


def encode_curvature(curvature: F32) -> F32:
    """Curvatures `[..., 8]` -> soft targets `[..., 8, 45]`; values beyond the bins are clipped."""
    return _soft(np.asarray(curvature, np.float32), CURVATURE_BINS)


def encode_speed(speed: F32) -> F32:
    """Speeds `[..., 2]` -> soft targets `[..., 2, 25]`."""
    return _soft(np.asarray(speed, np.float32), SPEED_BINS)


def decode_curvature(probabilities: F32) -> F32:
    """Distributions `[..., 8, 45]` -> curvatures `[..., 8]` in 1/m."""
    return probabilities @ CURVATURE_BINS.centres


def decode_speed(probabilities: F32) -> F32:
    """Distributions `[..., 2, 25]` -> speeds `[..., 2]` in m/s, never negative."""
    out: F32 = np.maximum(probabilities @ SPEED_BINS.centres, 0.0)
    return out
