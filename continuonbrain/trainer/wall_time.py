"""How `max_wall_time_s` is shared between a job's stages, and what to say when it was too short. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REFLEX_SHARE = 0.2
"""Of the wall time: the reflex head's; the rest is the adapter's."""
_STEPS_SHARE = 0.5
"""Of the reflex head's: at least so much is for its steps, however long it took to learn what is meant."""


def adapter_s(max_wall_time_s: float, *, teaches_reflex: bool) -> float:
    """Seconds for the adapter: caching and steps."""
    return max_wall_time_s * (1 - (REFLEX_SHARE if teaches_reflex else 0))


def reflex_s(max_wall_time_s: float) -> float:
    """Seconds for the reflex head: a share of its own, whatever the adapter's steps took."""
    return max_wall_time_s * REFLEX_SHARE


def steps_s(stage_s: float, prepared_s: float) -> float:
    """Seconds for a stage's steps after `prepared_s` seconds of preparation: what is left, and at least half of the
    stage. A slow machine makes fewer steps; it does not make none."""
    return max(stage_s - prepared_s, _STEPS_SHARE * stage_s)


def fell_short(training: Mapping[str, Any], max_wall_time_s: float) -> str:
    """What of a job ended because its time was up, in words; "" where nothing did. training: figures of a card."""
    parts = []
    for what, ended, steps, most in (
        ("the adapter", "ended", "steps", "max_steps"),
        ("the reflex head", "reflex_ended", "reflex_steps", "reflex_max_steps"),
    ):
        if training.get(ended) == "wall time":
            parts.append(f"{what} made {training.get(steps, 0)} of {training.get(most, '?')} steps")
    if not parts:
        return ""
    return f"{' and '.join(parts)} within max_wall_time_s = {max_wall_time_s:g}: raise it in config.json"
