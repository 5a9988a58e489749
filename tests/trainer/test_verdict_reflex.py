"""Claims about the verdict on the reflex head: one that steers otherwise, drives less far or is missing is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.evidence import Imitation, Laps
from continuonbrain.trainer.verdict import judge
from tests.trainer.good_evidence import GOOD, slow, spread


@pytest.mark.parametrize(
    ("change", "check"),
    [
        # The driver, the model (1.5 times 0.05) and the head before it (1.25 times 0.06).
        ({"reflex": Imitation(0.26, None), "candidate": None, "reflex_current": None}, "reflex_steering"),
        ({"reflex": Imitation(0.076, None), "reflex_current": None}, "reflex_steering"),
        ({"reflex": Imitation(0.0751, None), "candidate": Imitation(0.2, 0.04)}, "reflex_steering"),
        ({"slow_candidate": slow(0.89)}, "slow_completion"),
        ({"slow_candidate": slow(0.95), "slow_path": Laps(0.96, spread(0.96, 4))}, "slow_reflex"),
        ({"slow_candidate": slow(0.98, 5 / 8)}, "slow_following"),
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
        slow_candidate=slow(0.6),
        slow_current=slow(1.0),
    )
    assert judge(headless, Rules()).reason.startswith("slow_completion")
