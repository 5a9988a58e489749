"""`continuonbrain episodes export`: episodes for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from continuonbrain.cli.episodes_common import disk_errors, found, print_json, progress_bar
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.rlds.flat import export_flat
from continuonbrain.rlds.lerobot import export_lerobot
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.tfds import export_step_records, export_tfds


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
    """Export episodes for other tools."""
    path = found(path, root)
    episodes = list_episodes(path, finished_only=True) or [path]
    with disk_errors(out), progress_bar("exporting episodes", hidden=as_json) as progress:
        if form is ExportFormat.TFDS:
            written = export_tfds(episodes, out, name=name, version=version, progress=progress)
            result = {
                "path": str(written.path),
                "episodes": written.episodes,
                "steps": written.steps,
                "bytes": written.bytes,
                "left_out": list(written.left_out),
            }
        elif form is ExportFormat.LEROBOT:
            result = export_lerobot(episodes, out, name=name, progress=progress).to_json()
        else:
            out.mkdir(parents=True, exist_ok=True)
            as_json_files = form is ExportFormat.JSON
            write, suffix = (export_flat, ".json") if as_json_files else (export_step_records, ".tfrecord")
            steps = 0
            for number, folder in enumerate(episodes):
                steps += write(open_episode(folder), out / f"{folder.stem}{suffix}")
                progress(number + 1, len(episodes))
            result = {"path": str(out), "episodes": len(episodes), "steps": steps}
    if as_json:
        print_json(result)
        return
    Console(highlight=False).print(
        f"{result['episodes']} episodes, {result['steps']} steps -> {result['path']}", soft_wrap=True
    )
