"""The `--root` option that almost every command takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from continuonbrain.storage.layout import DEFAULT_ROOT, ROOT_ENVIRONMENT_VARIABLE

RootOption = Annotated[
    Path,
    typer.Option(
        "--root",
        envvar=ROOT_ENVIRONMENT_VARIABLE,
        help="Brain root: where settings, adapters and episodes live.",
        file_okay=True,  # a file here is reported by the command, with a remedy
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]

__all__ = ["DEFAULT_ROOT", "JsonOption", "RootOption"]
