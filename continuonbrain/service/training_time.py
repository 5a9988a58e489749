"""How much of a training's time is over, and whether it ended because of that. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from continuonbrain.storage.event_log import Event
from continuonbrain.trainer.wall_time import fell_short

_WORKS = frozenset({"cache", "train"})
"""Phases whose time is bounded by `max_wall_time_s`; while a gate is closed it stands still."""
_NEARLY = 0.8
"""Of that time: a job that ended early and has worked for so long had no more of it."""


def worked_s(events: Iterable[Event], now_unix_s: float) -> float | None:
    """Seconds that the newest job has cached and trained, without what it waited for gates; None before the first.
    events: oldest first."""
    worked, since, phase, may = 0.0, 0.0, "", True
    began = False
    for event in events:
        if event.kind not in ("training", "gate"):
            continue
        if began and phase in _WORKS and may:
            worked += max(0.0, event.at_unix_s - since)
        since = event.at_unix_s
        if event.kind == "gate":
            may = event.data.get("open") is True
            continue
        phase = str(event.data.get("phase", ""))
        if phase == "cache":
            worked, began, may = 0.0, True, True
    if began and phase in _WORKS and may:
        worked += max(0.0, now_unix_s - since)
    return round(worked, 1) if began else None


def time_left(by_steps: float | None, *, worked: float | None, limit_s: float) -> float | None:
    """Seconds until the steps end: when all are made, or when their time is up. by_steps: until all are made, None
    where that is not known; limit_s: caching and steps together."""
    if by_steps is None or worked is None:
        return by_steps
    return round(max(0.0, min(by_steps, limit_s - worked)), 1)


def ran_out(
    phase: str,
    *,
    card: Mapping[str, Any],
    max_wall_time_s: float,
    steps: tuple[int, int],
    worked: float | None,
    limit_s: float,
) -> str:
    """What of the newest training had no time, in words; "" where nothing did, or it trains still. card: the figures of
    its candidate's card, {} before there is one; steps: made, of how many, as far as they were told."""
    if card:
        short = fell_short(card, max_wall_time_s)
        return f"time ran out: {short}" if short else ""
    made, of = steps
    if phase != "reflex" or made >= of or worked is None or worked < _NEARLY * limit_s:
        return ""
    return f"time ran out after {made} of {of} steps (max_wall_time_s = {max_wall_time_s:g} in config.json)"
