"""The `--root` option that almost every command takes, and remedies that name it."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
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
        # A file here, or a folder of somebody else, is reported by the command, with a remedy.
        file_okay=True,
        readable=False,
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]

_TAKES_ROOT = re.compile(
    r"continuonbrain (?:init|run|pair|train|doctor|chat|serve|calibrate|"
    r"cloud (?:export|import|pack|pack-base)|base (?:list|verdict|switch|confirm|rollback)|"
    r"episodes share|adapters (?:list|show|rollback|confirm|promote|import|export)|"
    r"keys (?:list|new|trust|revoke))\b"
)


def root_given(argv: Sequence[str]) -> Path | None:
    """What a command line says of `--root`; None where it says nothing."""
    given = [argv[i + 1] for i, word in enumerate(argv[:-1]) if word == "--root"]
    given += [word.partition("=")[2] for word in argv if word.startswith("--root=")]
    return Path(given[-1]) if given else None


def on_this_root(remedy: str, root: Path | None) -> str:
    """The remedy with the `--root` that this command was given, so that it can be copied. Whoever raised it need not
    know that there are roots."""
    if root is None or "--root" in remedy:
        return remedy
    given = shlex.quote(str(root))
    return _TAKES_ROOT.sub(lambda found: f"{found.group()} --root {given}", remedy)


def as_owner(owner: str, argv: Sequence[str], environment: Mapping[str, str]) -> str:
    """This very command, to be run as another user. argv: its command line, program first."""
    program = Path(argv[0])
    # sudo looks for programs in its own path, and forgets the environment.
    called = (
        [str(program.absolute())]
        if program.name == "continuonbrain"
        else [sys.executable, "-m", "continuonbrain"]
    )
    root = environment.get(ROOT_ENVIRONMENT_VARIABLE)
    kept = [] if root is None or root_given(argv) is not None else [f"{ROOT_ENVIRONMENT_VARIABLE}={root}"]
    return shlex.join(["sudo", "-u", owner, *kept, *called, *argv[1:]])


__all__ = ["DEFAULT_ROOT", "JsonOption", "RootOption", "as_owner", "on_this_root", "root_given"]
