"""What the episode commands have in common: finding what is meant, progress, and errors of the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from continuonbrain.errors import told_from
from continuonbrain.storage.layout import BrainLayout


def found(path: Path, root: Path) -> Path:
    """The path; of a brain root its episodes; where there is none and it is a bare name, the root's episode of it."""
    whole = BrainLayout(path)
    if whole.config_path.exists() and whole.episodes_dir.is_dir():
        return whole.episodes_dir
    named = BrainLayout(root).episodes_dir / path
    return named if not path.exists() and path.name == str(path) and named.exists() else path


class Reporter:
    """A progress bar as the plain callback that the rooms below take."""

    def __init__(self, bar: Progress, title: str) -> None:
        self._bar = bar
        self._task = bar.add_task(title, total=None)

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)


@contextmanager
def progress_bar(title: str, *, hidden: bool) -> Iterator[Reporter]:
    """A bar on stderr while this lasts; hidden where a program reads."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=hidden, transient=True) as bar:
        yield Reporter(bar, title)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """An `OSError` as a `BrainError` that names the file, or `path`, and what to do about that."""
    try:
        yield
    except OSError as error:
        raise told_from(error, path) or error from error


def print_json(value: object) -> None:
    """For programs: on stdout, without NaN."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def counted(count: int, what: str) -> str:
    """A number with its noun: "1 episode", "2 episodes"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
