"""What a study runs, and what it makes of its search."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from continuonbrain.config import load_preset
from continuonbrain.study.plan import (
    DEPTHS,
    LADDER,
    MAIN,
    MOST_SEEDS,
    PARTS,
    RATES,
    StudySettings,
    at_best_rates,
    best_rates,
    cells,
    quick_settings,
    search_cells,
)

SETTINGS = StudySettings()
ANY_RATE = dict.fromkeys((*MAIN, *DEPTHS), 1e-3)


def row(learner: str, rate: float, **scores: float) -> dict[str, Any]:
    return {
        "part": "search",
        "learner": learner,
        "rate": rate,
        "completion": 1.0,
        "slow_completion": 1.0,
        "following": 1.0,
        "stop_model": 1.0,
        "lane_error_m": 0.02,
    } | scores


def test_every_learner_is_searched_at_the_same_rates_apart_from_the_scores() -> None:
    searched = list(search_cells(("depth",), SETTINGS))
    rates: dict[str, set[float]] = {}
    for cell in searched:
        rates.setdefault(cell.learner, set()).add(cell.rate)
    assert set(rates) == {*MAIN, *DEPTHS}
    assert all(found == set(RATES) for found in rates.values())
    lessons = {c.lesson_seed for part in PARTS[1:] for c in cells(part, SETTINGS, ANY_RATE)}
    assert not lessons & {c.lesson_seed for c in searched}


def test_a_search_goes_on_beyond_the_edge_at_which_the_best_rate_lies() -> None:
    settings = StudySettings(learners=("conv",))

    def wanted(rows: list[dict[str, Any]]) -> set[float]:
        return {c.rate for c in search_cells((), settings, rows)}

    scores = dict(zip(LADDER, (0.1, 0.5, 0.6, 0.55, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1), strict=True))
    rows = [row("conv", rate, completion=scores[rate]) for rate in RATES[:-1]]
    assert wanted(rows) == set(RATES)  # the first ones are not all there yet
    rows.append(row("conv", RATES[-1], completion=scores[RATES[-1]]))
    assert wanted(rows) == {1e-4, *RATES}
    rows.append(row("conv", 1e-4, completion=scores[1e-4]))
    assert wanted(rows) == {3e-5, 1e-4, *RATES}
    rows.append(row("conv", 3e-5, completion=scores[3e-5]))
    assert wanted(rows) == {3e-5, 1e-4, *RATES}  # the best one has neighbours now
    assert best_rates(rows) == {"conv": 1e-4}


def test_no_lesson_and_no_score_of_any_seed_share_a_road() -> None:
    most = StudySettings(seeds=MOST_SEEDS)
    all_cells = [*search_cells(("depth",), most), *cells("steps", most, ANY_RATE)]
    roads: dict[int, str] = {}
    for cell in all_cells:
        lessons, scores = f"lessons {cell.seed}", f"scores of {cell.seed} {cell.part}"
        for first, count, use in ((cell.lesson_seed, most.episodes, lessons), (cell.score_seed, 700, scores)):
            for road in range(first, first + count):
                assert roads.setdefault(road, use) == use
    with pytest.raises(ValueError, match="21 seeds"):
        list(cells("steps", StudySettings(seeds=MOST_SEEDS + 1), ANY_RATE))


def test_a_smaller_study_is_the_beginning_of_a_larger_one() -> None:
    one = [c.key for c in cells("steps", StudySettings(seeds=1), ANY_RATE)]
    three = [c.key for c in cells("steps", StudySettings(seeds=3), ANY_RATE)]
    assert three[: len(one)] == one
    assert len(three) == len(set(three)) == 3 * len(one)


@pytest.mark.parametrize("part", PARTS[1:])
def test_each_part_trains_at_the_rates_that_were_found(part: str) -> None:
    rates = {name: 1e-4 * (i + 1) for i, name in enumerate(ANY_RATE)}
    found = [c for c in cells(part, SETTINGS, rates) if c.learner != "base"]
    assert found
    assert all(c.rate == rates[c.learner] for c in found)


def test_the_search_prefers_what_drives_obeys_and_keeps_the_lane() -> None:
    rows = [
        row("a", 1e-3, slow_completion=0.5),
        row("a", 3e-3),
        row("b", 1e-3, lane_error_m=0.08),
        row("b", 1e-2, following=0.95),
        row("c", 3e-3),
        row("c", 1e-3),
        row("d", 1e-2, stop_model=0.0),
        row("d", 3e-4, slow_completion=0.8),
    ]
    assert best_rates(rows) == {"a": 3e-3, "b": 1e-2, "c": 1e-3, "d": 3e-4}
    run = [{**row("a", rate), "part": "steps"} for rate in (1e-3, 3e-3)]
    assert at_best_rates(rows + run) == run[1:]
    assert best_rates([{**r, "part": "steps"} for r in rows]) == {}


def test_a_quick_study_has_every_part() -> None:
    quick = quick_settings(SETTINGS)
    assert all(list(cells(part, quick, ANY_RATE)) for part in PARTS[1:])
    searched = list(search_cells((), quick))
    assert len(searched) == len(MAIN)
    rows = [row(c.learner, c.rate) for c in searched]
    assert list(search_cells((), quick, rows)) == searched  # nothing beyond the edge of one rate


def test_the_study_trains_lora_as_the_robot_does() -> None:
    config = load_preset("sim-donkey")
    assert (SETTINGS.rank, SETTINGS.alpha) == (config.training.rank, config.training.alpha)
    assert max(RATES) > config.learning_rate > min(RATES)
    assert config.max_steps == SETTINGS.steps
