"""Claims about recordings as evidence: blocks are stretches of time, and the guard's work is counted as it drives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import Decisions
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.recorded import blocks_of, guarded_on, held_out, replayed

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
    acted = {k: (np.ones(n), np.zeros(n)) for k in ("candidate", "current")}
    found = held_out(samples, errors, acted)
    assert found.episodes == 2
    assert set(found.episode) == {0, 3}
    assert sum(found.steps) == n
    mean = np.average(found.candidate, weights=found.steps)
    assert mean == pytest.approx(errors["candidate"].mean())
    assert set(found.guard_candidate) == {1.0}
    assert set(found.head_current) == {0.0}


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
    calm, no_head = guarded_on(steady, samples, NOMINAL, limits, lambda: looks.append(1))
    assert calm.sum() <= 3  # slew, until the wheels have turned
    assert looks
    assert not no_head.any()
    assert guarded_on(jumping, samples, NOMINAL, limits)[0].mean() > 0.8
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
