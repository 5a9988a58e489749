"""Claims about recordings as evidence: blocks are stretches of time, and the guard's work is counted as it drives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.codec import FULL_SPEED_MPS, SPEED_BINS
from continuonbrain.policy.engine import Decisions
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.exam import Paper
from continuonbrain.trainer.recorded import (
    Acted,
    blocks_of,
    examined,
    guarded_on,
    held_out,
    replayed,
    speed_error,
)

NOMINAL = Calibration()


def timed(samples: Samples, seconds: list[float], episodes: list[int]) -> Samples:
    """As many of the samples, with these times and episodes."""
    rows = samples.select(np.arange(len(seconds)))
    stamps = np.array([round(s * 1e9) + 1 for s in seconds], np.int64)
    return replace(rows, stamps=stamps, episode=np.array(episodes))


def test_blocks_are_two_seconds_of_one_episode_and_a_short_rest_belongs_to_the_one_before(
    recorded: Samples,
) -> None:
    times = [i * 0.25 for i in range(18)]  # 4.25 s: two blocks, and a rest of a quarter of a second
    found = blocks_of(timed(recorded, times + times[:8], [0] * 18 + [1] * 8))
    assert found.tolist() == [0] * 8 + [1] * 10 + [2] * 8
    # A hole in the recording leaves no empty block; stamps that say nothing are control ticks.
    assert blocks_of(timed(recorded, [0.0, 0.1, 9.0, 9.1, 9.2], [0] * 5)).tolist() == [0, 0, 1, 1, 1]
    silent = replace(timed(recorded, [0.0] * 90, [0] * 90), stamps=np.zeros(90, np.int64))
    assert np.bincount(blocks_of(silent)).tolist() == [40, 50]


def test_means_by_block_give_back_the_mean_over_steps(recorded: Samples) -> None:
    n = 40
    samples = timed(recorded, [i * 0.2 for i in range(n)], [0] * 25 + [3] * 15)
    errors = {k: np.random.default_rng(i).random(n) for i, k in enumerate(("candidate", "current", "mean"))}
    errors |= {f"speed_{k}": errors[k] / 3 for k in ("candidate", "current")}
    acted = {k: Acted(np.ones(n), np.zeros(n), {"a": 10, "b": 30}) for k in ("candidate", "current")}
    found = held_out(samples, errors, acted)
    assert found.episodes == 2
    assert set(found.episode) == {0, 3}
    assert sum(found.steps) == n
    mean = np.average(found.candidate, weights=found.steps)
    assert mean == pytest.approx(errors["candidate"].mean())
    assert found.speed_candidate == pytest.approx([v / 3 for v in found.candidate])
    assert set(found.guard_candidate) == {1.0}
    assert set(found.head_current) == {0.0}
    assert list(found.guard_reasons.items()) == [("b", 0.75), ("a", 0.25)]


def test_a_steady_path_leaves_the_guard_in_peace_and_a_jumping_one_does_not(recorded: Samples) -> None:
    n = 60
    samples = replace(
        timed(recorded, [i * 0.05 for i in range(n)], [0] * n), speeds=[1.0] * n, instructions=["drive"] * n
    )
    steady = Decisions(np.full((n, 8), 0.2, np.float32), np.full((n, 2), 1.0, np.float32))
    sign = np.where(np.arange(n) % 2, 1.5, -1.5).astype(np.float32)
    jumping = Decisions(np.tile(sign[:, None], (1, 8)), steady.speed)
    limits = Limits(throttle_min=-0.5, steering_rate_per_s=10.0, throttle_rate_per_s=50.0)
    looks: list[int] = []
    calm, no_head, _ = guarded_on(steady, samples, NOMINAL, limits, lambda: looks.append(1))
    assert calm.sum() <= 3  # slew, until the wheels have turned
    assert looks
    assert not no_head.any()
    found = guarded_on(jumping, samples, NOMINAL, limits)
    assert found.guard.mean() > 0.8
    assert max(found.reasons, key=lambda name: found.reasons[name]) == "steering_slew"
    slow = replace(limits, throttle_max=0.2)
    calm_driver = replace(samples, command=np.tile(np.float32([0.0, 0.1]), (n, 1)))
    assert guarded_on(steady, calm_driver, NOMINAL, slow).reasons["throttle_bound"] > n - 5
    # Who was taught by somebody faster than the bounds is not blamed for it, and for all else.
    fast_driver = replace(samples, command=np.tile(np.float32([0.0, 0.5]), (n, 1)))
    found = guarded_on(steady, fast_driver, NOMINAL, slow)
    assert "throttle_bound" not in found.reasons
    assert found.guard.sum() <= 5
    assert guarded_on(jumping, fast_driver, NOMINAL, slow).guard.mean() > 0.8
    broken = Decisions(np.full((n, 8), np.nan, np.float32), steady.speed)
    assert guarded_on(broken, samples, NOMINAL, limits)[0].all()


def test_ideal_answers_to_frozen_states_have_no_error(recorded: Samples) -> None:
    frozen = replace(recorded, episode=np.arange(len(recorded)) % 7)
    ideal = Decisions(frozen.curvature, frozen.speed_ahead)
    off = Decisions(frozen.curvature + np.float32(0.3), frozen.speed_ahead)
    found = replayed(frozen, ideal, off, "f" * 64)
    assert len(found.states) == len(found.base) == 7
    assert found.candidate == (0.0,) * 7
    assert min(found.base) > 0.05


def test_an_error_of_speed_is_a_share_of_full_speed_and_where_nothing_is_known_none(
    recorded: Samples,
) -> None:
    bins = SPEED_BINS
    assert bins.high - 2 * bins.step == pytest.approx(FULL_SPEED_MPS)
    n = 6
    samples = replace(recorded.select(np.arange(n)), speed_ahead=np.tile(np.float32([0.5, 1.0]), (n, 1)))
    weights = np.ones((n, 10), np.float32)
    weights[1, 8], weights[2, 9], weights[3, 8:] = 0.0, 0.0, 0.0
    samples = replace(samples, weights=weights)
    said = Decisions(samples.curvature, np.tile(np.float32([1.0, 0.8]), (n, 1)))
    both, first, last = (0.25 + 0.1) / 2, 0.25, 0.1
    assert speed_error(said, samples).tolist() == pytest.approx(
        [both, last, first, 0.0, both, both], abs=1e-6
    )
    assert not speed_error(Decisions(samples.curvature, samples.speed_ahead), samples).any()


def test_frozen_states_and_exam_tell_of_speeds_that_were_unlearned(recorded: Samples) -> None:
    samples = replace(recorded, episode=np.arange(len(recorded)) % 4, weights=np.ones_like(recorded.weights))
    ideal = Decisions(samples.curvature, samples.speed_ahead)
    fast = Decisions(samples.curvature, samples.speed_ahead + np.float32(0.5))
    found = replayed(samples, fast, ideal, "f" * 64)
    assert found.candidate == found.base == (0.0,) * 4
    assert found.speed_candidate == pytest.approx((0.25,) * 4)
    assert found.speed_base == (0.0,) * 4
    paper = Paper(
        samples,
        {0: 7, 1: 7, 2: 8, 3: 9},
        {i: f"q{i}" for i in range(4)},
        trained=frozenset({3}),
        unread=(5,),
        best={"q0": (0.1, 0.2)},
    )
    exam = examined(paper, fast, ideal, "e" * 64)
    assert exam.lesson == (7, 7, 8, 9)
    assert exam.names == ("q0", "q1", "q2", "q3")
    assert exam.trained == (False, False, False, True)
    assert exam.speed_candidate == pytest.approx((0.25,) * 4)
    assert exam.speed_current == (0.0,) * 4
    assert exam.best == (0.1, None, None, None)
    assert exam.speed_best == (0.2, None, None, None)
    assert exam.unread == (5,)
