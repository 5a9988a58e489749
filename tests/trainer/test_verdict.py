"""Claims about the verdict: each rule refuses for its own reason, and the owner's settings move it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.evidence import Imitation, Sources
from continuonbrain.trainer.verdict import judge
from tests.trainer.good_evidence import (
    CLOSED,
    GOOD,
    RECORDED,
    TRACKS,
    driven,
    laps,
    recorded,
    remembered,
    steering,
)


def test_good_evidence_passes_every_check() -> None:
    verdict = judge(GOOD, Rules())
    assert verdict.passed
    assert verdict.reason == ""
    assert all(c.passed for c in verdict.checks)
    assert len({c.name for c in verdict.checks}) == len(verdict.checks)


@pytest.mark.parametrize(("mean", "passed"), [(0.25, True), (0.049, False), (0.051, True), (None, False)])
def test_where_recordings_are_all_there_is_a_constant_must_be_beaten(
    mean: float | None, passed: bool
) -> None:
    given = {} if mean is None else {"mean": mean}
    evidence = replace(
        RECORDED,
        mean=None if mean is None else Imitation(mean, 0.2),
        held=recorded(0.05, 0.20, **given),  # type: ignore[arg-type]
    )
    verdict = judge(evidence, Rules())
    assert verdict.passed is passed, verdict.reason
    if not passed:
        assert verdict.reason.startswith("mean_command")
    # Where it was driven, driving decides.
    assert judge(replace(GOOD, held=recorded(0.05, 0.20, 0.049)), Rules()).passed


REFUSALS: list[tuple[str, dict[str, object]]] = [
    ("loads", {"refused": "adapter x holds numbers that are not finite"}),
    ("differs_from_base", {"difference": 0.0}),
    ("measured", {"closed_candidate": replace(CLOSED, completion=0.96)}),
    ("measured", {"candidate": Imitation(0.04, 0.04)}),
    ("held_out_steps", {"held_out_steps": 49}),
    ("held_out_steps", {"held_out_steps": 0}),
    ("held_out_episodes", {"held": recorded(0.05, 0.20, episodes=1)}),
    ("held_out_episodes imitation_steering imitation_speed", {"held": None}),
    ("imitation_steering", steering(0.205)),
    ("action_distance", {"distance": 0.26}),
    ("recorded_guard", {"held": recorded(0.05, 0.2, guard_candidate=(0.07,) * 16)}),
    ("gain", {**steering(0.2), "closed_current": CLOSED}),
    ("gain", {**steering(0.199), "closed_current": CLOSED}),
    ("completion", {"closed_candidate": driven(0.39)}),
    ("completion", {"closed_candidate": None}),
    ("completion following guard_rise", {"closed_current": None}),
    ("following", {"closed_candidate": driven(0.95, following=13 / 16)}),
    ("stop_obeyed", {"closed_candidate": replace(CLOSED, stop=0.99)}),
    (
        "guard_share",
        {"closed_candidate": driven(0.95, guard=0.26), "closed_current": driven(0.4, guard=0.25)},
    ),
    ("guard_rise", {"closed_candidate": driven(0.95, guard=0.08)}),
    ("forgetting", {"unshifted_candidate": laps(0.97)}),
    ("forgetting", {"unshifted_candidate": None}),
    ("replay", {"replay": remembered(0.09)}),
    ("replay_speed", {"replay": remembered(0.04, speed=0.08)}),
    ("replay_speed", {"replay": replace(remembered(0.04), speed_candidate=())}),
    ("imitation_speed", {"held": recorded(0.05, 0.20, speed_candidate=(0.07,) * 16)}),
    ("imitation_speed", {"held": recorded(0.05, 0.20, speed_candidate=(), speed_current=())}),
    ("imitation_steering imitation_speed", {"current": None}),
    ("imitation_steering imitation_speed", {"candidate": None}),
    ("action_distance", {"distance": None}),
    ("differs_from_base", {"difference": None}),
]


@pytest.mark.parametrize(("name", "change"), REFUSALS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_each_rule_refuses_for_its_own_reason(name: str, change: dict[str, Any]) -> None:
    verdict = judge(replace(GOOD, **change), Rules())
    assert not verdict.passed
    assert [c.name for c in verdict.checks if not c.passed] == name.split()
    assert verdict.reason.startswith(f"{name.split()[0]}: ")


def test_a_refusal_by_the_guard_says_which_setting_it_met_and_what_else_failed() -> None:
    held = recorded(0.05, 0.2, guard_candidate=(0.5,) * 16)
    held = replace(held, guard_reasons={"steering_slew": 0.1, "throttle_bound": 0.4})
    verdict = judge(replace(GOOD, held=held, closed_candidate=driven(0.95, guard=0.08)), Rules())
    assert (
        "throttle_bound, on 40% of the steps: it drives faster than guards.throttle_bounds" in verdict.reason
    )
    assert [c.name for c in verdict.checks if not c.passed] == ["recorded_guard", "guard_rise"]
    assert verdict.reason.startswith("recorded_guard: ")
    assert verdict.reason.endswith("; and guard_rise")
    assert "most often" not in str(judge(replace(GOOD, held=replace(held, guard_reasons={})), Rules()).reason)


def test_the_safety_heads_figures_are_compared_where_a_head_is_installed() -> None:
    blocked = driven(0.95, head_shares=(0.2,) * TRACKS)
    held = recorded(0.05, 0.2, head_candidate=(0.3,) * 16)
    with_head = Sources(safety_head_sha256="a" * 64)
    for change, name in (({"closed_candidate": blocked}, "head_rise"), ({"held": held}, "recorded_head")):
        assert judge(replace(GOOD, **change), Rules()).passed  # no head: nothing blocked anything
        verdict = judge(replace(GOOD, sources=with_head, **change), Rules())  # type: ignore[arg-type]
        assert [c.name for c in verdict.checks if not c.passed] == [name]
    assert judge(replace(GOOD, sources=with_head), Rules()).passed


def test_a_robot_without_a_simulator_is_judged_by_imitation_alone() -> None:
    assert judge(RECORDED, Rules()).passed
    assert not judge(replace(RECORDED, distance=0.3), Rules()).passed


def test_without_held_out_steps_only_the_owner_may_allow_it() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("candidate", "current", "base", "mean", "repeat", "distance", "held")
    )
    blind = replace(GOOD, held_out_steps=0, **nothing)
    assert not judge(blind, Rules()).passed
    assert judge(blind, Rules(allow_promotion_without_eval=True)).passed
    # It waives the missing evaluation, not the result of one that was made.
    assert not judge(replace(GOOD, distance=0.3), Rules(allow_promotion_without_eval=True)).passed
    still_driven = replace(blind, closed_candidate=replace(CLOSED, stop=0.0))
    assert not judge(still_driven, Rules(allow_promotion_without_eval=True)).passed


def test_the_rules_move_with_the_config() -> None:
    worse = replace(GOOD, closed_candidate=driven(0.35))
    assert not judge(worse, Rules()).passed
    assert judge(worse, Rules(max_completion_loss=0.1)).passed
