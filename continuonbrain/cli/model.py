"""`continuonbrain model`: show what a base is, and the commands that build, export and merge one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from continuonbrain.cli import model_build, model_export
from continuonbrain.cli.model_card import print_card
from continuonbrain.cli.root_option import JsonOption
from continuonbrain.errors import BrainError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Base models.")
for name, command in (
    ("build-tiny", model_build.build_tiny_command),
    ("build-reflex", model_build.build_reflex_command),
    ("build-safety", model_build.build_safety_command),
    ("build-world", model_build.build_world_command),
    ("export", model_export.export_command),
    ("merge", model_export.merge_command),
    ("export-app", model_export.export_app_command),
):
    app.command(name)(command)


@app.command("show")
def show(
    folder: Annotated[
        Path | None, typer.Argument(help="A base folder; the shipped tiny base without.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a base's identity and card."""
    from continuonbrain.model.base_identity import (
        base_sha256,
        check_base_files,
        checkpoint_sha256,
        is_driving_base,
        tiny_base_folder,
    )

    where = folder or tiny_base_folder()
    if not where.is_dir():
        raise BrainError(
            f"{where}: no such folder", remedy="give the folder of a base, or none for the shipped one"
        )
    # A folder without a config.json is no base of any kind: the driving ones' words say what it may be.
    sha256 = checkpoint_sha256(where) if (where / "config.json").is_file() else base_sha256(where)
    if is_driving_base(where):
        check_base_files(where)
    card = json.loads((where / "card.json").read_text()) if (where / "card.json").exists() else {}
    if as_json:
        typer.echo(json.dumps({"folder": str(where), "sha256": sha256, "card": card}))
        return
    console = Console(highlight=False)
    console.print(f"sha256 {sha256}", soft_wrap=True)
    if not is_driving_base(where):
        console.print(
            "it was not built to drive; it may answer in words: continuonbrain chat --base", soft_wrap=True
        )
    print_card(console, where, card)
