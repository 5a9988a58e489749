"""The rule by which one way of learning beats another: sure in one score at least, worse in none."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from benchmarks.cloud_lift import Lift
from benchmarks.lift_rule import SCORES, against, beats, in_words, summed

Rows = list[dict[str, Any]]


def rows(**changes: float) -> Rows:
    """Two seeds with four clusters each. changes: what is added to a score."""
    start = {"completion": 0.8, "instructions": 0.7, "held_out_error": 0.2}
    return [
        {"seed": seed, "steps": 9, "rank": 8, "seconds": 3.0 + seed}
        | {s: [v + 0.01 * i + changes.get(s, 0.0) for i in range(4)] for s, v in start.items()}
        for seed in (0, 1)
    ]


def says(own: Rows) -> dict[str, str]:
    return {score: found["says"] for score, found in against(own, rows()).items()}


def test_what_is_equal_does_not_beat() -> None:
    assert set(says(rows()).values()) == {"no difference shown"}
    assert not beats(against(rows(), rows()))


@pytest.mark.parametrize("score", SCORES)
def test_one_sure_gain_beats_and_one_sure_loss_spoils_it(score: str) -> None:
    better = rows(**{score: 0.1 * SCORES[score]})
    assert says(better)[score] == "better"
    assert beats(against(better, rows()))
    other = next(s for s in SCORES if s != score)
    mixed = rows(**{score: 0.1 * SCORES[score], other: -0.1 * SCORES[other]})
    assert says(mixed)[other] == "worse"
    assert not beats(against(mixed, rows()))
    assert "does not beat" in in_words("cloud", against(mixed, rows()))


def test_a_gain_that_one_seed_denies_is_none() -> None:
    own = rows(completion=0.2)
    own[1]["completion"] = [v - 0.001 for v in rows()[1]["completion"]]
    found = against(own, rows())["completion"]
    assert found["low"] > 0  # sure over all tracks together
    assert found["says"] == "no difference shown"


def test_a_gain_of_chance_is_none() -> None:
    own = rows()
    own[0]["completion"] = [0.1, 1.0, 0.2, 2.5]
    assert says(own)["completion"] == "no difference shown"


def test_medians_are_over_seeds() -> None:
    found = summed(rows())
    assert (found["seconds"], found["steps"], found["rank"]) == (3.5, 9, 8)
    assert found["by_seed"]["completion"] == [0.815, 0.815]


def test_rows_of_other_settings_are_others() -> None:
    one, other = Lift("tape", 4, 32, 800, "top"), Lift("tape", 2, 32, 800, "top")
    assert one.fingerprint("on_device") == other.fingerprint("on_device")
    assert one.fingerprint("cloud") == other.fingerprint("cloud")
    assert one.fingerprint("cloud_fleet") != other.fingerprint("cloud_fleet")
