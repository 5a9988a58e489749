"""Claims about the verdict's numbers: what is not finite, not measured or contradicts its values never passes."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.evidence import Imitation, Laps, Sources, contradictions
from continuonbrain.trainer.verdict import judge
from tests.trainer.good_evidence import CLOSED, GOOD, driven, laps, slow, spread


def with_value(evidence: Any, path: tuple[str, ...], value: object) -> Any:
    if len(path) == 1:
        return replace(evidence, **{path[0]: value})
    return replace(evidence, **{path[0]: with_value(getattr(evidence, path[0]), path[1:], value)})


def numbers(value: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner) and not isinstance(inner, Sources):
            found += numbers(inner, (*prefix, field.name))
        elif isinstance(inner, float):
            found.append((*prefix, field.name))
    return found


@given(st.sampled_from(numbers(GOOD)), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_number_that_is_not_finite_never_passes_wherever_it_stands(
    path: tuple[str, ...], bad: float
) -> None:
    verdict = judge(with_value(GOOD, path, bad), Rules())
    assert not verdict.passed
    assert any(".".join(path) in c.meaning for c in verdict.checks if c.name == "measured")


@given(
    st.sampled_from(
        [
            "candidate",
            "current",
            "distance",
            "difference",
            "closed_candidate",
            "closed_current",
            "unshifted_candidate",
            "unshifted_base",
        ]
    )
)
def test_what_was_not_measured_never_passes(field: str) -> None:
    assert not judge(replace(GOOD, **{field: None}), Rules()).passed


@given(st.dictionaries(st.sampled_from(list(numbers(GOOD))), st.floats(), max_size=6))
def test_what_passes_obeys_every_threshold(changes: dict[tuple[str, ...], float]) -> None:
    evidence = GOOD
    for path, value in changes.items():
        evidence = with_value(evidence, path, value)
    if judge(evidence, Rules()).passed:
        assert evidence.closed_candidate is not None
        assert evidence.closed_current is not None
        assert evidence.candidate is not None
        assert evidence.current is not None
        assert evidence.distance is not None
        assert evidence.closed_candidate.stop >= 1.0
        assert evidence.closed_candidate.completion >= evidence.closed_current.completion - 1e-6
        assert evidence.candidate.steering <= evidence.current.steering * 1.02 + 1e-6
        assert evidence.distance <= 0.25


def off(of: Any, **means: float) -> Any:
    return replace(of, **means)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("closed_candidate.completion", {"closed_candidate": off(CLOSED, completion=0.99)}),
        ("closed_candidate.guard_share", {"closed_candidate": off(CLOSED, guard_share=0.0)}),
        ("closed_current.completion", {"closed_current": off(driven(0.4), completion=0.1)}),
        ("closed_current.guard_share", {"closed_current": off(driven(0.4), guard_share=0.9)}),
        ("unshifted_candidate.completion", {"unshifted_candidate": off(laps(0.9), completion=1.0)}),
        ("unshifted_base.completion", {"unshifted_base": off(laps(1.0), completion=0.5)}),
        ("slow_candidate.completion", {"slow_candidate": off(slow(0.9), completion=1.0)}),
        ("slow_current.completion", {"slow_current": off(slow(0.9), completion=0.1)}),
        ("slow_path.completion", {"slow_path": Laps(0.1, spread(0.7, 4))}),
        ("candidate.steering", {"candidate": Imitation(0.01, 0.04)}),
        ("current.steering", {"current": Imitation(0.9, 0.1)}),
    ],
)
def test_a_mean_that_does_not_follow_from_its_values_is_named_and_refused(
    name: str, change: dict[str, Any]
) -> None:
    assert contradictions(GOOD) == []
    assert contradictions(replace(GOOD, **change)) == [name]
    verdict = judge(replace(GOOD, **change), Rules())
    assert not verdict.passed
    assert name in verdict.reason


def test_a_mean_over_recordings_is_weighted_by_their_steps() -> None:
    assert GOOD.held is not None
    n = len(GOOD.held.steps)
    steps = (400.0, *GOOD.held.steps[1:])
    errors = (0.5, *(0.05,) * (n - 1))
    mean = sum(s * e for s, e in zip(steps, errors, strict=True)) / sum(steps)
    held = replace(GOOD.held, steps=steps, candidate=errors)
    for told, wrong in (
        (mean, []),
        (sum(errors) / n, ["candidate.steering"]),
        (mean + 0.01, ["candidate.steering"]),
    ):
        found = contradictions(replace(GOOD, held=held, candidate=Imitation(told, 0.04)))
        assert [name for name in found if name.startswith("candidate")] == wrong
