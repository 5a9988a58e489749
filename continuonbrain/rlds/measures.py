"""Counting without keeping: histograms, quantiles and tallies whose size does not grow with what they are fed.

A memory holds more steps than a robot has room for, and an episode may come from anywhere. So none of these keeps
values: a histogram has fixed bins, quantiles are counted in bins of one per cent of the value (the idea of DDSketch,
Masson, Rim and Lee 2019), and a tally stops learning new names at a limit and counts the rest together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

BLOCKS = "▁▂▃▄▅▆▇█"
OTHERS = "(others)"


def bars(counts: Sequence[float]) -> str:
    """Counts as blocks from zero to the largest; nothing counted is a space, anything counted at least one eighth."""
    top = max(counts, default=0)
    return "".join(" " if count <= 0 else BLOCKS[max(0, math.ceil(count / top * 8) - 1)] for count in counts)


def _finite(value: float) -> float | None:
    """The sum of finite numbers may be none: JSON has no infinity."""
    return value if math.isfinite(value) else None


class Histogram:
    """Counts of numbers in `size` equal bins from `low` to `high`, and those beyond either end."""

    def __init__(self, low: float, high: float, size: int) -> None:
        self.low = low
        self.high = high
        self.counts = [0] * size
        self.below = 0
        self.above = 0
        self.total = 0
        self._sum = 0.0
        self._squares = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf

    def add(self, value: float) -> None:
        """Count one finite number."""
        self.total += 1
        self._sum += value
        self._squares += value * value
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)
        if value < self.low:
            self.below += 1
        elif value > self.high:
            self.above += 1
        else:
            at = int((value - self.low) / (self.high - self.low) * len(self.counts))
            self.counts[min(at, len(self.counts) - 1)] += 1

    @property
    def mean(self) -> float:
        """0 when nothing was counted."""
        return self._sum / self.total if self.total else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of all that was counted; 0 when that was nothing."""
        if not self.total:
            return 0.0
        spread = self._squares / self.total - self.mean * self.mean
        return math.sqrt(max(0.0, spread)) if math.isfinite(spread) else math.inf

    def to_json(self) -> dict[str, Any]:
        """A plain object; None stands for a number that nothing was counted for."""
        some = self.total > 0
        return {
            "count": self.total,
            "min": self.minimum if some else None,
            "mean": _finite(self.mean) if some else None,
            "std": _finite(self.deviation) if some else None,
            "max": self.maximum if some else None,
            "low": self.low,
            "high": self.high,
            "bins": list(self.counts),
            "below": self.below,
            "above": self.above,
        }


class Quantiles:
    """Quantiles of numbers to one per cent of their size, in at most about 8,000 bins.

    Sizes below 1e-9 count as zero, sizes above 1e25 as that.
    """

    _GAMMA = 1.02  # neighbouring bins differ by 2 %, so a bin's middle is within 1 % of all in it
    _SMALLEST, _LARGEST = 1e-9, 1e25
    _LOG = math.log(_GAMMA)

    def __init__(self) -> None:
        self.total = 0
        self._sum = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf
        self._bins: dict[int, int] = {}

    def add(self, value: float) -> None:
        """Count one finite number."""
        self.total += 1
        self._sum += value
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)
        size = min(abs(value), self._LARGEST)
        if size < self._SMALLEST:
            key = 0
        else:
            # From 1 upwards for positive sizes, so that 0 is free and the order of keys is that of the numbers.
            key = 1 + math.ceil(math.log(size / self._SMALLEST) / self._LOG)
            key = key if value > 0 else -key
        self._bins[key] = self._bins.get(key, 0) + 1

    def _middle(self, key: int) -> float:
        if key == 0:
            return 0.0
        upper = self._SMALLEST * math.exp((abs(key) - 1) * self._LOG)
        middle = math.copysign(upper * 2 / (1 + self._GAMMA), key)
        return min(max(middle, self.minimum), self.maximum)

    def at(self, share: float) -> float | None:
        """The number that `share` of all are not above; None when nothing was counted."""
        if not self.total:
            return None
        wanted = min(max(1, math.ceil(share * self.total)), self.total)
        if wanted == self.total:
            return self.maximum
        seen = 0
        for key in sorted(self._bins):
            seen += self._bins[key]
            if seen >= wanted:
                return self._middle(key)
        return self.maximum

    def above(self, bound: float) -> int:
        """How many are above `bound`, to one per cent of `bound`."""
        return sum(count for key, count in self._bins.items() if self._middle(key) > bound)

    def shape(self, size: int, *, to: float = 0.99) -> tuple[float, float, list[float]]:
        """(low, high, counts): a histogram of `size` equal bins up to the quantile `to`; the rest is in the last.

        A long tail would otherwise press everything else into the first bin. What a bin of one per cent counted is
        spread evenly over it, so that narrow bars show no holes that are not in the data.
        """
        high = self.at(to)
        if high is None:
            return 0.0, 0.0, [0.0] * size
        low, counts = self.minimum, [0.0] * size
        scale = size / (high - low) if high > low else math.inf
        if not math.isfinite(scale):  # all the same, or so near that no number says how near
            counts[size // 2] = float(self.total)
            return low, high, counts
        for key, count in self._bins.items():
            middle = self._middle(key)
            half = abs(middle) * (self._GAMMA - 1) / 2
            start = min(max((middle - half - low) * scale, 0.0), size - 1e-6)
            end = min(max((middle + half - low) * scale, start + 1e-6), float(size))
            for at in range(int(start), min(int(end), size - 1) + 1):
                counts[at] += count * max(0.0, min(end, at + 1) - max(start, at)) / (end - start)
        return low, high, counts

    def to_json(self) -> dict[str, Any]:
        """A plain object; None stands for a number that nothing was counted for."""
        some = self.total > 0
        return {
            "count": self.total,
            "min": self.minimum if some else None,
            "mean": _finite(self._sum / self.total) if some else None,
            "p50": self.at(0.5),
            "p90": self.at(0.9),
            "p99": self.at(0.99),
            "max": self.maximum if some else None,
        }


class Tally:
    """How often each name was met; after `limit` names the new ones are counted together as "(others)"."""

    def __init__(self, limit: int = 1000, longest: int = 200) -> None:
        self._limit = limit
        self._longest = longest
        self._counts: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        """Count a name; one longer than the limit is cut."""
        if len(name) > self._longest:
            name = name[: self._longest - 1] + "…"
        if name not in self._counts and len(self._counts) >= self._limit:
            name = OTHERS
        self._counts[name] = self._counts.get(name, 0) + count

    def __getitem__(self, name: str) -> int:
        return self._counts.get(name, 0)

    def __len__(self) -> int:
        return len(self._counts)

    def ranked(self) -> list[tuple[str, int]]:
        """Names and counts, the most frequent first, equal ones by name."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))

    def to_json(self) -> dict[str, int]:
        """A plain object, the most frequent first."""
        return dict(self.ranked())
