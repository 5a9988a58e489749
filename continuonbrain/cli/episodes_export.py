"""`continuonbrain episodes export`: episodes for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from continuonbrain.cli.episodes_common import disk_errors, found, print_json, progress_bar
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.rlds.export_choice import choose_episodes, export_each
from continuonbrain.rlds.flat import export_flat
from continuonbrain.rlds.lerobot import export_lerobot
from continuonbrain.rlds.tfds import export_step_records, export_tfds

_NAMED = 5
"""Episodes that are left out and named on the screen; --json names all."""


class ExportFormat(StrEnum):
    """What `export` writes."""

    TFDS = "tfds"
    STEPS = "steps"
    LEROBOT = "lerobot"
    JSON = "json"


def export(
    path: Annotated[Path, typer.Argument(help="An episode, or a folder of episodes.")],
    out: Annotated[Path, typer.Argument(help="Folder to write into.")],
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="tfds: an RLDS folder; steps: a TFRecord each; json: flat JSON, frames beside; lerobot: LeRobot v3.",
        ),
    ] = ExportFormat.TFDS,
    name: Annotated[str, typer.Option(help="Name of the dataset.")] = "continuonbrain",
    version: Annotated[str, typer.Option(help="Version of the dataset.")] = "1.0.0",
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Export episodes for other tools. Unfinished and empty ones are left out and named, a damaged one is refused."""
    choice = choose_episodes(found(path, root))
    episodes = choice.episodes
    with disk_errors(out), progress_bar("exporting episodes", hidden=as_json) as progress:
        if form is ExportFormat.TFDS:
            written = export_tfds(episodes, out, name=name, version=version, progress=progress)
            result = {
                "path": str(written.path),
                "episodes": written.episodes,
                "steps": written.steps,
                "bytes": written.bytes,
            }
        elif form is ExportFormat.LEROBOT:
            result = export_lerobot(episodes, out, name=name, progress=progress).to_json()
        else:
            as_json_files = form is ExportFormat.JSON
            write, suffix = (export_flat, ".json") if as_json_files else (export_step_records, ".tfrecord")
            steps = export_each(episodes, out, write, suffix, progress)
            result = {"path": str(out), "episodes": len(episodes), "steps": steps}
    if as_json:
        print_json({**result, "left_out": [item.to_json() for item in choice.left_out]})
        return
    console = Console(highlight=False)
    console.print(
        f"{result['episodes']} episodes, {result['steps']} steps -> {result['path']}", soft_wrap=True
    )
    if choice.left_out:
        named = "; ".join(f"{item.episode}: {item.reason}" for item in choice.left_out[:_NAMED])
        more = f"; and {len(choice.left_out) - _NAMED} more" if len(choice.left_out) > _NAMED else ""
        console.print(
            Text(f"left out, {len(choice.left_out)} episodes: {named}{more}", style="yellow"), soft_wrap=True
        )
