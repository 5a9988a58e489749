"""`continuonbrain episodes`: import, list, show, check and export what the robot remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.episodes_any import EpisodeOption, show_any
from continuonbrain.cli.episodes_common import disk_errors, found, print_json, progress_bar
from continuonbrain.cli.episodes_export import export
from continuonbrain.cli.episodes_prune import prune
from continuonbrain.cli.episodes_render import render
from continuonbrain.cli.episodes_repair import repair
from continuonbrain.cli.episodes_share import share
from continuonbrain.cli.episodes_stats import stats
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.rlds.doctor import examine
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.finding import ERROR
from continuonbrain.rlds.marking import driver_of, instruction_of, is_bad
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.summary import EpisodeSummary, summarise
from continuonbrain.rlds.tub import import_tub as import_tub_folder
from continuonbrain.rlds.tub_records import TubReport
from continuonbrain.storage.plain_text import printable

app = typer.Typer(add_completion=False, no_args_is_help=True, help="What the robot remembers.")
for command in (export, prune, render, repair, share, stats):
    app.command()(command)

EpisodePath = Annotated[
    Path, typer.Argument(help="An episode's folder, a flat JSON episode, or a name that `list` prints.")
]


_SHOWN = 5
"""Episodes listed by name after an import."""


@app.command("import-tub")
def import_tub(
    path: Annotated[Path, typer.Argument(help="The tub's folder: it holds manifest.json, or record_*.json.")],
    root: RootOption = DEFAULT_ROOT,
    instruction: Annotated[str, typer.Option(help="What the driver was doing.")] = "drive",
    max_steps: Annotated[
        int, typer.Option(help="Longer drives are cut into episodes of so many steps (60 are 3 s).", min=2)
    ] = 60,
    as_json: JsonOption = False,
) -> None:
    """Import the recordings of a donkeycar."""
    brain = open_brain(root)
    episodes_dir, bounds = brain.layout.episodes_dir, brain.config.guards.throttle_bounds
    with disk_errors(episodes_dir), progress_bar("importing records", hidden=as_json) as progress:
        report = import_tub_folder(
            path,
            episodes_dir,
            instruction=instruction,
            max_steps_per_episode=max_steps,
            progress=progress,
            throttle_bounds=bounds,
        )
    if as_json:
        print_json(report.to_json())
        return
    console = Console(highlight=False)
    console.print(
        f"{report.steps} of {report.records} records became {len(report.episodes)} episodes "
        f"in {report.wall_s:.1f} s",
    )
    left_out = {
        "imported earlier": report.already_imported,
        "deleted in the tub": report.deleted,
        "image missing": report.missing_images,
        "image corrupt": report.corrupt_images,
        "no usable action": report.bad_records,
    }
    for why, count in left_out.items():
        if count:
            console.print(f"  left out, {why}: {count}")
    if report.resized:
        console.print(f"  images converted to 160x120: {report.resized}")
    if report.clipped:
        console.print(f"  actions clipped to [-1, 1]: {report.clipped}")
    if report.timestamps != "tub":
        spacing = "" if report.median_spacing_ms is None else f", {report.median_spacing_ms:g} ms apart"
        console.print(f"  the tub's timestamps are not real time{spacing}: 50 ms a step assumed")
    for note in report.notes:
        console.print(f"  note: {note}", markup=False)
    console.print("  steering was negated: donkeycar's +1 is right, here +1 is left")
    for episode in report.episodes[:_SHOWN]:
        console.print(f"  {episode}", soft_wrap=True, markup=False)
    if len(report.episodes) > _SHOWN:
        console.print(f"  and {len(report.episodes) - _SHOWN} more")
    if report.beyond_bounds:
        console.print(_too_fast(report, bounds, brain.layout.config_path), soft_wrap=True, markup=False)
    parked = "" if brain.config.robot.kind == "sim-donkey" else " --simulate-host"
    console.print(f"next: continuonbrain train --root {root}{parked}", soft_wrap=True)


def _too_fast(report: TubReport, bounds: tuple[float, float], config_path: Path) -> str:
    low, high = bounds
    share = report.beyond_bounds / report.with_image
    text = f"  driven outside of guards.throttle_bounds {low:g} .. {high:g}: {share:.0%} of the records"
    if report.fastest > high:
        text += f", up to {report.fastest:.2f}"
    return (
        f"{text}. The guard will drive what is learned from them at its bound: where this robot may drive so fast, "
        f"raise the bounds in {config_path} before training; else nothing is to be done"
    )


@app.command("list")
def list_command(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """List the episodes of a brain root: who drove, to what label, where, and whether a person marked it as bad."""
    rows = [_row(path) for path in list_episodes(open_brain(root).layout.episodes_dir)]
    if as_json:
        print_json({"episodes": rows})
        return
    console = Console(highlight=False)
    if not rows:
        console.print(f"no episodes yet: record some (continuonbrain run --root {root}) or import a tub")
        return
    table = Table()
    table.add_column("episode", no_wrap=True, min_width=max(len(row["id"]) for row in rows))
    for heading in ("steps", "seconds", "driver", "label", "where", "state"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        seconds = "" if row["duration_s"] is None else f"{row['duration_s']:.1f}"
        state = f"{row['state']}, marked as bad" if row["bad"] else row["state"]
        words = (Text(cell) for cell in (row["driver"], row["label"], row["environment_id"], state))
        table.add_row(Text(row["id"]), str(row["steps"]), seconds, *words)
    console.print(table)


@app.command()
def show(
    path: EpisodePath,
    root: RootOption = DEFAULT_ROOT,
    episode: EpisodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sum up an episode: counts, ranges and a line for each signal; of a dataset of others, what is in it."""
    if show_any(found(path, root), episode, as_json=as_json):
        return
    summary = summarise(open_episode(found(path, root), strict=False))
    if as_json:
        print_json(summary.to_json())
    else:
        _print_summary(summary)


@app.command()
def doctor(
    path: Annotated[Path, typer.Argument(help="An episode, a folder of them, or a name that `list` prints.")],
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Check every line and frame; exit code 1 when data are lost or untrue."""
    path = found(path, root)
    if not path.exists():
        raise EpisodeError(
            "there is no such episode",
            file=path,
            remedy="give a folder, or a name that `continuonbrain episodes list --root DIR` prints, with its --root",
        )
    findings = examine(path)
    sick = any(finding.severity == ERROR for finding in findings)
    if as_json:
        print_json({"path": str(path), "healthy": not sick, "findings": [f.to_json() for f in findings]})
    else:
        console = Console(highlight=False)
        for finding in findings:
            place = ", ".join(
                [finding.file]
                + ([f"step {finding.step}"] if finding.step is not None else [])
                + ([finding.field] if finding.field else [])
            )
            style = "red" if finding.severity == ERROR else "yellow"
            console.print(
                Text.assemble((finding.severity, style), f" {place}: {finding.problem}"), soft_wrap=True
            )
            if finding.remedy:
                console.print(Text(f"  try: {finding.remedy}"), soft_wrap=True)
        if not findings:
            console.print("healthy")
    if sick:
        raise typer.Exit(1)


def _row(path: Path) -> dict[str, Any]:
    try:
        episode = open_episode(path, strict=False)
    except EpisodeError as error:
        return {
            "id": path.name,
            "path": str(path),
            "steps": 0,
            "duration_s": None,
            "driver": "",
            "label": "",
            "bad": False,
            "environment_id": "",
            "state": error.problem,
        }
    milliseconds = episode.metadata.duration_ms
    return {
        "id": episode.episode_id,
        "path": str(path),
        "steps": len(episode),
        "duration_s": None if milliseconds is None else milliseconds / 1000,
        "driver": driver_of(episode.metadata),
        "label": printable(instruction_of(episode.metadata)),
        "bad": is_bad(episode.metadata),
        "environment_id": episode.metadata.environment_id,
        "state": episode.torn or "whole",
    }


def _print_summary(summary: EpisodeSummary) -> None:
    console = Console(highlight=False)
    console.print(Text(f"{summary.episode_id}  {summary.path}"), soft_wrap=True)
    rate = "" if summary.step_ms is None else f", {summary.step_ms:.0f} ms a step"
    end = "terminal" if summary.terminal else "not terminal"
    console.print(
        f"{summary.steps} steps, {summary.frames} frames, {summary.duration_s:.1f} s{rate}, {end}",
        markup=False,
    )
    counts = {
        "instruction": {printable(words): count for words, count in summary.instructions.items()},
        "source": summary.sources,
        "guard": summary.reasons,
        "adapter": summary.adapters,
    }
    for title, counted in counts.items():
        if counted:
            console.print(Text(f"{title}: " + ", ".join(f"{name} ({n})" for name, n in counted.items())))
    if summary.clamped or summary.dropped:
        console.print(f"clamped by the guard: {summary.clamped}, dropped by the recorder: {summary.dropped}")
    if summary.torn:
        console.print(Text(f"ends early: {summary.torn}", style="yellow"), soft_wrap=True)
    table = Table("signal", "min", "mean", "max", "over time", box=None)
    for signal in summary.signals:
        if signal.minimum is None or signal.mean is None or signal.maximum is None:
            table.add_row(signal.name, "", "", "", "not measured")
        else:
            numbers = (f"{value:.3f}" for value in (signal.minimum, signal.mean, signal.maximum))
            table.add_row(signal.name, *numbers, signal.line)
    console.print(table)
