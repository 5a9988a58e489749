"""What a consolidation remembers, beside the best that was reached: small losses do not add up, nothing is invented."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.trainer.evidence import Evidence, Exam
from continuonbrain.trainer.exam import BEST, NOW, Errors, best_after, best_of, rises, with_best
from continuonbrain.trainer.verdict import judge
from tests.trainer.good_evidence import CONSOLIDATED, LESSONS

TOLERANCE = 0.05


def asked(
    own: Callable[[int], float], now: Callable[[int], float], lessons: Sequence[int] = (1, 2), each: int = 4
) -> Exam:
    """An exam with errors by lesson, the same of steering and of speed."""
    rows = [(n, i) for n in lessons for i in range(each)]
    figures = [tuple(f(n) for n, _ in rows) for f in (own, now)]
    count = len(rows)
    return Exam(
        "9" * 64,
        tuple(n for n, _ in rows),
        (50.0,) * count,
        *figures,
        *figures,
        trained=(False,) * count,
        names=tuple(f"lesson {n}, {i}" for n, i in rows),
    )


def judged(exam: Exam) -> dict[str, Any]:
    """Its verdict, as the file holds it."""
    evidence: Evidence = replace(CONSOLIDATED, exam=exam)
    found: dict[str, Any] = json.loads(json.dumps(judge(evidence, LESSONS).to_json()))
    return found


def walk(
    loss: float, rounds: int, *, changes: Callable[[int, Exam], Exam] = lambda _k, exam: exam
) -> tuple[list[float], list[dict[str, Any]]]:
    """So many consolidations that each lose a little of lesson 1: where its error stands after each, and their
    verdicts. One that is refused does not drive."""
    error, errors = 0.1, []
    verdicts: list[dict[str, Any]] = []
    for k in range(rounds):

        def own(lesson: int, error: float = error) -> float:
            return error + loss if lesson == 1 else 0.1

        def now(lesson: int, error: float = error) -> float:
            return error if lesson == 1 else 0.1

        exam = changes(k, asked(own, now, [1, 2, 3, 4, 5, 6]))
        verdict = judged(with_best(exam, best_of(verdicts, CONSOLIDATED.base_sha256)))
        verdicts.append(verdict)
        error += loss if verdict["passed"] else 0.0
        errors.append(error)
    return errors, verdicts


@pytest.mark.parametrize("loss", [0.004, 0.024])
def test_many_small_losses_come_to_no_more_than_one_large_one(loss: float) -> None:
    errors, verdicts = walk(loss, 15)
    assert max(errors) - 0.1 <= TOLERANCE + 1e-9
    assert verdicts[0]["passed"]
    refused = next(v for v in verdicts if not v["passed"])
    assert refused["reason"].startswith("worst_lesson: ")
    assert f"number 1, steering, against {BEST}" in refused["reason"]
    # Each of them is small: without what was reached before it passes, and so does the next.
    forgetful = walk(loss, 15, changes=lambda k, e: replace(e, names=tuple(f"{k} {n}" for n in e.names)))
    assert max(forgetful[0]) - 0.1 == pytest.approx(15 * loss)


def test_what_is_remembered_is_no_more_than_the_exam_asks() -> None:
    _, verdicts = walk(0.001, 6)
    sizes = [len(best_of(verdicts[:k], CONSOLIDATED.base_sha256)) for k in range(1, 6)]
    assert sizes == [24] * 5
    assert len(json.dumps(verdicts[-1])) <= len(json.dumps(verdicts[1])) * 1.1


def test_episodes_that_leave_the_exam_take_only_themselves_along() -> None:
    def fewer(k: int, exam: Exam) -> Exam:
        keep = [i for i in range(len(exam.names)) if exam.lesson[i] != 1 or i >= min(k // 4, 3)]
        rows = {
            f: tuple(getattr(exam, f)[i] for i in keep)
            for f in (
                "lesson",
                "states",
                "candidate",
                "current",
                "speed_candidate",
                "speed_current",
                "trained",
                "names",
            )
        }
        return replace(exam, **rows)

    errors, _ = walk(0.011, 16, changes=fewer)
    assert max(errors) - 0.1 <= TOLERANCE + 1e-9


def test_where_something_else_is_asked_the_comparison_starts_anew() -> None:
    first = with_best(asked(lambda _: 0.1, lambda _: 0.1), {})
    best = best_after(first)
    worse = asked(lambda _: 0.2, lambda _: 0.19)
    assert {r.rival for r in rises(with_best(worse, best))} == {NOW, BEST}
    assert max(r.value for r in rises(with_best(worse, best))) == pytest.approx(0.1)
    other = replace(worse, names=tuple(f"other {n}" for n in worse.names))
    assert {r.rival for r in rises(with_best(other, best))} == {NOW}
    assert max(r.value for r in rises(with_best(other, best))) == pytest.approx(0.01)


def test_the_best_is_whoever_was_best_candidate_driver_or_one_before() -> None:
    errors = {1: (0.1, 0.2), 2: (0.3, 0.15)}
    exam = asked(lambda n: errors[n][0], lambda n: errors[n][1])
    before: dict[str, Errors] = {f"lesson 1, {i}": (0.05, 0.4) for i in range(4)}
    best = best_after(with_best(exam, before))
    assert best["lesson 1, 0"] == (0.05, 0.1)  # of steering one before, of speed the candidate
    assert best["lesson 2, 0"] == (0.15, 0.15)


values = st.floats(0.0, 1.0)


@given(
    st.lists(st.tuples(values, values, values, values, st.one_of(st.none(), values)), min_size=1, max_size=12)
)
def test_the_best_is_never_worse_than_anybody_on_what_all_were_asked(
    rows: list[tuple[float, float, float, float, float | None]],
) -> None:
    n = len(rows)
    own, now, speed, speed_now = (tuple(r[k] for r in rows) for k in range(4))
    names = tuple(map(str, range(n)))
    exam = Exam("", (1,) * n, (1.0,) * n, own, now, speed, speed_now, (False,) * n, names)
    exam = with_best(exam, {str(i): (r[4], r[4]) for i, r in enumerate(rows) if r[4] is not None})
    best = best_after(exam)
    assert set(best) == set(names)
    known = [i for i, r in enumerate(rows) if r[4] is not None] or list(range(n))
    for k, rivals in ((0, (own, now, exam.best)), (1, (speed, speed_now, exam.speed_best))):
        reached = sum(best[str(i)][k] for i in known)
        for rival in rivals:
            told = [rival[i] for i in known]
            if None not in told:
                assert reached <= sum(t for t in told if t is not None) + 1e-9


def test_only_a_passed_verdict_of_this_base_says_what_was_reached() -> None:
    good = judged(with_best(asked(lambda _: 0.1, lambda _: 0.1), {}))
    base = CONSOLIDATED.base_sha256
    assert good["passed"]
    assert len(best_of([good], base)) == 8
    assert best_of([good, None, good | {"passed": False}], base) == best_of([good], base)
    better = judged(with_best(asked(lambda _: 0.02, lambda _: 0.1), {}))
    assert best_of([good, better], base) != best_of([good], base)
    for passed in (False, None, "true", 1):  # what was refused reached nothing, however good it was
        assert best_of([good, better | {"passed": passed}], base) == best_of([good], base)
    assert best_of([good], "f" * 64) == {}
    assert best_of([], base) == {}
    told = good["evidence"]["exam"]
    for wrong in (
        None,
        {},
        told | {"names": told["names"][1:]},
        told | {"best": None},
        told | {"candidate": ["x"] * 8},
        told | {"candidate": [None] * 8},
        told | {"states": [0.0] * 8},
        told | {"speed_current": []},
        told | {"names": 5},
        {k: v for k, v in told.items() if k != "trained"},
    ):
        assert best_of([good | {"evidence": {"exam": wrong}}], base) == {}
    assert best_of([good | {"evidence": None}], base) == {}
    # One that says nothing does not hide the one before it.
    assert best_of([good, good | {"evidence": {"exam": None}}], base) == best_of([good], base)
