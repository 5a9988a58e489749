"""Claims about the rule that draws surprising samples more often (`benchmarks/attention.py`)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.attention import FLOOR, attend
from benchmarks.surprise import Slips, pairs_of

N = 24
GROUPS = np.array([0] * 10 + [1] * 6 + [-1] * 8)
SURPRISE = arrays(float, N, elements=st.floats(0, 50))


@given(SURPRISE, st.floats(0, 2))
def test_every_lesson_keeps_its_share_and_replay_is_drawn_as_before(
    surprise: np.ndarray, strength: float
) -> None:
    chances = np.linspace(1, 2, N)
    chances /= chances.sum()
    drawn = attend(chances, GROUPS, surprise, strength)
    assert drawn.min() > 0.0
    for group in (0, 1, -1):
        rows = group == GROUPS
        assert drawn[rows].sum() == pytest.approx(chances[rows].sum())
    assert np.array_equal(drawn[GROUPS < 0], chances[GROUPS < 0])


def test_what_surprises_more_is_drawn_more_often_and_nothing_is_forgotten() -> None:
    surprise = np.concatenate([np.arange(10.0), np.zeros(14)])
    drawn = attend(np.full(N, 1 / N), GROUPS, surprise, 1.0)
    assert np.all(np.diff(drawn[:10]) > 0)
    # Of the group's mean (4.5): FLOOR for what surprises nobody, FLOOR + 2 for the most surprising.
    assert drawn[9] / drawn[0] == pytest.approx((FLOOR + 2) / FLOOR)
    assert np.allclose(drawn[10:16], 1 / N)  # a lesson in which nothing surprises


def test_strength_nought_is_the_trainers_own() -> None:
    chances = np.full(N, 1 / N)
    assert np.allclose(attend(chances, GROUPS, np.arange(N, dtype=float), 0.0), chances)


def test_a_driver_who_errs_does_so_about_an_eighth_of_the_time_and_by_half_seconds() -> None:
    slips = Slips(0, 16)
    off = np.stack([slips(tick, np.zeros(16)) for tick in range(400)]) != 0.0
    assert 0.08 < off.mean() < 0.16
    starts = off[1:] & ~off[:-1]
    assert off[1:].sum() / starts.sum() >= 9.0


def test_pairs_are_of_the_same_shift_seed_driver_and_steps() -> None:
    def row(arm: str, seed: int, error: float) -> dict[str, object]:
        scores = {"completion": 1.0, "lane_error_m": error, "following": 0.5, "stop_model": 1.0}
        return {"shift": "tape", "seed": seed, "errs": False, "steps": 40, "arm": arm} | scores

    rows = [row("off", 0, 0.05), row("off", 1, 0.02), row("live ^1", 0, 0.04), row("live ^1", 1, 0.03)]
    rows.append(row("live ^1", 2, 0.0))  # nothing to compare it with
    (pair,) = pairs_of(rows)
    assert pair["pairs"] == 2
    assert (pair["lane_error_m"]["better"], pair["lane_error_m"]["worse"]) == (1, 1)
    assert pair["lane_error_m"]["median"] == pytest.approx(0.0)
