"""The verdict on a new base: no harm anywhere that was measured, and nothing passes that was not measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from continuonbrain.trainer.base_verdict import judge_base
from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.evidence import Closed, Evidence, HeldOut, Imitation, Laps, Slow, Sources

ONES, NOTHING = (1.0,) * 8, (0.0,) * 8
GOOD = Closed(1.0, 0.02, 0.0, 1.0, 1.0, 1.0, ONES, NOTHING, NOTHING, ONES)
DRIVEN = Evidence(
    "",
    "b" * 64,
    "e" * 64,
    0,
    closed_candidate=GOOD,
    closed_current=GOOD,
    unshifted_candidate=Laps(1.0, ONES),
    unshifted_base=Laps(1.0, ONES),
    has_reflex=True,
    slow_candidate=Slow(1.0, 1.0, ONES, ONES),
    slow_current=Slow(1.0, 1.0, ONES, ONES),
    sources=Sources(),
)
HELD = HeldOut(
    (0, 1, 2, 3),
    (25.0,) * 4,
    (0.1,) * 4,
    (0.1,) * 4,
    (0.3,) * 4,
    speed_candidate=(0.03,) * 4,
    speed_current=(0.03,) * 4,
)
RECORDED = Evidence(
    "",
    "b" * 64,
    "e" * 64,
    100,
    Imitation(0.1, 0.1),
    Imitation(0.1, 0.1),
    mean=Imitation(0.3, 0.3),
    distance=0.1,
    held=HELD,
    sources=Sources(),
)


def failed(evidence: Evidence, **rules: Any) -> list[str]:
    return [c.name for c in judge_base(evidence, Rules(**rules)).checks if not c.passed]


def test_as_good_as_what_drives_is_good_enough_on_a_course_or_on_recordings() -> None:
    assert failed(DRIVEN) == []
    assert failed(RECORDED) == []
    assert judge_base(DRIVEN, Rules()).passed


def test_what_was_measured_nowhere_does_not_pass_whatever_the_settings_say() -> None:
    nothing = Evidence("", "b" * 64, "e" * 64, 0)
    assert "measures" in failed(nothing)
    assert failed(nothing, allow_promotion_without_eval=True) == ["measures"]


def test_what_the_engine_does_not_take_does_not_pass() -> None:
    assert failed(replace(DRIVEN, refused="it is damaged")) == ["loads"]


HALF = (0.5,) * 8


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"closed_candidate": replace(GOOD, completion=0.5, completions=HALF)}, "completion"),
        ({"closed_candidate": replace(GOOD, obeyed=HALF)}, "following"),
        ({"closed_candidate": replace(GOOD, stop=0.9)}, "stop_obeyed"),
        ({"closed_candidate": replace(GOOD, guard_share=0.5, guard_shares=HALF)}, "guard_share"),
        ({"closed_candidate": replace(GOOD, guard_share=0.2, guard_shares=(0.2,) * 8)}, "guard_rise"),
        ({"closed_candidate": None}, "completion"),
        ({"closed_candidate": replace(GOOD, completion=float("nan"))}, "measured"),
        ({"unshifted_candidate": Laps(0.5, HALF)}, "forgetting"),
        ({"slow_candidate": Slow(0.5, 1.0, HALF, ONES)}, "slow_completion"),
        ({"slow_candidate": None}, "slow_completion"),
    ],
)
def test_harm_on_the_course_does_not_pass(changes: dict[str, Any], name: str) -> None:
    assert name in failed(replace(DRIVEN, **changes))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        (
            {"held": replace(HELD, candidate=(0.2,) * 4), "candidate": Imitation(0.2, 0.1)},
            "imitation_steering",
        ),
        ({"held": replace(HELD, speed_candidate=(0.2,) * 4)}, "imitation_speed"),
        ({"held_out_steps": 10}, "held_out_steps"),
        ({"distance": 0.5}, "action_distance"),
    ],
)
def test_harm_on_recordings_does_not_pass(changes: dict[str, Any], name: str) -> None:
    assert name in failed(replace(RECORDED, **changes))


def test_a_base_without_the_reflex_head_that_is_asked_for_does_not_pass() -> None:
    assert failed(replace(DRIVEN, has_reflex=False), needs_reflex=True) == ["reflex"]
