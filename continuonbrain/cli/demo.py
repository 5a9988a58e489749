"""`continuonbrain demo`: the whole story in a few minutes, on the embedded simulator and the shipped tiny base."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from continuonbrain.cli.root_option import JsonOption
from continuonbrain.cli.verdict_table import imitation_table, verdict_table
from continuonbrain.demo.narrator import Narrator
from continuonbrain.demo.settings import DemoSettings
from continuonbrain.demo.shifts import STORIES
from continuonbrain.demo.story import Demo
from continuonbrain.trainer.gates import GateReport


def demo(
    shift: Annotated[str, typer.Option("--shift", help=f"What changed: {', '.join(STORIES)}.")] = "tape",
    seed: Annotated[int, typer.Option("--seed", min=0, max=9, help="Other tracks, other lessons.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A third of the tracks, half of the training: a first look.")
    ] = False,
    decision_time: Annotated[
        float, typer.Option("--decision-time", min=0.0, max=2.0, help="Seconds imposed on every decision.")
    ] = 0.0,
    out: Annotated[Path, typer.Option("--out", help="Folder for report.json and demo.png.")] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Drive badly, teach, train on the device, prove, promote live, drive well."""
    if quick:
        settings = DemoSettings.quick(shift, seed, decision_time)
    else:
        settings = DemoSettings(shift, seed, decision_time_s=decision_time)
    if as_json:
        typer.echo(json.dumps(Demo(settings, out, Narrator()).play()))
        return
    signal.signal(signal.SIGTERM, _as_ctrl_c)  # a closed terminal ends it in the same good order
    console = Console(highlight=False)
    with Teller(console) as teller:
        Demo(settings, out, teller).play()
    console.print(f"\nreport: {out / 'report.json'}   picture: {out / 'demo.png'}")
    console.print(
        f"next: continuonbrain adapters show --root {out / 'brain'}   or: continuonbrain run --root {out / 'brain'}"
    )


def _as_ctrl_c(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


class Teller(Narrator):
    """Tells the story on a terminal: headlines, one progress bar at a time, tables."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._title, self._note, self._began = "", "", 0.0
        self._task: Any = None

    def __enter__(self) -> Teller:
        self._bar.start()
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        if kind is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
            self._console.print(f"  [yellow]interrupted[/yellow] {self._title}")
        self._finish()
        self._bar.stop()

    def act(self, number: int, title: str) -> None:
        self._finish()
        self._console.print(f"\n[bold]{number}. {title}[/bold]")

    def say(self, text: str) -> None:
        self._finish()
        self._console.print(f"  {text}")

    def progress(self, title: str, done: int, total: int, note: str = "") -> None:
        if title != self._title:
            self._finish()
            self._title, self._began = title, time.monotonic()
            self._task = self._bar.add_task(title, total=total, note=note)
        self._note = note
        self._bar.update(self._task, completed=done, total=total, note=note)

    def _finish(self) -> None:
        """Turn the running bar into a line of the story."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            took = time.monotonic() - self._began
            note = f"  {self._note}" if self._note else ""
            self._console.print(f"  [green]✓[/green] {self._title} [dim]{took:.0f} s{note}[/dim]")
            self._task, self._title = None, ""

    def gates(self, title: str, report: GateReport) -> None:
        self._finish()
        table = Table(title=f"gates {title}", title_justify="left", show_header=False)
        for state in report.states:
            light = "[green]open[/green]" if state.open else "[red]closed[/red]"
            table.add_row(state.name, light, state.reason)
        self._console.print(table)

    def verdict(self, verdict: dict[str, Any]) -> None:
        self._finish()
        self._console.print(verdict_table(verdict))
        self._console.print(imitation_table(verdict))

    def scores(self, report: dict[str, Any]) -> None:
        self._finish()
        before, after = report["before"], report["after"]
        table = Table(
            title=f"{after['tracks']} held-out tracks, none of them the verdict's", title_justify="left"
        )
        for column in ("", "before", "after"):
            table.add_column(column)
        table.add_row("completion (of a lap)", f"{before['completion']:.0%}", f"{after['completion']:.0%}")
        table.add_row(
            "whole laps", f"{before['laps']}/{before['tracks']}", f"{after['laps']}/{after['tracks']}"
        )
        table.add_row(
            "lane error",
            f"{before['lateral_error_m'] * 100:.1f} cm",
            f"{after['lateral_error_m'] * 100:.1f} cm",
        )
        table.add_row("instructions obeyed", f"{before['following']:.0%}", f"{after['following']:.0%}")
        table.add_row("stop obeyed", f"{before['stop']:.0%}", f"{after['stop']:.0%}")
        roads, seconds = report["unshifted"], report["pi_decision_time_s"]
        table.add_section()
        table.add_row(
            f"completion at {seconds} s a decision",
            f"{before['completion_at_pi_speed']:.0%}",
            f"{after['completion_at_pi_speed']:.0%}",
        )
        table.add_row(
            "  the same without the reflex head", "-", f"{after['completion_at_pi_speed_by_paths_alone']:.0%}"
        )
        table.add_section()
        table.add_row("unshifted tracks: completion", f"{roads['before']:.0%}", f"{roads['after']:.0%}")
        table.add_row(
            f"  at {seconds} s a decision",
            f"{roads['before_at_pi_speed']:.0%}",
            f"{roads['after_at_pi_speed']:.0%}",
        )
        self._console.print(table)
        training = report["training"]
        cut = (
            " (then the time was up: a busy or slow machine)" if training.get("ended") == "wall time" else ""
        )
        self._console.print(
            f"  trained {training.get('steps', 0)} steps{cut} on {training.get('samples', 0)} samples, "
            f"and the reflex head {training.get('reflex_steps', 0)} steps, in {training.get('wall_s', 0):.0f} s "
            f"({training.get('peak_rss_mib', 0):.0f} MiB peak); {report['swap']['missed_ticks']} control ticks missed "
            f"in the live drive with the swap; {report['wall_s']:.0f} s in all"
        )
