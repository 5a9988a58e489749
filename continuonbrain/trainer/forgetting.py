"""The verdict's rules on what must not be forgotten: the base's roads, and every lesson of a consolidation. Pure.

How sure a figure is, slack and limit are as everywhere in a verdict (`verdict.py`).
"""

from __future__ import annotations

import math

from continuonbrain.trainer.bootstrap import paired
from continuonbrain.trainer.checks import Court, at_most
from continuonbrain.trainer.evidence import Figures
from continuonbrain.trainer.exam import rises

_REPLAY_SLACK = 0.05  # steering of [-1, 1]; what a lesson costs and driving does not feel is 0.01 to 0.03
LESSONS_SLACK = 0.01  # of full lock, and of full speed
LESSONS_HARM = 0.05  # a lesson has four episodes or fewer in the exam
_REPLAY_SPEED_SLACK = 0.05  # of full speed


def remembers(court: Court) -> None:
    """What the base knew, and of a consolidation what every lesson taught."""
    e, rules = court.e, court.rules
    knows_the_roads(court)
    if e.replay is not None:
        states = e.replay.states
        for name, mine, bases, slack, words in (
            ("replay", e.replay.candidate, e.replay.base, _REPLAY_SLACK, "steering error"),
            (
                "replay_speed",
                e.replay.speed_candidate,
                e.replay.speed_base,
                _REPLAY_SPEED_SLACK,
                "error of its speeds",
            ),
        ):
            court.no_rise(
                name,
                mine,
                bases,
                slack,
                f"{words} that it has gained on frozen states of what the base knew",
                compare=lambda own, base, seed: paired(own, base, seed=seed, weights=states),
                limit=slack,
            )
    if not rules.needs_gain:
        _exam(court)


def knows_the_roads(court: Court) -> None:
    """The roads that the base knew, where there is a course."""
    e, rules = court.e, court.rules
    if e.closed_candidate is not None:
        own, base = e.unshifted_candidate, e.unshifted_base
        court.no_loss(
            "forgetting",
            own.completions if own else (),
            base.completions if base else (),
            rules.max_forgetting,
            "share of a lap that it drives further than the base on the roads that the base knew",
            limit=rules.max_harm,
        )


def _exam(court: Court) -> None:
    """What a consolidation remembers of all lessons together, and of the one that it remembers least."""
    exam = court.e.exam
    untouched = [] if exam is None else [i for i, trained in enumerate(exam.trained) if not trained]

    def of(figures: Figures) -> Figures:
        return tuple(figures[i] for i in untouched)

    states = of(exam.states) if exam else ()
    for name, own, now, words in (
        ("lessons", exam.candidate if exam else (), exam.current if exam else (), "steering error"),
        (
            "lessons_speed",
            exam.speed_candidate if exam else (),
            exam.speed_current if exam else (),
            "error of its speeds",
        ),
    ):
        court.no_rise(
            name,
            of(own),
            of(now),
            LESSONS_SLACK,
            f"{words} that it has gained on episodes of all lessons that nobody trained on",
            compare=lambda own, now, seed: paired(own, now, seed=seed, weights=states),
            limit=LESSONS_HARM,
            unit="episodes",
        )
    found = rises(exam) if exam is not None else []
    # What is no number is the worst there can be.
    worst = max(found, key=lambda r: r.value if math.isfinite(r.value) else math.inf, default=None)
    meaning = f"error gained on the lesson that it remembers least ({worst or 'none was asked'})"
    court.checks.append(
        at_most("worst_lesson", None if worst is None else worst.value, LESSONS_HARM, meaning)
    )
    unread = exam.unread if exam else ()
    meaning = "lessons that could not be looked at, as none of their episodes can be read"
    if unread:
        meaning += f": {', '.join(map(str, unread))}; mend or move them: continuonbrain episodes doctor"
    court.checks.append(at_most("lessons_unread", float(len(unread)), 0.0, meaning))
