"""What the language model makes of an instruction, as numbers that a reflex head can be conditioned on.

The model answers the instruction on a few fixed frames of a straight road, the reflex head's *probes*. What differs
between two instructions there is nothing but what they ask for: "keep left" bends left, "slowly" halves the speed, and
an instruction that nobody has taught the head ("hug the left side") comes out near one that it knows if the model
understands it. The head never sees words, and an intent costs one decision for each new instruction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.engine import Engine
from continuonbrain.policy.reflex import INTENT, Reflex

PROBE_SPEED_MPS = 0.8
"""The speed that the prompts of the probes tell."""
_REMEMBERED = 256
F32 = NDArray[np.float32]


class Intents:
    """Intents of an engine with its adapter of the moment, each asked for once. reflex: the head they are for, where
    it is not the engine's own (yet)."""

    def __init__(self, engine: Engine, *, reflex: Reflex | None = None) -> None:
        self._engine, self._of = engine, reflex
        self._adapter, self._reflex = "", ""
        self._known: dict[str, F32] = {}

    def of(self, instruction: str) -> F32 | None:
        """The intent `[10]` of an instruction: mean curvatures and speeds over the probes. None without a reflex
        head. Raises what the engine raises for an instruction that it cannot read."""
        engine, reflex = self._engine, self._of or self._engine.reflex
        if reflex is None:
            return None
        if (self._adapter, self._reflex) != (engine.adapter_sha256, reflex.sha256):
            self._adapter, self._reflex = engine.adapter_sha256, reflex.sha256
            self._known.clear()
        found = self._known.get(instruction)
        if found is None:
            count = len(reflex.probes)
            answers = engine.decide(reflex.probes, [instruction] * count, [PROBE_SPEED_MPS] * count)
            found = np.concatenate([answers.curvature.mean(0), answers.speed.mean(0)]).astype(np.float32)
            assert found.shape == (INTENT,)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[instruction] = found
        return found

    def of_all(self, instructions: Sequence[str]) -> F32 | None:
        """`[n, 10]` of n instructions; None without a reflex head."""
        found = [self.of(i) for i in instructions]
        known = [i for i in found if i is not None]
        return np.stack(known) if known and len(known) == len(found) else None
