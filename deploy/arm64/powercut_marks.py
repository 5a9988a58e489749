"""What `powercut_work.py` writes, so that `powercut_check.py` knows it again."""

from __future__ import annotations

import random

import numpy as np

FRAMES = [np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8) for seed in range(8)]
"""Step n of an episode has frame n modulo 8."""


def adapter_files(number: int) -> dict[str, bytes]:
    """Adapter `number`: 60 kB of weights that no other has."""
    return {
        "adapter_model.safetensors": random.Random(number).randbytes(60_000),
        "adapter_config.json": b'{"r": %d}' % number,
    }
