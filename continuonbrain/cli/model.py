"""`continuonbrain model`: rebuild the tiny base and show what a base is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from continuonbrain.cli.root_option import JsonOption

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Base models.")


@app.command("build-tiny")
def build_tiny_command(
    out: Annotated[Path, typer.Argument(help="Folder to write the base into.")],
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    chunks: Annotated[
        int, typer.Option("--chunks", min=1, help="Chunks of 512 states for the whole model.")
    ] = 0,
    trunk_chunks: Annotated[int, typer.Option("--trunk-chunks", min=1, help="... for the image trunk.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train the tiny driving base from the simulator (seeded; under an hour on two cores) and score it."""
    from continuonbrain.trainer.build_tiny import Recipe, build_tiny

    default = Recipe()
    recipe = Recipe(
        seed=seed, chunks=chunks or default.chunks, trunk_chunks=trunk_chunks or default.trunk_chunks
    )
    console = Console(stderr=as_json, highlight=False)
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, int] = {}

        def report(stage: str, step: int, total: int, loss: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, note="")
            bar.update(tasks[stage], completed=step, note=f"loss {loss:.4f}")  # type: ignore[arg-type]

        card = build_tiny(out, recipe, report)
    if as_json:
        typer.echo(json.dumps(card))
        return
    scores = card["scores"]
    console.print(f"{card['parameters']:,} parameters in {card['wall_s']:.0f} s; held-out tracks: {scores}")


@app.command("show")
def show(
    folder: Annotated[
        Path | None, typer.Argument(help="A base folder; the shipped tiny base without.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a base's identity and card."""
    from continuonbrain.model.base_identity import base_sha256, tiny_base_folder

    where = folder or tiny_base_folder()
    sha256 = base_sha256(where)
    card = json.loads((where / "card.json").read_text()) if (where / "card.json").exists() else {}
    if as_json:
        typer.echo(json.dumps({"folder": str(where), "sha256": sha256, "card": card}))
        return
    console = Console(highlight=False)
    console.print(f"{where}\nsha256 {sha256}")
    for key in ("name", "architecture", "parameters", "data", "scores", "wall_s"):
        if key in card:
            console.print(f"{key}: {card[key]}")
