"""Evidence of a candidate that is good in everything: each test of the verdict spoils one thing of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.evidence import Closed, Evidence, Exam, HeldOut, Imitation, Laps, Replay, Slow

TRACKS, TRIALS = 8, 16


def spread(mean: float, n: int = TRACKS) -> tuple[float, ...]:
    """n values around a mean, so that an interval has a width."""
    return tuple(mean + 0.01 * (i - (n - 1) / 2) / n for i in range(n))


def trials(share: float, n: int = TRIALS) -> tuple[float, ...]:
    """n instructions of which a share was obeyed."""
    return tuple(float(i < round(share * n)) for i in range(n))


def driven(completion: float, following: float = 15 / 16, guard: float = 0.02, **more: Any) -> Closed:
    given = {
        "lateral_error_m": 0.03,
        "stop": 1.0,
        "stop_model": 0.5,
        "completions": spread(completion),
        "guard_shares": spread(guard),
        "head_shares": (0.0,) * TRACKS,
        "obeyed": trials(following),
    }
    return Closed(completion=completion, guard_share=guard, following=following, **(given | more))


def slow(completion: float, following: float = 7 / 8) -> Slow:
    return Slow(completion, following, spread(completion, 4), trials(following, 8))


def laps(completion: float) -> Laps:
    return Laps(completion, spread(completion, 6))


def recorded(
    candidate: float, current: float, mean: float = 0.25, *, episodes: int = 4, **more: Any
) -> HeldOut:
    """Four blocks of an episode each, errors that differ by episode alike for all."""
    n = 4 * episodes
    same = [0.01 * ((i // 4) - (episodes - 1) / 2) / episodes for i in range(n)]
    given = {
        "guard_candidate": (0.01,) * n,
        "guard_current": (0.01,) * n,
        "head_candidate": (0.0,) * n,
        "head_current": (0.0,) * n,
        "speed_candidate": tuple(0.02 + s for s in same),
        "speed_current": tuple(0.05 + s for s in same),
    }
    return HeldOut(
        tuple(i // 4 for i in range(n)),
        (40.0,) * n,
        *(tuple(of + s for s in same) for of in (candidate, current, mean)),
        **(given | more),
    )


def remembered(candidate: float, base: float = 0.03, *, speed: float = 0.02) -> Replay:
    """Frozen states on 24 tracks; speed: error of the candidate's, where the base's is 0.02."""
    given = (spread(m, 24) for m in (candidate, base, speed, 0.02))
    return Replay("f" * 64, (10.0,) * 24, *given)


def exam(
    candidate: float = 0.1, current: float = 0.1, *, speed: float = 0.03, lessons: int = 4, **more: Any
) -> Exam:
    """Four episodes of each lesson, errors that differ by episode alike for all; speed: the candidate's error of
    speeds, where that of what drives now is 0.03."""
    n = 4 * lessons
    given = {
        "trained": (False,) * n,
        "names": tuple(f"question {i}" for i in range(n)),
    }
    return Exam(
        "9" * 64,
        tuple(i // 4 + 1 for i in range(n)),
        (50.0,) * n,
        *(spread(m, n) for m in (candidate, current, speed, 0.03)),
        **(given | more),
    )


CLOSED = driven(0.95)
GOOD = Evidence(
    candidate_sha256="c" * 64,
    base_sha256="b" * 64,
    evaluation_sha256="e" * 64,
    held_out_steps=640,
    candidate=Imitation(0.05, 0.04),
    current=Imitation(0.20, 0.10),
    base=Imitation(0.20, 0.10),
    mean=Imitation(0.25, 0.20),
    repeat=Imitation(0.02, 0.05),
    distance=0.05,
    difference=0.2,
    held=recorded(0.05, 0.20),
    closed_candidate=CLOSED,
    closed_current=driven(0.4),
    unshifted_candidate=laps(0.99),
    unshifted_base=laps(1.0),
    replay=remembered(0.04),
    has_reflex=True,
    reflex=Imitation(0.06, None),
    reflex_current=Imitation(0.06, None),
    slow_candidate=slow(0.98),
    slow_current=slow(0.9),
    slow_path=Laps(0.7, spread(0.7, 4)),
)


def steering(candidate: float, current: float = 0.20, **more: Any) -> dict[str, Any]:
    """Changes to `GOOD`: another held-out error."""
    return {
        "candidate": Imitation(candidate, 0.04),
        "current": Imitation(current, 0.1),
        "held": recorded(candidate, current, **more),
    }


RECORDED = replace(
    GOOD,
    closed_candidate=None,
    closed_current=None,
    unshifted_candidate=None,
    unshifted_base=None,
    replay=None,
    slow_candidate=None,
    slow_current=None,
    slow_path=None,
)
"""Of a robot without a simulator."""

LESSONS = Rules(needs_gain=False)
"""Of a consolidation."""
CONSOLIDATED = replace(
    GOOD,
    **steering(0.2),  # no better at anything
    closed_current=CLOSED,
    exam=exam(),
)
"""Of a consolidation that forgot nothing."""
