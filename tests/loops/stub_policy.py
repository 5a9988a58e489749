"""The policy process with an engine that needs no torch: the wire, the store and the signals are the real ones.

Run as `python -m stub_policy --root R` with this folder on PYTHONPATH (`DriveSession(policy_module=...)`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.errors import BrainError
from continuonbrain.loops import policy_process
from continuonbrain.loops.policy_process import run_policy
from continuonbrain.policy.engine import AdapterError, Decisions

BASE_SHA256 = "ba5e" * 16


class StubEngine:
    """Always says: straight on at 1 m/s. Refuses adapters of another base, and the instruction "sing"."""

    base_sha256 = BASE_SHA256
    reflex = None

    def __init__(self) -> None:
        self.adapter_sha256 = ""
        self.deciding = False

    def decide(
        self, frames: NDArray[np.uint8], instructions: Sequence[str], speeds_mps: Sequence[float | None]
    ) -> Decisions:
        assert frames.shape == (len(instructions), 120, 160, 3)
        if "sing" in instructions:
            raise BrainError("the instruction 'sing' is not for a car", remedy="say 'drive'")
        self.deciding = True
        answer = Decisions(np.zeros((1, 8), np.float32), np.ones((1, 2), np.float32))
        self.deciding = False
        return answer

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
        assert not self.deciding
        if folder is not None:
            named = json.loads((folder / "adapter_config.json").read_bytes()).get("base", BASE_SHA256)
            if named != BASE_SHA256:
                raise AdapterError(f"the adapter in {folder} is for base {named}", remedy="train again")
        self.adapter_sha256 = sha256


if __name__ == "__main__":
    # The real command line, with its exit codes, around another engine.
    policy_process.run_policy = partial(run_policy, load_engine=lambda _base: StubEngine())
    sys.exit(policy_process.main())
