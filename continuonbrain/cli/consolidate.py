"""`continuonbrain consolidate`: one docked round of the slow loop, now."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.cli.train import bars, interruptible, parked_host
from continuonbrain.loops.mid import MidLoop
from continuonbrain.loops.slow import SlowLoop, SlowReport

_COLOURS = {"done": "green", "refused": "yellow", "failed": "red"}


def consolidate(
    root: RootOption = DEFAULT_ROOT,
    simulate_host: Annotated[
        bool,
        typer.Option(
            "--simulate-host", help="Take the readings of a docked, idle, cool robot (no robot runs here)."
        ),
    ] = False,
    docked: Annotated[
        bool,
        typer.Option(
            "--docked", help="I say that it is plugged in: for a robot that does not feel its dock."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check, remember what was learned, fold it into the slow adapter, back up. A docked robot does so by itself.

    Ends with 1 when a gate is closed, or when a part failed.
    """
    brain = open_brain(root)
    flags = [f for f, on in (("--simulate-host", simulate_host), ("--docked", docked)) if on]
    command = shlex.join(["continuonbrain", "consolidate", "--root", str(brain.layout.root), *flags])
    console = Console(highlight=False, stderr=as_json)
    with parked_host(brain, insist=simulate_host) as host, bars(console) as show:
        mid = MidLoop(brain, host=host, on_status=show)
        report = interruptible(mid, command, lambda: SlowLoop(mid, docked=docked).round())
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        _print(console, report, str(brain.layout.root))
    if report.waiting or any(p.outcome == "failed" for p in report.parts):
        raise typer.Exit(1)


def _print(console: Console, report: SlowReport, root: str) -> None:
    table = Table(show_header=False)
    for part in report.parts:
        colour = _COLOURS.get(part.outcome, "dim")
        table.add_row(part.name, f"[{colour}]{part.outcome}[/{colour}]", escape(part.detail))
    if report.parts:
        console.print(table)
    failed = next((p for p in report.parts if p.outcome == "failed"), None)
    if report.waiting:
        console.print(f"[yellow]not done[/yellow]: {escape(report.waiting)}", soft_wrap=True)
        console.print(
            "next: dock it and let it rest; a robot that does not feel its dock: --docked; where none runs: "
            "--simulate-host"
        )
    elif failed is not None and failed.name == "check":
        console.print(f"next: continuonbrain episodes doctor {root}/rlds/episodes")
    else:
        console.print(f"next: continuonbrain adapters list --root {root}")
