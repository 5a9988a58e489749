"""How sure a figure is: the bootstrap over what is independent. Pure numpy, the same answer for the same seed.

Steps 50 ms apart are nearly the same step, so they are no evidence of their own. What is drawn again is a *cluster*:
a held-out episode, a track, or, where there are too few episodes, a stretch of two seconds within its own episode
(`groups`; the interval then speaks of these episodes only, not of others). Both contenders are measured on the same
clusters, and their difference is formed within each: what makes a road hard is hard for both and cancels.

The plain percentile bootstrap is too sure of itself with few clusters: it draws from n values as if they were all
there is, and takes the normal distribution's tails. Both are mended by widening the interval around the estimate by
sqrt(n / (n - 1)) and by Student's t over the normal quantile (Hesterberg, 2015, "What teachers should know about the
bootstrap", section 3.2 on narrowness bias). `tests/trainer/test_bootstrap.py` counts how often it is wrong.

What no resampling can show is what was never seen: eight tracks without a fault give an interval of width 0, although
a fault in one of ten is still likely enough. Such an interval says that nothing was lost *on these tracks*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Two-sided: each end of an interval is wrong once in forty."""
RESAMPLES = 2000
_NORMAL = 1.959964
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its interval; n: clusters that it rests on; level: of confidence, two-sided."""

    estimate: float
    low: float
    high: float
    n: int
    level: float = LEVEL


def seed_of(evaluation_sha256: str, name: str) -> list[int]:
    """A seed for one figure of one evaluation: whoever has the verdict can compute the interval again."""
    digits = "".join(c for c in evaluation_sha256[:16] if c in "0123456789abcdef")
    return [int(digits or "0", 16), *name.encode()]


def interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    seed: Sequence[int],
    groups: Sequence[int] | None = None,
) -> Interval | None:
    """sum(numerators) / sum(denominators) over clusters, and how sure that is.

    denominators: weights for a mean (steps of an episode), or what a ratio is to be of (the rival's summed error).
    groups: of each cluster; drawn again within its group only.

    None where nothing can be said: fewer than two clusters (or one in each group), a number that is not finite, a
    denominator that is not positive.
    """
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    n = len(above)
    members = np.zeros(n, int) if groups is None else np.asarray(groups, int)
    if n != len(below) or n != len(members):
        raise ValueError(f"{n} numerators, {len(below)} denominators, {len(members)} groups")
    kinds = np.unique(members)
    freedom = n - len(kinds)
    if freedom < 1 or not (np.isfinite(above).all() and np.isfinite(below).all()) or not (below > 0).all():
        return None
    rng = np.random.default_rng(list(seed))
    top, bottom = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for kind in kinds:
        rows = np.flatnonzero(members == kind)
        drawn = rows[rng.integers(len(rows), size=(RESAMPLES, len(rows)))]
        top += above[drawn].sum(1)
        bottom += below[drawn].sum(1)
    estimate = float(above.sum() / below.sum())
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(top / bottom, [tail, 1 - tail])
    wider = math.sqrt(n / freedom) * student(freedom) / _NORMAL
    return Interval(
        estimate,
        float(min(estimate, estimate + wider * (low - estimate))),
        float(max(estimate, estimate + wider * (high - estimate))),
        n,
    )


def paired(
    candidate: Sequence[float],
    rival: Sequence[float],
    *,
    seed: Sequence[int],
    weights: Sequence[float] | None = None,
    groups: Sequence[int] | None = None,
) -> Interval | None:
    """Mean of candidate - rival over clusters; None where nothing can be said (also: not the same clusters)."""
    if len(candidate) != len(rival):
        return None
    share = np.ones(len(candidate)) if weights is None else np.asarray(weights, float)
    gap = (np.asarray(candidate, float) - np.asarray(rival, float)) * share
    return interval(gap.tolist(), share.tolist(), seed=seed, groups=groups)


def relative(
    candidate: Sequence[float],
    rival: Sequence[float],
    *,
    seed: Sequence[int],
    weights: Sequence[float],
    groups: Sequence[int] | None = None,
) -> Interval | None:
    """(candidate - rival) / rival of mean errors over clusters; None where nothing can be said."""
    if len(candidate) != len(rival):
        return None
    share, own, other = (np.asarray(x, float) for x in (weights, candidate, rival))
    return interval(((own - other) * share).tolist(), (other * share).tolist(), seed=seed, groups=groups)


@cache
def student(freedom: int) -> float:
    """The quantile of Student's t that `LEVEL` leaves out above. With t = sqrt(f) tan(angle) the density over the angle
    is cos(angle)^(f - 1), which is integrated by the trapezoid rule."""
    angle = np.linspace(0.0, math.pi / 2, 200_001)
    density = np.cos(angle).clip(0.0) ** (freedom - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(LEVEL, area / area[-1], angle)))
