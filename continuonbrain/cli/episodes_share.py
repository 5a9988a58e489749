"""`continuonbrain episodes share`: whether episodes may leave the robot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from continuonbrain.cli.episodes_common import counted, disk_errors, found, print_json
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.rlds.doctor import is_episode_folder
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.rlds.sharing import set_answer


def share(
    paths: Annotated[
        list[Path], typer.Argument(help="Episodes, folders of them, or names that `list` prints.")
    ],
    yes: Annotated[bool, typer.Option("--yes/--no", help="Whether they may leave.", show_default=False)],
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Say that episodes may leave the robot in a bundle, or that they must not. What left before stays where it is.

    The answer stands in each episode's metadata (share.cloud). Nothing is sent: see `continuonbrain cloud export`.
    """
    episodes = [episode for path in paths for episode in _episodes(found(path, root))]
    changed = 0
    for episode in episodes:
        with disk_errors(episode):
            changed += set_answer(episode, yes=yes)
    answer = "yes" if yes else "no"
    if as_json:
        print_json({"answer": answer, "episodes": len(episodes), "changed": changed})
        return
    Console(highlight=False).print(
        f"{answer} is now the answer of {counted(len(episodes), 'episode')} ({changed} said something else before)",
        soft_wrap=True,
    )


def _episodes(path: Path) -> list[Path]:
    """The episode at `path`, or the finished ones of the memory there."""
    if is_episode_folder(path):
        return [path]
    if inner := list_episodes(path, finished_only=True):
        return inner
    raise EpisodeError(
        "there is no finished episode",
        file=path,
        remedy="give a folder, or a name that `continuonbrain episodes list --root DIR` prints, with its --root",
    )
