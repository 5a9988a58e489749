"""The `continuonbrain` command: a table of commands whose modules load only when they are called.

That keeps `continuonbrain --help` fast on a Pi, and lets the core run where torch is not installed. To add a
command, write `cli/<name>.py` and add a row to `COMMANDS`. A row names either a function in typer's style
(one command) or a `typer.Typer` (a group of commands).

Exit codes: 0 done; 1 the command ran and its answer is no (a check failed); 2 something a person must put
right (a `BrainError`, wrong usage); 130 Ctrl-C.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from continuonbrain import __version__
from continuonbrain.errors import BelongsToAnotherError, BrainError, told_from, told_from_import

EXIT_NEEDS_A_PERSON = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class LazyCommand:
    """One row of the table: where a command lives and what `--help` says about it."""

    name: str
    target: str
    help: str


COMMANDS: tuple[LazyCommand, ...] = (
    LazyCommand(
        "demo",
        "continuonbrain.cli.demo:demo",
        "The whole story: drive badly, record, learn on the device, prove, swap, drive well.",
    ),
    LazyCommand("init", "continuonbrain.cli.init:init", "Create a brain root from a preset."),
    LazyCommand("run", "continuonbrain.cli.run:run", "Drive, record, and learn when idle, until Ctrl-C."),
    LazyCommand(
        "mode",
        "continuonbrain.cli.mode:mode",
        "Who drives the running robot: autopilot, teleop, assisted, park; or stop it.",
    ),
    LazyCommand(
        "pair",
        "continuonbrain.cli.pair:pair",
        "The code that lets a browser of the LAN in; --new for another.",
    ),
    LazyCommand(
        "train", "continuonbrain.cli.train:train", "Train a candidate adapter from the episodes now."
    ),
    LazyCommand(
        "consolidate",
        "continuonbrain.cli.consolidate:consolidate",
        "What a docked robot does now: check, remember, consolidate, back up.",
    ),
    LazyCommand(
        "backup", "continuonbrain.cli.backup:app", "List, check and restore copies of what it has learned."
    ),
    LazyCommand(
        "adapters",
        "continuonbrain.cli.adapters:app",
        "List, show, roll back, exchange and convert what it has learned.",
    ),
    LazyCommand(
        "keys", "continuonbrain.cli.keys:app", "Whose signed adapters are taken; own keys to sign with."
    ),
    LazyCommand(
        "episodes", "continuonbrain.cli.episodes:app", "Import, show, check and export recorded episodes."
    ),
    LazyCommand(
        "cloud",
        "continuonbrain.cli.cloud:app",
        "Bundles for a bigger machine, where you have opted in. Nothing is sent.",
    ),
    LazyCommand(
        "base", "continuonbrain.cli.base:app", "Bases that came back: judge, switch to, go back from them."
    ),
    LazyCommand(
        "model",
        "continuonbrain.cli.model:app",
        "Base models: show, export for the robot or an app, build the tiny one.",
    ),
    LazyCommand(
        "chat",
        "continuonbrain.cli.chat:chat",
        "Talk to the base, with what the robot has learned in front of it.",
    ),
    LazyCommand("serve", "continuonbrain.cli.serve:serve", "The HTTP service for apps, on a Unix socket."),
    LazyCommand(
        "study",
        "continuonbrain.cli.study:study",
        "Compare ways of learning on the simulator's shifts (hours).",
    ),
    LazyCommand(
        "install",
        "continuonbrain.cli.install:install",
        "Start the brain with this computer: account, systemd units, device rules.",
    ),
    LazyCommand(
        "uninstall", "continuonbrain.cli.install:uninstall", "Take that away again; the brain root stays."
    ),
    LazyCommand(
        "calibrate",
        "continuonbrain.cli.calibrate:calibrate",
        "Find the pulses of a car's steering and throttle, wheels off the ground.",
    ),
    LazyCommand("doctor", "continuonbrain.cli.doctor:doctor", "Check this machine and a brain root."),
)


class CommandUnavailableError(BrainError):
    """The command exists but cannot be loaded in this installation."""


class LazyGroup(TyperGroup):
    """A command group that answers `--help` from the table and imports a command's module to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [row.name for row in COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        row = next((row for row in COMMANDS if row.name == cmd_name), None)
        return None if row is None else TyperCommand(row.name, help=row.help, callback=lambda: None)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not self.commands:  # typer suggests the nearest command from this mapping
            self.commands = {row.name: self.get_command(ctx, row.name) for row in COMMANDS}
        name, command, rest = super().resolve_command(ctx, args)
        row = next((row for row in COMMANDS if row.name == name), None)
        return name, command if row is None else _load(row), rest


def _load(row: LazyCommand) -> Any:
    """Import a command. Raises CommandUnavailableError."""
    module_name, _, attribute = row.target.partition(":")
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        missing = error.name or "a module"
        if missing == module_name:
            problem, remedy = "is not part of this installation", "install a newer continuonbrain"
        else:
            told = told_from_import(error)
            problem = f"needs the Python module {missing}, which is not installed"
            remedy = f"pip install {missing}" if told is None else told.remedy
        raise CommandUnavailableError(f"the command {row.name!r} {problem}", remedy=remedy) from error
    if isinstance(target, typer.Typer):
        group = target
    else:
        group = typer.Typer(add_completion=False)
        group.command(name=row.name, help=row.help)(cast(Callable[..., Any], target))
    command = typer.main.get_command(group)
    command.name = row.name
    command.help = command.help or row.help
    return command


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"continuonbrain {__version__}")
        raise typer.Exit


@app.callback()
def _continuonbrain(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """An offline brain for a small robot: it drives, records, learns on the device, and proves it."""


def run() -> None:
    """Entry point of the console script: `app`, with errors that a person can act on told in two lines."""
    try:
        app()
    except BrainError as error:
        _print_error(error)
        sys.exit(EXIT_NEEDS_A_PERSON)
    except BrokenPipeError:  # whoever read us has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        told = told_from(error)
        if told is None:
            raise
        _print_error(told)
        sys.exit(EXIT_NEEDS_A_PERSON)
    except ModuleNotFoundError as error:
        missing = told_from_import(error)
        if missing is None:
            raise
        _print_error(missing)
        sys.exit(EXIT_NEEDS_A_PERSON)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _print_error(error: BrainError) -> None:
    # Imported here: printing help must not pay for it.
    from rich.console import Console
    from rich.text import Text

    from continuonbrain.cli.root_option import as_owner, on_this_root, root_given

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), (error.message, "red")))
    remedy = on_this_root(error.remedy, root_given(sys.argv))
    if isinstance(error, BelongsToAnotherError):
        remedy = as_owner(error.owner, sys.argv, os.environ)
    if remedy:
        console.print(Text.assemble(("  try: ", "bold"), remedy))


if __name__ == "__main__":
    run()
