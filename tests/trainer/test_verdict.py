"""Claims about the verdict: each rule refuses for its own reason, and what is not a number never passes."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.trainer.verdict import Closed, Evidence, Imitation, Rules, Slow, judge

CLOSED = Closed(
    completion=0.95, lateral_error_m=0.03, guard_share=0.02, following=0.9, stop=1.0, stop_model=0.5
)
GOOD = Evidence(
    candidate_sha256="c" * 64,
    base_sha256="b" * 64,
    evaluation_sha256="e" * 64,
    held_out_steps=400,
    candidate=Imitation(0.05, 0.04),
    current=Imitation(0.20, 0.10),
    base=Imitation(0.20, 0.10),
    mean=Imitation(0.25, 0.20),
    repeat=Imitation(0.02, 0.05),
    distance=0.05,
    difference=0.2,
    closed_candidate=CLOSED,
    closed_current=replace(CLOSED, completion=0.4),
    unshifted_candidate=0.99,
    unshifted_base=1.0,
    has_reflex=True,
    reflex=Imitation(0.06, None),
    reflex_current=Imitation(0.06, None),
    slow_candidate=Slow(0.98, 0.9),
    slow_current=Slow(0.9, 0.9),
    slow_path=0.7,
)


def with_value(evidence: Any, path: tuple[str, ...], value: object) -> Any:
    if len(path) == 1:
        return replace(evidence, **{path[0]: value})
    return replace(evidence, **{path[0]: with_value(getattr(evidence, path[0]), path[1:], value)})


def numbers(value: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            found += numbers(inner, (*prefix, field.name))
        elif isinstance(inner, float):
            found.append((*prefix, field.name))
    return found


def test_good_evidence_passes_every_check() -> None:
    verdict = judge(GOOD, Rules())
    assert verdict.passed
    assert verdict.reason == ""
    assert all(c.passed for c in verdict.checks)
    assert len({c.name for c in verdict.checks}) == len(verdict.checks)


RECORDED = replace(
    GOOD,
    closed_candidate=None,
    closed_current=None,
    unshifted_candidate=None,
    unshifted_base=None,
    slow_candidate=None,
    slow_current=None,
    slow_path=None,
)
"""Of a robot without a simulator."""


@pytest.mark.parametrize(
    ("mean", "passed"), [(Imitation(0.25, 0.2), True), (Imitation(0.049, 0.2), False), (None, False)]
)
def test_where_recordings_are_all_there_is_a_constant_must_be_beaten(
    mean: Imitation | None, passed: bool
) -> None:
    verdict = judge(replace(RECORDED, mean=mean), Rules())
    assert verdict.passed is passed, verdict.reason
    if not passed:
        assert verdict.reason.startswith("mean_command")
    # Where it was driven, driving decides.
    assert judge(replace(GOOD, mean=Imitation(0.049, 0.2)), Rules()).passed


REFUSALS: list[tuple[str, dict[str, object]]] = [
    ("differs_from_base", {"difference": 0.0}),
    ("held_out_steps", {"held_out_steps": 49}),
    ("held_out_steps", {"held_out_steps": 0}),
    ("imitation_steering", {"candidate": Imitation(0.21, 0.0)}),
    ("action_distance", {"distance": 0.26}),
    ("completion", {"closed_candidate": replace(CLOSED, completion=0.39)}),
    ("completion", {"closed_candidate": None}),
    ("completion following", {"closed_current": None}),
    ("following", {"closed_candidate": replace(CLOSED, following=0.79)}),
    ("stop_obeyed", {"closed_candidate": replace(CLOSED, stop=0.99)}),
    ("guard_share", {"closed_candidate": replace(CLOSED, guard_share=0.26)}),
    ("forgetting", {"unshifted_candidate": 0.97}),
    ("forgetting", {"unshifted_candidate": None}),
    ("imitation_steering", {"current": None}),
    ("imitation_steering", {"candidate": None}),
    ("action_distance", {"distance": None}),
    ("differs_from_base", {"difference": None}),
]


@pytest.mark.parametrize(("name", "change"), REFUSALS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_each_rule_refuses_for_its_own_reason(name: str, change: dict[str, Any]) -> None:
    verdict = judge(replace(GOOD, **change), Rules())
    assert not verdict.passed
    assert [c.name for c in verdict.checks if not c.passed] == name.split()
    assert verdict.reason.startswith(f"{name.split()[0]}: ")


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
        assert evidence.closed_candidate.completion >= evidence.closed_current.completion
        assert evidence.candidate.steering <= evidence.current.steering * 1.02
        assert evidence.distance <= 0.25


def test_a_robot_without_a_simulator_is_judged_by_imitation_alone() -> None:
    offline = replace(
        GOOD, closed_candidate=None, closed_current=None, unshifted_candidate=None, unshifted_base=None
    )
    assert judge(offline, Rules()).passed
    assert not judge(replace(offline, distance=0.3), Rules()).passed


def test_without_held_out_steps_only_the_owner_may_allow_it() -> None:
    blind = replace(
        GOOD, held_out_steps=0, candidate=None, current=None, base=None, mean=None, repeat=None, distance=None
    )
    assert not judge(blind, Rules()).passed
    assert judge(blind, Rules(allow_promotion_without_eval=True)).passed
    # It waives the missing evaluation, not the result of one that was made.
    assert not judge(replace(GOOD, distance=0.3), Rules(allow_promotion_without_eval=True)).passed
    still_driven = replace(blind, closed_candidate=replace(CLOSED, stop=0.0))
    assert not judge(still_driven, Rules(allow_promotion_without_eval=True)).passed


def test_the_rules_move_with_the_config() -> None:
    worse = replace(GOOD, closed_candidate=replace(CLOSED, completion=0.35))
    assert not judge(worse, Rules()).passed
    assert judge(worse, Rules(max_completion_loss=0.1)).passed


def test_the_file_names_every_number_threshold_and_hash_in_strict_json() -> None:
    for evidence in (GOOD, replace(GOOD, current=None, difference=math.nan)):
        verdict = judge(evidence, Rules())
        text = json.dumps(verdict.to_json(), allow_nan=False)
        read = json.loads(text)
        assert read["passed"] is verdict.passed
        assert read["candidate_sha256"] == "c" * 64
        assert read["base_sha256"] == "b" * 64
        assert read["evaluation_sha256"] == "e" * 64
        assert [c["name"] for c in read["checks"]] == [c.name for c in verdict.checks]
        assert read["evidence"]["closed_candidate"]["completion"] == 0.95


@pytest.mark.parametrize(
    ("change", "check"),
    [
        # The driver, the model (1.5 times 0.05) and the head before it (1.25 times 0.06).
        ({"reflex": Imitation(0.26, None), "candidate": None, "reflex_current": None}, "reflex_steering"),
        ({"reflex": Imitation(0.076, None), "reflex_current": None}, "reflex_steering"),
        ({"reflex": Imitation(0.0751, None), "candidate": Imitation(0.2, 0.04)}, "reflex_steering"),
        ({"slow_candidate": Slow(0.89, 0.9)}, "slow_completion"),
        ({"slow_candidate": Slow(0.95, 0.9), "slow_path": 0.96}, "slow_completion"),
        ({"slow_candidate": Slow(0.98, 0.79)}, "slow_following"),
        ({"slow_candidate": None}, "slow_completion"),
        ({"slow_current": None}, "slow_completion"),
    ],
)
def test_a_head_that_steers_otherwise_drives_less_far_or_is_deaf_is_refused(change: Any, check: str) -> None:
    verdict = judge(replace(GOOD, **change), Rules())
    assert check in [c.name for c in verdict.checks if not c.passed]
    assert not verdict.passed


def test_a_head_that_was_to_be_taught_and_is_not_there_is_missed() -> None:
    lost = replace(GOOD, has_reflex=False, reflex=None, slow_path=None)
    assert judge(lost, Rules(needs_reflex=False)).passed
    verdict = judge(lost, Rules(needs_reflex=True))
    assert [c.name for c in verdict.checks if not c.passed] == ["reflex"]
    assert judge(GOOD, Rules(needs_reflex=True)).passed


def test_an_adapter_without_a_head_may_not_replace_one_that_drives_further_when_slow() -> None:
    headless = replace(
        GOOD,
        has_reflex=False,
        reflex=None,
        slow_path=None,
        slow_candidate=Slow(0.6, 0.9),
        slow_current=Slow(1.0, 0.9),
    )
    assert judge(headless, Rules()).reason.startswith("slow_completion")
