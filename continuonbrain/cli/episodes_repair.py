"""`continuonbrain episodes repair`: the whole steps of damaged episodes into a new folder, the rest set aside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from continuonbrain.cli.episodes_common import disk_errors, found, print_json, progress_bar
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.rlds.repair import Repaired
from continuonbrain.rlds.repair import repair as repair_episodes

_SHOWN = 20
"""Things set aside that are named on the screen; report.json names all."""


def repair(
    path: Annotated[Path, typer.Argument(help="An episode, a folder of them, or a name that `list` prints.")],
    out: Annotated[Path, typer.Argument(help="The new folder: it must not exist.")],
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Keep every whole step in a new folder, set the rest aside, touch nothing; exit code 1 when no step is kept."""
    # Here, because that module registers this command.
    path = found(path, root)
    with disk_errors(out), progress_bar("repairing episodes", hidden=as_json) as progress:
        results = repair_episodes(path, out, progress=progress)
    kept = sum(result.steps_kept for result in results)
    if as_json:
        print_json(
            {
                "path": str(path),
                "out": str(out),
                "steps_kept": kept,
                "episodes": [r.to_json() for r in results],
            }
        )
    else:
        console = Console(highlight=False)
        for result in results:
            _print(result, console)
        console.print(Text(f"check it: continuonbrain episodes doctor {out}"), soft_wrap=True)
    if not kept:
        raise typer.Exit(1)


def _print(result: Repaired, console: Console) -> None:
    style = {"copied": "green", "repaired": "yellow"}.get(result.action, "red")
    console.print(Text.assemble((result.action, style), f" {result.source}"), soft_wrap=True)
    for text in result.done:
        console.print(Text(f"  {text}"), soft_wrap=True)
    for item in result.aside[:_SHOWN]:
        step = "" if item.step is None else f", step {item.step}"
        place = f"{item.file}{step}, bytes {item.start}-{item.end}, {item.field}"
        console.print(Text(f"  aside: {place}: {item.problem}"), soft_wrap=True)
    if len(result.aside) > _SHOWN:
        console.print(f"  and {len(result.aside) - _SHOWN} more")
    if result.aside_path:
        console.print(Text(f"  set aside in {result.aside_path}"), soft_wrap=True)
    for episode in result.episodes:
        console.print(Text(f"  -> {episode}"), soft_wrap=True)
