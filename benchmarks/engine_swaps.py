"""Swaps of one engine in a process of its own: how long they take, and whether memory grows.

    python -m benchmarks.engine_swaps PRECISION ADAPTER...     (folders; `benchmarks.engine` runs it)

In a process that has done other things, what leaks goes into memory that was freed before and is not seen. Prints JSON:
swap_ms (median), rss_growth_mib: resident memory after the last swap less that after the first hundred.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.litert_engine import LiteRTEngine

SWAPS, SETTLED = 1000, 100


def rss_mib() -> float:
    """Resident memory of this process."""
    return float(psutil.Process().memory_info().rss) / 2**20


def main() -> None:
    precision, adapters = sys.argv[1], [Path(a) for a in sys.argv[2:]]
    base = tiny_base_folder()
    engine = LiteRTEngine(base, base / "serving" / precision)
    frames = np.random.default_rng(0).integers(0, 255, (8, 120, 160, 3)).astype(np.uint8)
    took, settled = [], 0.0
    for i in range(SWAPS):
        started = time.perf_counter()
        engine.use_adapter(adapters[i % len(adapters)])
        took.append((time.perf_counter() - started) * 1000)
        engine.decide(frames[i % 8][None], ["drive"], [0.8])
        if i == SETTLED:
            settled = rss_mib()
    print(json.dumps({"swap_ms": round(median(took), 3), "rss_growth_mib": round(rss_mib() - settled, 2)}))


if __name__ == "__main__":
    main()
