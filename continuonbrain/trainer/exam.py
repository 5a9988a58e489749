"""The exam of a consolidation: what it remembers of each lesson, beside what drives now and the best that was reached.

Each consolidation may lose a little against what drives now, and so may the next: ten small losses are a large one. So
the best that any adapter reached on a lesson goes on from verdict to verdict, and the new one is held against that too.
It is the errors of that adapter by episode: when episodes of a lesson are no longer in the exam the others still
compare, and where none is left, or they ask something else now, the comparison starts anew. A verdict holds the
episodes of its own exam alone, so this is never more than a reservoir holds. Pure, no I/O.

Steering and speed are two measures, each a share of its largest (full lock, full speed), and each is held by itself: a
bend that is taken better makes up for no speed that was forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.evidence import Exam, Figures

Errors = tuple[float, float]
"""Of steering, and of speed."""
NOW, BEST = "what drives now", "the best that was reached"


@dataclass(frozen=True, slots=True)
class Paper:
    """What is asked: samples, and by `samples.episode` the lesson that each episode came from, and the name of what is
    asked of it (`name_of_question`). trained: episodes that are trained on as well, of lessons that have no other;
    unread: lessons of which no episode can be read; best: the best that was reached, by name."""

    samples: Samples
    lessons: Mapping[int, int]
    names: Mapping[int, str]
    trained: frozenset[int] = frozenset()
    unread: tuple[int, ...] = ()
    best: Mapping[str, Errors] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rise:
    """By how much a measure ("steering" or "speed") of a lesson is worse than `rival` was; trained: told by episodes
    that were trained on, because no other is left of it."""

    value: float
    lesson: int
    measure: str
    rival: str
    trained: bool

    def __str__(self) -> str:
        how = ", by episodes that it was trained on: no other is left of it" if self.trained else ""
        return f"number {self.lesson}, {self.measure}, against {self.rival}{how}"


def name_of_question(samples: Samples, *, trained: bool) -> str:
    """Names what is asked of one episode; of one that is trained on nothing can be compared with before it was."""
    return samples.sha256()[:16] + ("+" if trained else "")


def rises(exam: Exam) -> list[Rise]:
    """Of every lesson and measure, against what drives now and, where it is known, the best that was reached."""
    found: list[Rise] = []
    for lesson, rows in _lessons(exam).items():
        trained = all(exam.trained[i] for i in rows)
        for measure, own, now, best in _measures(exam):
            rivals: list[tuple[str, tuple[float | None, ...]]] = [(NOW, now), (BEST, best)]
            for rival, values in rivals:
                known = [i for i in rows if values[i] is not None]
                if known:
                    rise = _mean(own, exam, known) - _mean(values, exam, known)
                    found.append(Rise(rise, lesson, measure, rival, trained))
    return found


def best_after(exam: Exam) -> dict[str, Errors]:
    """The best that was reached when this exam is over, by name of the question: in each lesson and measure the errors
    of whoever has the smallest mean there, the candidate, what drives now, or who was the best before."""
    columns: list[dict[str, float]] = []
    for _, own, now, best in _measures(exam):
        column: dict[str, float] = {}
        for rows in _lessons(exam).values():
            known = [i for i in rows if best[i] is not None]
            fresh = [i for i in rows if best[i] is None]
            for asked, rivals in ((known, (best, now, own)), (fresh, (now, own))):
                if asked:
                    reached = min(rivals, key=lambda values: _mean(values, exam, asked))
                    column |= {exam.names[i]: reached[i] or 0.0 for i in asked}
        columns.append(column)
    steering, speed = columns
    return {name: (steering[name], speed[name]) for name in steering}


def with_best(exam: Exam, best: Mapping[str, Errors]) -> Exam:
    """The exam beside the best that was reached; None for an episode of which none is known."""
    rows = [best.get(name) for name in exam.names]
    return replace(
        exam,
        best=tuple(None if r is None else r[0] for r in rows),
        speed_best=tuple(None if r is None else r[1] for r in rows),
    )


def best_of(verdicts: Iterable[Mapping[str, Any] | None], base_sha256: str) -> dict[str, Errors]:
    """What the newest of these verdicts (oldest first) says that was reached on this base. {} where none is a verdict
    of a consolidation that has passed, or it says it in other words: then the comparison starts anew."""
    for verdict in reversed(list(verdicts)):
        if verdict is None or verdict.get("passed") is not True or verdict.get("base_sha256") != base_sha256:
            continue
        if (exam := _read(verdict)) is not None:
            return best_after(exam)
    return {}


def _read(verdict: Mapping[str, Any]) -> Exam | None:
    try:
        told = verdict["evidence"]["exam"]
        if told is None:
            return None
        names = tuple(str(n) for n in told["names"])
        figures = ("states", "candidate", "current", "speed_candidate", "speed_current")
        states, own, now, speed, speed_now = (_numbers(told[k], len(names)) for k in figures)
        best, speed_best = (_known(told[k], len(names)) for k in ("best", "speed_best"))
        lesson, trained = tuple(int(n) for n in told["lesson"]), tuple(bool(t) for t in told["trained"])
        if not len(names) == len(lesson) == len(trained) or not names or min(states) <= 0:
            return None
    except (TypeError, KeyError, ValueError, AttributeError, ArithmeticError):
        return None
    return Exam("", lesson, states, own, now, speed, speed_now, trained, names, best, speed_best)


def _numbers(values: Any, count: int) -> Figures:
    found = tuple(float(v) for v in values)
    if len(found) != count or not all(math.isfinite(v) for v in found):
        raise ValueError(f"{count} finite numbers")
    return found


def _known(values: Any, count: int) -> tuple[float | None, ...]:
    given = list(values)
    numbers = _numbers([0.0 if v is None else v for v in given], count)
    return tuple(None if v is None else n for v, n in zip(given, numbers, strict=True))


def _lessons(exam: Exam) -> dict[int, list[int]]:
    return {n: [i for i, m in enumerate(exam.lesson) if m == n] for n in sorted(set(exam.lesson))}


def _measures(exam: Exam) -> list[tuple[str, Figures, Figures, tuple[float | None, ...]]]:
    nothing = (None,) * len(exam.names)
    return [
        ("steering", exam.candidate, exam.current, exam.best or nothing),
        ("speed", exam.speed_candidate, exam.speed_current, exam.speed_best or nothing),
    ]


def _mean(values: tuple[float | None, ...], exam: Exam, rows: list[int]) -> float:
    """Over states, of rows that are known."""
    total = sum(exam.states[i] * (values[i] or 0.0) for i in rows)
    return total / sum(exam.states[i] for i in rows)
