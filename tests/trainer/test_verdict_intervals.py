"""Claims about how much evidence is enough: an interval decides, and neither luck nor spread does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.evidence import Imitation, Slow
from continuonbrain.trainer.verdict import judge
from tests.trainer.good_evidence import CLOSED, GOOD, RECORDED, TRACKS, driven, recorded, trials


def test_too_few_held_out_episodes_are_refused_with_what_to_do() -> None:
    few = replace(RECORDED, held=recorded(0.05, 0.2, episodes=3))
    verdict = judge(few, Rules())
    assert verdict.reason.startswith("held_out_episodes: 3 against 4 ")
    assert "record at least 16 episodes" in verdict.reason
    assert judge(few, Rules(min_eval_episodes=3)).passed
    # On a course tracks carry the evidence: two drives are enough to show harm, and no gain by themselves.
    driven_too = replace(GOOD, held=recorded(0.05, 0.2, episodes=2))
    assert judge(driven_too, Rules()).passed
    assert {c.unit for c in judge(driven_too, Rules()).checks if c.name == "imitation_steering"} == {
        "2 s blocks"
    }
    assert judge(replace(driven_too, closed_current=CLOSED), Rules()).reason.startswith("gain: ")
    assert judge(replace(GOOD, closed_current=CLOSED), Rules()).passed


def test_an_estimate_within_the_slack_is_not_enough_where_the_interval_reaches_harm() -> None:
    """A third of a lap lost on one track, a quarter won on another: about even, and what comes next is unknown."""
    now = driven(0.96875, completions=(0.75, *(1.0,) * 7))
    own = driven(0.95625, completions=(1.0, 0.65, *(1.0,) * 6))
    unsure = replace(GOOD, closed_current=now, closed_candidate=own)
    (check,) = (c for c in judge(unsure, Rules(max_completion_loss=0.02)).checks if c.name == "completion")
    assert check.value == pytest.approx(-0.0125)
    assert check.low is not None
    assert -0.3 < check.low < -0.1
    assert (check.n, check.unit, check.limit, check.passed) == (TRACKS, "tracks", -0.1, False)
    kinder = Rules(max_completion_loss=0.02, max_harm=0.3)
    assert all(c.passed for c in judge(unsure, kinder).checks if c.name == "completion")
    # A seventh of a lap lost on one track of eight, and nothing else: within the slack, and surely no more.
    lost = replace(GOOD, closed_current=driven(1.0, completions=(1.0,) * 8))
    lost = replace(lost, closed_candidate=driven(0.98125, completions=(0.85, *(1.0,) * 7)))
    assert judge(lost, Rules(max_completion_loss=0.02)).passed
    assert judge(lost, Rules()).reason.startswith("completion: -0.01875 against 0, between ")


@pytest.mark.parametrize("measure", ["completion", "imitation"])
def test_what_is_equal_is_promoted_no_oftener_than_the_level_says_and_what_is_better_is(measure: str) -> None:
    """The rule of gain over whole evaluations: an equal candidate with the noise of tracks and of episodes."""
    rng = np.random.default_rng(3)

    def passes(better: float) -> bool:
        own, now = rng.normal(0.8, 0.05, (2, TRACKS)), rng.normal(0.2, 0.02, (2, 4))
        if measure == "completion":
            own[0] += better
        else:
            now[0] -= better / 2
        blocks = [np.repeat(row, 4) for row in now]
        evidence = replace(
            GOOD,
            evaluation_sha256=f"{rng.integers(1 << 60):064x}",
            candidate=Imitation(float(blocks[0].mean()), 0.1),
            current=Imitation(float(blocks[1].mean()), 0.1),
            held=replace(GOOD.held, candidate=tuple(blocks[0]), current=tuple(blocks[1])),  # type: ignore[type-var]
            closed_candidate=driven(float(own[0].mean()), completions=tuple(own[0])),
            closed_current=driven(float(own[1].mean()), completions=tuple(own[1])),
        )
        (gain,) = (c for c in judge(evidence, Rules()).checks if c.name == "gain")
        return gain.passed

    assert np.mean([passes(0.0) for _ in range(200)]) <= 0.06
    assert np.mean([passes(0.15) for _ in range(60)]) >= 0.9


def test_a_win_on_one_road_does_not_make_up_for_a_loss_on_another() -> None:
    now = driven(0.4, completions=(0.1,) * 6 + (1.0, 1.0, 1.0, 1.0), guard_shares=(0.02,) * 10)
    now = replace(now, completion=0.46)
    own = replace(now, completion=0.95, completions=(1.0,) * 9 + (0.5,))
    verdict = judge(replace(GOOD, closed_candidate=own, closed_current=now), Rules())
    assert [c.name for c in verdict.checks if not c.passed] == ["completion"]
    assert judge(
        replace(
            GOOD, closed_candidate=replace(own, completion=1.0, completions=(1.0,) * 10), closed_current=now
        ),
        Rules(),
    ).passed


def test_large_wins_that_differ_do_not_hide_that_nothing_was_lost() -> None:
    """Four tracks, all driven further, by very different lengths: the spread is of the gain."""
    before, after = (0.9, 0.4, 0.1, 0.05), (1.0,) * 4
    changed = replace(GOOD, slow_current=Slow(0.3625, 7 / 8, before, trials(7 / 8, 8)))
    assert judge(replace(changed, slow_candidate=Slow(1.0, 7 / 8, after, trials(7 / 8, 8))), Rules()).passed
