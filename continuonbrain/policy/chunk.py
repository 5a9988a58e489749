"""The action chunk: what one decision of the model says about the next three metres."""

from __future__ import annotations

import math
from dataclasses import dataclass

from continuonbrain.errors import BrainError
from continuonbrain.policy.codec import CURVATURE_KNOTS_M, QUERIES, SPEED_KNOTS_S


@dataclass(frozen=True, slots=True)
class ActionChunk:
    """One decision.

    curvature: 8 values in 1/m (left positive) at `CURVATURE_KNOTS_M` ahead of the pose at the observation.
    speed: 2 values in m/s at `SPEED_KNOTS_S` after it. observed_s: monotonic time of the observation.
    adapter_sha256: the adapter that made it, "" for the base alone. decision_ms: time the model took.
    intent: what the model makes of the instruction, for the reflex head (`intent.py`); empty without one.
    Raises `BrainError` for wrong lengths or numbers that are not finite.
    """

    curvature: tuple[float, ...]
    speed: tuple[float, ...]
    observed_s: float
    adapter_sha256: str = ""
    decision_ms: float = 0.0
    intent: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, values, length in (
            ("curvature", self.curvature, len(CURVATURE_KNOTS_M)),
            ("speed", self.speed, len(SPEED_KNOTS_S)),
            ("intent", self.intent, QUERIES if self.intent else 0),
        ):
            if len(values) != length:
                raise BrainError(f"action chunk: {name} has {len(values)} numbers; {length} are needed")
            if not all(math.isfinite(v) for v in values):
                raise BrainError(f"action chunk: {name} = {values} holds a number that is not finite")
        if not math.isfinite(self.observed_s):
            raise BrainError(f"action chunk: observed_s = {self.observed_s} is not a time")
