"""What a study runs: a list of cells, each one training and its scores."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from continuonbrain.study.learners import LEARNERS

PARTS = ("search", "steps", "wall", "episodes", "depth")
LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
RATES = LADDER[3:7]
"""Where the search of every learner begins."""
MAIN = ("shared", "plus-one", "all", "connector", "full", "conv", "conv-scratch")
DEPTHS = ("shared-1", "shared-2", "shared", "plus-one", "all")
MOST_SEEDS = 20
"""Lessons and scores of more would share roads."""
_SEARCH_SEED = 1000


@dataclass(frozen=True, slots=True)
class StudySettings:
    """tracks: held-out tracks of a score; follow_tracks: each instruction is tried on so many; episodes: lessons of
    episode_steps ticks; counts: numbers of lessons in the part that varies them; rank, alpha: of LoRA, as the preset
    sim-donkey has them; rates: where every learner's search begins (one alone is taken as it is)."""

    shifts: tuple[str, ...] = ("tape", "pitch", "dark")
    learners: tuple[str, ...] = MAIN
    seeds: int = 3
    tracks: int = 24
    follow_tracks: int = 4
    validation_tracks: int = 8
    episodes: int = 40
    episode_steps: int = 150
    counts: tuple[int, ...] = (4, 12)
    steps: int = 400
    rank: int = 8
    alpha: float = 32.0
    convolution_chunks: int = 340
    search_shifts: tuple[str, ...] = ("tape",)
    rates: tuple[float, ...] = RATES


def quick_settings(settings: StudySettings) -> StudySettings:
    """Every learner and part once, hardly any of it: to see that a study runs."""
    return replace(
        settings,
        shifts=settings.shifts[:1],
        rates=(3e-3,),
        seeds=1,
        tracks=2,
        follow_tracks=1,
        validation_tracks=1,
        episodes=4,
        episode_steps=60,
        counts=(2,),
        steps=10,
        convolution_chunks=2,
    )


@dataclass(frozen=True, slots=True)
class Cell:
    """One training. part: what it is for; learner "base" trains nothing. Equal cells have equal keys."""

    part: str
    learner: str
    shift: str
    seed: int
    episodes: int
    rate: float

    @property
    def key(self) -> str:
        """Names the cell in the results."""
        return "/".join(str(v) for v in asdict(self).values())

    @property
    def lesson_seed(self) -> int:
        """The first road of the lessons, one a lesson."""
        return 700_000 + 1000 * self.seed

    @property
    def score_seed(self) -> int:
        """The first road of the scores; they take less than a thousand."""
        return 820_000 if self.part == "search" else 800_000 + 1000 * self.seed


def search_cells(
    parts: Collection[str], settings: StudySettings, rows: Sequence[Mapping[str, Any]] = ()
) -> Iterator[Cell]:
    """Every learner of the parts at every rate, on lessons and tracks that no part uses.

    rows: results so far. Where a learner's best rate is the smallest or the largest that was tried, the next one of
    the ladder is tried too: nobody wins because the grid ended where it suited him. Ask again until nothing is new.
    """
    for learner in dict.fromkeys((*settings.learners, *(DEPTHS if "depth" in parts else ()))):
        for shift in settings.search_shifts:
            for rate in (*settings.rates, *_wider(learner, settings.rates, rows)):
                yield Cell("search", learner, shift, _SEARCH_SEED, settings.episodes, rate)


def _wider(learner: str, rates: tuple[float, ...], rows: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    """Rates beyond the first ones: those already tried, and the next one at the edge where the best lies."""
    tried = searched_rates(rows).get(learner, set())
    yield from sorted(tried - set(rates))
    if not tried >= set(rates) or len(rates) == 1:
        return
    best = best_rates(rows)[learner]
    if best == min(tried) != LADDER[0]:
        yield LADDER[LADDER.index(best) - 1]
    if best == max(tried) != LADDER[-1]:
        yield LADDER[LADDER.index(best) + 1]


def searched_rates(rows: Sequence[Mapping[str, Any]]) -> dict[str, set[float]]:
    """By learner, the rates that the search has tried."""
    tried: dict[str, set[float]] = {}
    for row in rows:
        if row["part"] == "search":
            tried.setdefault(str(row["learner"]), set()).add(float(row["rate"]))
    return tried


def cells(part: str, settings: StudySettings, rates: Mapping[str, float]) -> Iterator[Cell]:
    """The cells of a part other than the search, seed by seed, so that an unfinished study is a smaller one.

    rates: learning rate by learner, from the search.
    """
    if part not in PARTS[1:]:
        raise ValueError(f"part {part!r} is not one of {', '.join(PARTS[1:])}")
    if settings.seeds > MOST_SEEDS:
        raise ValueError(f"{settings.seeds} seeds; at most {MOST_SEEDS}")
    assert set(settings.learners) <= set(LEARNERS)
    for seed in range(settings.seeds):
        for shift in settings.shifts:
            if part == "steps":
                yield Cell(part, "base", shift, seed, 0, 0.0)
            for learner, episodes in _of_part(part, settings):
                yield Cell(part, learner, shift, seed, episodes, rates[learner])


def _of_part(part: str, settings: StudySettings) -> Iterator[tuple[str, int]]:
    match part:
        case "steps":
            yield from ((learner, settings.episodes) for learner in settings.learners)
        case "wall":
            # The shared layers set the time, in "steps".
            yield from ((learner, settings.episodes) for learner in settings.learners if learner != "shared")
        case "episodes":
            yield from ((learner, n) for learner in settings.learners for n in settings.counts)
        case _:
            yield from (
                (learner, settings.episodes) for learner in DEPTHS if learner not in settings.learners
            )


def best_rates(rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """By learner, the rate with the highest mean merit over the search's rows; the smaller one of equals."""
    merits: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        if row["part"] == "search":
            merits.setdefault((str(row["learner"]), float(str(row["rate"]))), []).append(merit(row))
    best: dict[str, tuple[float, float]] = {}
    for (learner, rate), values in sorted(merits.items()):
        mean = sum(values) / len(values)
        if learner not in best or mean > best[learner][0]:
            best[learner] = (mean, rate)
    return {learner: rate for learner, (_, rate) in best.items()}


def at_best_rates(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of all parts but the search that were trained at the rates that the search finds now."""
    rates = best_rates(rows)
    return [
        row
        for row in rows
        if row["part"] != "search" and (row["learner"] == "base" or row["rate"] == rates.get(row["learner"]))
    ]


def merit(row: Mapping[str, object]) -> float:
    """What the search maximises: mean of completion, completion at a slow decision time, following and "stop" obeyed
    by the model alone, less the lane error (3 cm cost as much as a tenth of a lap)."""

    def of(name: str) -> float:
        return float(str(row[name]))

    driven = of("completion") + of("slow_completion") + of("following") + of("stop_model")
    return driven / 4 - of("lane_error_m") / 1.2
