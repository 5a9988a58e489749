"""Which samples a step sees, and which of them are whose: the same for any number of workers. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def rows_of_step(seed: int, step: int, chances: F64, size: int) -> I64:
    """The samples of step `step`, `[size]`, drawn with replacement by their chances (as on the robot). Of nothing but
    these arguments: a step can be drawn again without those before it."""
    return np.random.default_rng([seed, step]).choice(len(chances), size=size, p=chances)


def passes_of(rows: I64, accumulate: int, worker: int, workers: int) -> list[I64]:
    """What one worker computes of a step: for each of `accumulate` passes its share of the pass, at least one row.

    All workers together compute each row once; a worker's share of a pass is every `workers`-th of its rows.

    Raises:
        ValueError: a pass is smaller than the number of workers.
    """
    parts = np.array_split(rows, accumulate)
    if min(map(len, parts)) < workers:
        raise ValueError(f"a pass of {min(map(len, parts))} samples is too small for {workers} workers")
    return [part[worker::workers] for part in parts]


def rows_of_worker(
    seed: int, steps: range, chances: F64, size: int, *, accumulate: int, worker: int, workers: int
) -> I64:
    """Every sample that a worker will need in these steps, rising, each once."""
    needed = [
        part
        for step in steps
        for part in passes_of(rows_of_step(seed, step, chances, size), accumulate, worker, workers)
    ]
    return np.unique(np.concatenate(needed)) if needed else np.zeros(0, np.int64)
