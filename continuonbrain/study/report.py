"""A study's results as a table for people and a picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from continuonbrain.study.learners import LEARNERS
from continuonbrain.study.plan import DEPTHS, at_best_rates, best_rates, searched_rates

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Rows = Sequence[Mapping[str, Any]]
_TITLES = {
    "steps": "The same number of steps",
    "wall": "The same computing time (as the shared layers took)",
    "episodes": "Fewer lessons",
    "depth": "How deep",
}
_BESIDE = {"wall": ("base", "shared"), "depth": DEPTHS}
"""Learners whose rows of part "steps" stand beside a part's own."""
_HEADER = (
    "| shift | learner | lessons | laps | laps at 0.75 s | lane error, cm | following | stop by the model "
    "| old roads | steps | CPU seconds | seeds |"
)
_EARNEST_STEPS = 100
_LEGEND = (
    "Mean over seeds (least to most). laps: mean share of a lap before the car left the road; following: share of "
    'instructions obeyed; stop by the model: share of "stop" obeyed by the model\'s answers alone; old roads: laps on '
    "the roads that the base was made for; steps and CPU seconds (caching and training, one thread): the median."
)
_ORDER = ("base", *DEPTHS, *(name for name in LEARNERS if name not in DEPTHS))
_COLOURS = {
    "base": "#d0d7de",
    "shared": "#1f6feb",
    "shared-1": "#b6d6ff",
    "shared-2": "#6cb0ff",
    "plus-one": "#0a3069",
    "all": "#8250df",
    "connector": "#cf222e",
    "full": "#d9730d",
    "conv": "#1a7f37",
    "conv-scratch": "#8b949e",
}
_MEASURES = (
    ("completion", "laps driven"),
    ("slow_completion", "laps at 0.75 s a decision"),
    ("following", "instructions obeyed"),
    ("lane_error_m", "distance from the lane, m"),
)


def mean_and_range(rows: Rows, name: str) -> tuple[float, float, float]:
    """(mean, least, most) over rows, which are seeds."""
    values = [float(row[name]) for row in rows]
    return float(np.mean(values)), min(values), max(values)


def _edge(rate: float, tried: set[float]) -> str:
    if len(tried) == 1:
        return " (the only one tried)"
    return " (at the edge of what was tried)" if rate in (min(tried), max(tried)) else ""


def markdown(rows: Rows) -> str:
    """Every part as a table: mean over seeds, and the range in brackets."""
    out = [_LEGEND, ""]
    if any(r["steps"] < _EARNEST_STEPS for r in rows if "steps" in r and r["part"] == "steps"):
        out = ["**A quick study: hardly any steps, few roads. It proves nothing.**", "", *out]
    if rates := best_rates(rows):
        tried = searched_rates(rows)
        told = [f"{k} {v:g}{_edge(v, tried[k])}" for k, v in rates.items()]
        out += [f"Learning rates found: {', '.join(told)}.", ""]
    numbers = {r["learner"]: r["trainable_parameters"] for r in rows if "trainable_parameters" in r}
    if numbers:
        trained = ", ".join(f"{name} {numbers[name]:,}" for name in _ORDER if name in numbers)
        out += [f"Trained parameters: {trained}.", ""]
    rows = at_best_rates(rows) if rates else rows
    for part, title in _TITLES.items():
        chosen = _of_part(rows, part)
        if not chosen:
            continue
        out += [f"### {title}", ""]
        out += [
            _HEADER,
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        groups: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
        for row in chosen:
            groups.setdefault((row["shift"], row["learner"], row["episodes"]), []).append(row)
        shifts = list(dict.fromkeys(r["shift"] for r in chosen))
        places = {key: (shifts.index(key[0]), _ORDER.index(key[1]), key[2]) for key in groups}
        for (shift, learner, episodes), group in sorted(groups.items(), key=lambda item: places[item[0]]):
            out.append(
                f"| {shift} | {learner} | {episodes} | {_cell(group, 'completion')} "
                f"| {_cell(group, 'slow_completion')} | {_cell(group, 'lane_error_m', 100, 1)} "
                f"| {_cell(group, 'following')} | {_cell(group, 'stop_model')} "
                f"| {_cell(group, 'old_roads_completion')} | {_steps(group)} | {len(group)} |"
            )
        out.append("")
    return "\n".join(out)


def _of_part(rows: Rows, part: str) -> list[Mapping[str, Any]]:
    """A part's own rows, and those of part "steps" that belong beside them, on the same shifts."""
    own = [r for r in rows if r["part"] == part]
    shifts, learners = {r["shift"] for r in own}, {r["learner"] for r in own}
    beside: Collection[str] = learners if part == "episodes" else _BESIDE.get(part, ())
    return own + [r for r in rows if r["part"] == "steps" and r["learner"] in beside and r["shift"] in shifts]


def _cell(rows: Rows, name: str, times: float = 1, digits: int = 2) -> str:
    mean, low, high = (times * x for x in mean_and_range(rows, name))
    if f"{low:.{digits}f}" == f"{high:.{digits}f}":
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _steps(rows: Rows) -> str:
    if "steps" not in rows[0]:
        return "0 | 0"
    steps = np.median([r["steps"] for r in rows])
    early = [r["ended"] for r in rows if r["ended"] not in ("steps", "wall time")]
    why = f" ({len(early)} of {len(rows)} ended early: {', '.join(sorted(set(early)))})" if early else ""
    seconds = [r["cache_cpu_s"] + r["train_cpu_s"] for r in rows if "train_cpu_s" in r]
    return f"{steps:.0f}{why} | {np.median(seconds):.0f}" if seconds else f"{steps:.0f}{why} | "


def draw(rows: Rows, path: Path) -> None:
    """The parts "steps" and "wall" as bars by shift, with the range over seeds."""
    rows = at_best_rates(rows) if best_rates(rows) else rows
    parts = [p for p in ("steps", "wall") if any(r["part"] == p for r in rows)]
    if not parts:
        return
    figure, grid = plt.subplots(
        len(_MEASURES), len(parts), figsize=(6.5 * len(parts), 10), sharey="row", squeeze=False
    )
    for column, part in enumerate(parts):
        chosen = _of_part(rows, part)
        shifts = list(dict.fromkeys(r["shift"] for r in chosen))
        learners = [name for name in _ORDER if any(r["learner"] == name for r in chosen)]
        width = 0.85 / len(learners)
        for axes, (name, title) in zip(grid[:, column], _MEASURES, strict=True):
            for i, learner in enumerate(learners):
                for j, shift in enumerate(shifts):
                    group = [r for r in chosen if (r["learner"], r["shift"]) == (learner, shift)]
                    if not group:
                        continue
                    mean, low, high = mean_and_range(group, name)
                    x = j + (i - (len(learners) - 1) / 2) * width
                    label = learner if j == 0 else None
                    axes.bar(x, mean, width * 0.9, color=_COLOURS[learner], label=label)
                    axes.plot([x, x], [low, high], color="black", linewidth=0.8)
            axes.set_xticks(range(len(shifts)), shifts)
            axes.set_title(f"{title}: {_TITLES[part].lower()}", fontsize=9, loc="left")
            axes.set_xlabel("lines: least to most of the seeds" if name == _MEASURES[-1][0] else None)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].legend(fontsize=8, ncols=4, loc="upper left", bbox_to_anchor=(0, 1.45), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
