"""`continuonbrain model build-...`: the tiny base and its heads, trained from the simulator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from continuonbrain.cli.model_card import print_card
from continuonbrain.cli.root_option import JsonOption


def build_tiny_command(
    out: Annotated[Path, typer.Argument(help="Folder to write the base into.")],
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    chunks: Annotated[
        int | None,
        typer.Option("--chunks", min=1, help="Chunks of 512 states for the whole model.", show_default=False),
    ] = None,
    trunk_chunks: Annotated[
        int | None,
        typer.Option("--trunk-chunks", min=1, help="... for the image trunk.", show_default=False),
    ] = None,
    reflex_chunks: Annotated[
        int | None,
        typer.Option("--reflex-chunks", min=1, help="... for the reflex head.", show_default=False),
    ] = None,
    shared_layers: Annotated[
        int, typer.Option("--shared-layers", min=1, max=6, help="KV-shared layers, of 8 (for studies).")
    ] = 4,
    as_json: JsonOption = False,
) -> None:
    """Train the tiny driving base from the simulator (seeded; under an hour on two cores) and score it."""
    from continuonbrain.trainer.build_tiny import Recipe, build_tiny

    default = Recipe()
    recipe = Recipe(
        seed=seed,
        chunks=chunks or default.chunks,
        trunk_chunks=trunk_chunks or default.trunk_chunks,
        shared_layers=shared_layers,
        reflex=replace(default.reflex, chunks=reflex_chunks or default.reflex.chunks),
    )
    console = Console(stderr=as_json, highlight=False)
    with _reporting(console) as report:
        card = build_tiny(out, recipe, report)
    if as_json:
        typer.echo(json.dumps(card))
        return
    print_card(console, out, card)


def build_reflex_command(
    base: Annotated[Path, typer.Argument(help="A driving base's folder; its reflex head is replaced.")],
    as_json: JsonOption = False,
) -> None:
    """Train a driving base's reflex head from the simulator (seeded; some minutes) and score it."""
    from continuonbrain.trainer.build_reflex import ReflexRecipe, build_reflex

    console = Console(stderr=as_json, highlight=False)
    with _reporting(console) as report:
        section = build_reflex(base, ReflexRecipe(), report)
    if as_json:
        typer.echo(json.dumps(section))
        return
    print_card(console, base, section)


def build_safety_command(
    out: Annotated[Path, typer.Argument(help="Folder to write the head and its card into.")],
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    parts: Annotated[
        int | None,
        typer.Option("--parts", min=1, help="Parts of some 7,000 states each.", show_default=False),
    ] = None,
    scores_only: Annotated[
        bool, typer.Option("--scores-only", help="Score the head that is there; train nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the safety head from the simulator (seeded; some twenty minutes on two cores) and score it."""
    from continuonbrain.trainer.build_safety import SafetyRecipe, build_safety, score_again

    recipe = SafetyRecipe(seed=seed, parts=parts or SafetyRecipe().parts)
    console = Console(stderr=as_json, highlight=False)
    with _reporting(console) as report:
        card = score_again(out, report) if scores_only else build_safety(out, recipe, report)
    if as_json:
        typer.echo(json.dumps(card))
        return
    table = Table(
        "world", "AUROC", "as bought", "false alarms at 95 %", "calibration error", title=f"safety head {out}"
    )
    for name, found in card["scores"].items():
        known, bought = found["calibrated"], found["as_bought"]
        table.add_row(
            name,
            f"{known['auroc']:.3f}",
            f"{bought['auroc']:.3f}",
            f"{known['false_alarms_at_95']:.3f}",
            f"{known['calibration_error']:.3f}",
        )
    console.print(table)


def build_world_command(
    out: Annotated[Path, typer.Argument(help="Folder to write the head and its card into.")],
    safety: Annotated[
        Path | None,
        typer.Option(
            "--safety",
            help="Folder of the safety head whose grids it reads. Default: the shipped one.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    parts: Annotated[
        int | None,
        typer.Option("--parts", min=1, help="Parts of some 2,900 states each.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a world head from the simulator (seeded; some half an hour on two busy cores) and score it."""
    from continuonbrain.storage.layout import shipped_safety_head
    from continuonbrain.trainer.build_world import WorldRecipe, build_world

    recipe = WorldRecipe(seed=seed, parts=parts or WorldRecipe().parts)
    console = Console(stderr=as_json, highlight=False)
    with _reporting(console) as report:
        card = build_world(out, safety or shipped_safety_head(), recipe, report)
    if as_json:
        typer.echo(json.dumps(card))
        return
    table = Table(
        "world", "AUROC", "as bought", "grid error", "if unchanged", "if moved", title=f"world head {out}"
    )
    for name, found in card["scores"].items():
        known = found["calibrated"]
        table.add_row(
            name,
            f"{known['auroc']:.3f}",
            f"{found['as_bought']['auroc']:.3f}",
            f"{known['feature_error']:.4f}",
            f"{known['feature_error_unchanged']:.4f}",
            f"{known['feature_error_moved']:.4f}",
        )
    console.print(table)


@contextmanager
def _reporting(console: Console) -> Iterator[Callable[[str, int, int, float], None]]:
    """A bar for every stage, or a line for every tenth where nobody watches."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, TaskID] = {}
        told: dict[str, int] = {}

        def report(stage: str, step: int, total: int, loss: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, note="")
            bar.update(tasks[stage], completed=step, note=f"loss {loss:.4f}")
            tenth = 10 * step // total
            if not console.is_terminal and tenth > told.get(stage, -1):  # a log file shows no bar
                told[stage] = tenth
                console.print(f"{stage} {step}/{total} loss {loss:.4f}")

        yield report
