"""What the language model makes of an instruction, as numbers that a reflex head can be conditioned on.

The model answers the instruction on a few fixed frames of a straight road, the reflex head's *probes*. What differs
between two instructions there is nothing but what they ask for: "keep left" bends left, "slowly" halves the speed, and
an instruction that nobody has taught the head ("hug the left side") comes out near one that it knows if the model
understands it. The head never sees words. An intent costs a decision for each probe; a policy that is slow asks for one
probe at a time between decisions (`advance`), and the car follows the model's own paths until all are answered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.engine import Engine
from continuonbrain.policy.reflex import Reflex

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
        self._parts: dict[str, list[F32]] = {}

    def known(self, instruction: str) -> F32 | None:
        """The intent if it has been asked for already."""
        self._refresh()
        return self._known.get(instruction)

    def advance(self, instruction: str) -> bool:
        """Ask one probe more; True when the intent is known by now, or never will be (no reflex head)."""
        reflex = self._refresh()
        if reflex is None or instruction in self._known:
            return True
        parts = self._parts.setdefault(instruction, [])
        probe = reflex.probes[len(parts) : len(parts) + 1]
        answer = self._engine.decide(probe, [instruction], [PROBE_SPEED_MPS])
        parts.append(np.concatenate([answer.curvature[0], answer.speed[0]]).astype(np.float32))
        if len(parts) < len(reflex.probes):
            return False
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[instruction] = np.mean(self._parts.pop(instruction), 0, dtype=np.float32)
        if len(self._parts) >= _REMEMBERED:  # begun, and never asked for again
            self._parts.clear()
        return True

    def _refresh(self) -> Reflex | None:
        reflex = self._of or self._engine.reflex
        now = (self._engine.adapter_sha256, "" if reflex is None else reflex.sha256)
        if now != (self._adapter, self._reflex):
            self._adapter, self._reflex = now
            self._known.clear()
            self._parts.clear()
        return reflex

    def of(self, instruction: str) -> F32 | None:
        """The intent `[10]` of an instruction: mean curvatures and speeds over the probes. None without a reflex
        head. Raises what the engine raises for an instruction that it cannot read."""
        while not self.advance(instruction):
            pass
        return self._known.get(instruction)

    def of_all(self, instructions: Sequence[str]) -> F32 | None:
        """`[n, 10]` of n instructions; None without a reflex head."""
        found = [self.of(i) for i in instructions]
        known = [i for i in found if i is not None]
        return np.stack(known) if known and len(known) == len(found) else None
