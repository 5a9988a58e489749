"""`continuonbrain episodes stats`: what a whole memory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.episodes_common import found, print_json, progress_bar
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.measures import Histogram, Quantiles, Tally, bars
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.rlds.statistics import MemoryStatistics, gather

_SHOWN = 8
"""Names of a tally, and episodes that are not whole, that are printed; `--json` has them all."""
_WIDTH = 25
"""Blocks of a distribution: with it the table fits 80 columns."""


def stats(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="An episode, a folder of them, or a brain root; the root's memory when left out."
        ),
    ] = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Statistics of a whole memory: actions, times, interventions, and what training would leave out."""
    # The group registers this command, so it is loaded by now, and cannot be imported above.
    where = open_brain(root).layout.episodes_dir if path is None else found(path, root)
    if path is not None and not where.exists():
        raise EpisodeError(
            "there is no such folder",
            file=where,
            remedy="give an episode, a folder of episodes, or a brain root with --root DIR",
        )
    inner = list_episodes(where)
    paths = inner or ([where] if path is not None else [])
    with progress_bar("reading episodes", hidden=as_json) as progress:
        statistics = gather(paths, progress=progress)
    if as_json:
        print_json({"path": str(where), **statistics.to_json()})
        return
    console = Console(highlight=False)
    if not paths:
        console.print(
            f"no episodes in {where} yet: record some (continuonbrain run --root {root}) or import a tub",
            soft_wrap=True,
        )
        return
    console.print(Text(str(where)), soft_wrap=True)
    _print(console, statistics)


def _print(console: Console, found: MemoryStatistics) -> None:
    console.print(
        f"{found.episodes} episodes, {found.steps} steps, {found.frames} frames, "
        f"{found.seconds / 3600:.2f} h, {_bytes(found.bytes)}"
    )
    longest = found.length_s.at(1.0)
    if longest is not None:
        console.print(
            f"length of an episode: median {found.length_s.at(0.5) or 0:.1f} s, longest {longest:.1f} s; "
            f"{found.terminal} of {found.episodes} ended because the task did",
            soft_wrap=True,
        )
    for title, episodes in (("drivers", found.driver_episodes), ("labels", found.label_episodes)):
        if len(episodes):
            console.print(Text(f"{title}: {_counts(episodes)}"), soft_wrap=True)
    if found.marked_bad:
        console.print(f"marked as bad: {found.marked_bad}, nobody learns from them")
    for title, tally in (
        ("driven by", found.sources),
        ("instruction", found.instructions),
        ("adapter", found.adapters),
        ("environment", found.environments),
    ):
        if len(tally):
            console.print(Text(f"{title}: {_names(tally, found.steps)}"), soft_wrap=True)
    if found.steps:
        console.print()
        console.print(_signals(found))
    console.print()
    _print_interventions(console, found)
    _print_training(console, found)
    for row in found.not_whole[:_SHOWN]:
        console.print(
            Text(f"{row['state']}: {row['problem'] or row['path']}", style="yellow"), soft_wrap=True
        )
    bad = sum(count for state, count in found.states.ranked() if state != "whole")
    if bad > _SHOWN:
        console.print(f"and {bad - _SHOWN} more that are not whole (--json names them)")
    if any(row["state"] == "damaged" for row in found.not_whole):
        console.print("try: continuonbrain episodes doctor PATH")


def _signals(found: MemoryStatistics) -> Table:
    table = Table(
        "", "mean", "p50", "p99", "max", "distribution", "from", "to", box=None, padding=(0, 1, 0, 0)
    )
    table.columns[5].no_wrap = True
    for name, histogram in (("steering", found.steering), ("throttle", found.throttle)):
        table.add_row(
            name,
            f"{histogram.mean:.3f}",
            "",
            "",
            f"{histogram.maximum:.3f}",
            bars(histogram.counts),
            f"{histogram.low:g}",
            f"{histogram.high:g}{_beyond(histogram)}",
        )
    for name, quantiles in (
        ("speed m/s", found.speed),
        ("interval ms", found.interval_ms),
        ("path age ms", found.latency_ms),
        ("safety score", found.safety_score),
        ("surprise", found.surprise),
    ):
        table.add_row(name, *_quantile_cells(quantiles))
    return table


def _beyond(histogram: Histogram) -> str:
    beyond = histogram.below + histogram.above
    return f" ({beyond} beyond)" if beyond else ""


def _quantile_cells(quantiles: Quantiles) -> list[str]:
    if not quantiles.total:
        return ["", "", "", "", "not measured", "", ""]
    values = quantiles.to_json()
    low, high, counts = quantiles.shape(_WIDTH)
    cells = ["" if values[name] is None else f"{values[name]:.2f}" for name in ("mean", "p50", "p99", "max")]
    return [*cells, bars(counts), f"{low:.3g}", f"{high:.3g}"]


def _print_interventions(console: Console, found: MemoryStatistics) -> None:
    share = 1000 * found.intervened / found.steps if found.steps else 0.0
    console.print(f"guard: {found.intervened} steps changed or flagged, {share:.1f} in 1,000")
    for name, rate in list(found.reasons_per_1000().items())[:_SHOWN]:
        console.print(Text(f"  {name}: {found.reasons[name]}, {rate:.1f} in 1,000"))
    if found.late or found.backwards:
        console.print(
            f"late steps (more than 1.5 median intervals): {found.late}; time ran backwards: {found.backwards}",
            soft_wrap=True,
        )
    dropped = max(found.dropped_marked, found.dropped_recorded)
    if dropped:
        console.print(
            f"dropped by the recorder: {dropped} steps, {found.dropped_marked} of them before a step that names them",
            soft_wrap=True,
        )


def _print_training(console: Console, found: MemoryStatistics) -> None:
    console.print(f"training can learn from {found.learned_from} of {found.steps} steps")
    for why, count in found.left_out.ranked():
        if count:
            console.print(Text(f"  left out, {why}: {count}"))


def _counts(tally: Tally) -> str:
    ranked = tally.ranked()
    shown = ", ".join(f"{name} ({count})" for name, count in ranked[:_SHOWN])
    return shown + (f", and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else "")


def _names(tally: Tally, steps: int) -> str:
    ranked = tally.ranked()
    shown = ", ".join(f"{name} {100 * count / max(steps, 1):.1f} %" for name, count in ranked[:_SHOWN])
    return shown + (f", and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else "")


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
