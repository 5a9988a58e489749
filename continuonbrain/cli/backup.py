"""`continuonbrain backup`: copies of settings, adapters and history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.errors import BrainError
from continuonbrain.storage.backup import (
    backup_folder,
    backups,
    check_backup,
    restore,
    restore_of_base,
    slots_in,
)

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    """Copies of what a robot cannot learn again. The docked slow loop makes them; `consolidate` makes one now."""


@app.command("list")
def list_backups(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Every backup of a root and whether it is whole; 1 when one is not."""
    brain = open_brain(root)
    folder = backup_folder(brain.layout, brain.config.slow.backup_dir)
    found = [(path, check_backup(path)) for path in backups(folder)]
    if as_json:
        typer.echo(
            json.dumps(
                {"backups": [{"path": str(p), "whole": not wrong, "problems": wrong} for p, wrong in found]},
                indent=2,
            )
        )
    elif not found:
        typer.echo(f"no backup in {folder} yet; next: continuonbrain consolidate --root {brain.layout.root}")
    else:
        table = Table("backup", "")
        for path, wrong in found:
            table.add_row(str(path), f"[red]{wrong[0]}[/red]" if wrong else "[green]whole[/green]")
        Console(highlight=False, soft_wrap=True).print(table)
    if any(wrong for _, wrong in found):
        raise typer.Exit(1)


@app.command("restore")
def restore_backup(
    backup: Annotated[Path, typer.Argument(help="The backup's folder, as `backup list` names it.")],
    root: Annotated[Path, typer.Option("--root", help="Where to: a root without settings and adapters yet.")],
    base: Annotated[
        str | None,
        typer.Option(
            "--base", help="Only what was learned on this imported base, into a root that has the base again."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a backup into a new root. Nothing that is there is overwritten; episodes and base models are not in it."""
    if not backup.is_dir():
        raise BrainError(f"there is no folder {backup}", remedy="see: continuonbrain backup list --root ROOT")
    if base is not None:
        count = restore_of_base(backup, open_brain(root, slot="").layout, base)
        if as_json:
            typer.echo(json.dumps({"files": count, "root": str(root), "base": base, "bases": []}))
            return
        typer.echo(
            f"{count} files of base {base} restored; next: continuonbrain base verdict {base} --root {root}"
        )
        return
    count = restore(backup, root.expanduser().absolute())
    if as_json:
        told = {"files": count, "root": str(root), "base": "", "bases": list(slots_in(backup))}
        typer.echo(json.dumps(told))
        return
    typer.echo(f"{count} files restored; next: continuonbrain init --root {root} (puts a base model there)")
    for slot in slots_in(backup):
        typer.echo(
            f"then, for what was learned on base {slot}: continuonbrain cloud import ITS_BUNDLE --root {root}, and "
            f"continuonbrain backup restore {backup} --root {root} --base {slot}"
        )
