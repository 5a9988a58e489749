"""Statistics of a LeRobot dataset: per episode and over all, as its policies read them for normalising.

For every feature that is no text: min, max, mean, std, count, and the quantiles q01, q10, q50, q90, q99 (lerobot,
`src/lerobot/datasets/compute_stats.py`). A vector's are lists of one number each component, a picture's are
`[3, 1, 1]` over all pixels, divided by 255; `count` is a list of one number and counts steps, for pictures frames.

Memory does not grow with the dataset: over all episodes, a vector's quantiles are counted in bins of one per cent of
the value, a picture's in its 256 values. Those of one episode are exact.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from continuonbrain.rlds.measures import Quantiles
from continuonbrain.rlds.step import Frame

QUANTILES: Final = (0.01, 0.10, 0.50, 0.90, 0.99)
FeatureStats = dict[str, Any]
_COLOURS: Final = 256


def quantile_name(share: float) -> str:
    """`q01` of 0.01."""
    return f"q{round(share * 100):02d}"


def vector_stats(values: NDArray[np.float64]) -> FeatureStats:
    """Of the steps of one episode, `[n, k]` with n of at least 1: lists of k numbers."""
    stats = {
        "min": values.min(0).tolist(),
        "max": values.max(0).tolist(),
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
        "count": [len(values)],
    }
    rows = np.quantile(values, QUANTILES, axis=0)
    return stats | {quantile_name(q): row.tolist() for q, row in zip(QUANTILES, rows, strict=True)}


class VectorTotals:
    """Statistics of a feature over all episodes, fed one episode `[n, k]` at a time."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = np.zeros(0)
        self._squares = np.zeros(0)  # sum of squared distances from the mean
        self._quantiles: list[Quantiles] = []

    def add(self, values: NDArray[np.float64]) -> None:
        """Count an episode. Means and spreads are merged as Chan, Golub and LeVeque (1979) do: nothing cancels."""
        count, mean = len(values), values.mean(0)
        squares = ((values - mean) ** 2).sum(0)
        if not self._count:
            self._mean, self._squares = mean, squares
            self._quantiles = [Quantiles() for _ in range(values.shape[1])]
        else:
            apart = mean - self._mean
            both = self._count + count
            self._squares += squares + apart**2 * (self._count * count / both)
            self._mean = self._mean + apart * (count / both)
        self._count += count
        for quantiles, column in zip(self._quantiles, values.T.tolist(), strict=True):
            for value in column:
                quantiles.add(value)

    def stats(self) -> FeatureStats:
        """Over all that was counted; at least one step."""
        out: FeatureStats = {
            "min": [q.minimum for q in self._quantiles],
            "max": [q.maximum for q in self._quantiles],
            "mean": self._mean.tolist(),
            "std": np.sqrt(self._squares / self._count).tolist(),
            "count": [self._count],
        }
        for share in QUANTILES:
            out[quantile_name(share)] = [q.at(share) for q in self._quantiles]
        return out


class ImageTotals:
    """Statistics of pictures: how often each of the 256 values came in each channel."""

    def __init__(self) -> None:
        self.frames = 0
        self._counts = np.zeros((3, _COLOURS), np.int64)

    def add(self, frame: Frame) -> None:
        """Count every pixel of a picture, RGB uint8 [H, W, 3]."""
        self.frames += 1
        for channel in range(3):
            self._counts[channel] += np.bincount(frame[:, :, channel].ravel(), minlength=_COLOURS)

    def merge(self, other: ImageTotals) -> None:
        """Count what another has counted."""
        self.frames += other.frames
        self._counts += other._counts

    def stats(self) -> FeatureStats:
        """Over all that was counted, in [0, 1]; at least one frame."""
        values = np.arange(_COLOURS) / 255.0
        total = self._counts.sum(1, keepdims=True)
        mean = (self._counts * values).sum(1) / total[:, 0]
        spread = (self._counts * (values - mean[:, None]) ** 2).sum(1) / total[:, 0]
        seen = [np.flatnonzero(counts) for counts in self._counts]
        out = {
            "min": [float(values[s[0]]) for s in seen],
            "max": [float(values[s[-1]]) for s in seen],
            "mean": mean.tolist(),
            "std": np.sqrt(spread).tolist(),
        }
        reached = np.cumsum(self._counts, 1)
        for share in QUANTILES:
            at = (reached >= share * total).argmax(1)
            out[quantile_name(share)] = values[at].tolist()
        shaped: FeatureStats = {name: [[[v]] for v in numbers] for name, numbers in out.items()}
        return shaped | {"count": [self.frames]}
