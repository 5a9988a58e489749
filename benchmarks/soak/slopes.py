"""Whether something grows: a robust slope over the lives of processes, and what it must not exceed.

Theil-Sen (Theil 1950, Sen 1968): the median of the slopes of all pairs of samples. Pairs are of one life of a process
and of one phase, so that neither a restart nor work that needs memory for a while counts as growth. The sidecar is
looked at between two rounds of learning, once it has trained in one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WARM_UP_S = 45.0
"""Of every life: loading torch, first allocations."""
_APART_S = 20.0
"""Pairs closer than this only show noise."""
_FEWEST_PAIRS = 200
_MOST_SAMPLES = 600
"""Of one life and phase; more are thinned out."""

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one process. at_s: monotonic; age_s: of the process; phase: what it was at."""

    at_s: float
    pid: int
    age_s: float
    phase: str
    value: float


def slope_per_h(samples: Iterable[Sample]) -> float | None:
    """Growth per hour; None where there are too few pairs to tell."""
    groups: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        if sample.age_s >= WARM_UP_S:
            groups[sample.pid, sample.phase].append((sample.at_s, sample.value))
    slopes = [_pairs(np.array(group, float)) for group in groups.values()]
    pooled = np.concatenate(slopes) if slopes else np.empty(0)
    return float(np.median(pooled)) * 3600.0 if len(pooled) >= _FEWEST_PAIRS else None


def _pairs(group: F64) -> F64:
    group = group[:: -(-len(group) // _MOST_SAMPLES)]
    first, second = np.triu_indices(len(group), 1)
    apart = group[second, 0] - group[first, 0]
    far = apart >= _APART_S
    slopes: F64 = (group[second, 1] - group[first, 1])[far] / apart[far]
    return slopes
