"""`continuonbrain episodes render`: pictures of what the robot remembers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console

from continuonbrain.cli.episodes_common import disk_errors, found, print_json, progress_bar
from continuonbrain.cli.root_option import DEFAULT_ROOT, JsonOption, RootOption
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.render import OVERVIEW_ROWS, contact_sheet, overview_page, overview_row, save_png
from continuonbrain.rlds.render_plot import plot
from continuonbrain.rlds.storyline import tell
from continuonbrain.safety.reasons import STOPS

_OUT = Path("renders")
_SHOWN = 3
"""Pictures named after a folder was rendered."""


def render(
    path: Annotated[
        Path, typer.Argument(help="An episode, a folder of them, a brain root, or a name that `list` prints.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write the PNGs into.")] = _OUT,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Draw a contact sheet and a plot of actions, interventions and flags; of a folder an overview too."""
    # The group registers this command, so it is loaded by now, and cannot be imported above.
    where = found(path, root)
    paths = list_episodes(where)
    whole = bool(paths)
    paths = paths or [where]
    drawn: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    pages: list[str] = []
    rows: list[Image.Image] = []
    with disk_errors(out), progress_bar("drawing episodes", hidden=as_json) as progress:
        for number, episode_path in enumerate(paths):
            try:
                drawn.append(_draw(episode_path, out, rows if whole else None))
            except EpisodeError as error:
                if not whole:
                    raise
                skipped.append({"path": str(episode_path), "problem": error.message})
            if rows and (len(rows) == OVERVIEW_ROWS or number + 1 == len(paths)):
                page = out / f"overview-{len(pages) + 1:02d}.png"
                save_png(overview_page(rows, f"{where}, page {len(pages) + 1}"), page)
                pages.append(str(page))
                rows.clear()
            progress(number + 1, len(paths))
    if as_json:
        print_json({"out": str(out), "episodes": drawn, "overview": pages, "skipped": skipped})
        return
    console = Console(highlight=False)
    for row in drawn if not whole else drawn[:_SHOWN]:
        console.print(row["sheet"], soft_wrap=True, markup=False)
        console.print(row["plot"], soft_wrap=True, markup=False)
    if whole and len(drawn) > _SHOWN:
        console.print(f"and {len(drawn) - _SHOWN} more episodes in {out}", soft_wrap=True, markup=False)
    for page_name in pages:
        console.print(page_name, soft_wrap=True, markup=False)
    for skip in skipped:
        console.print(f"left out: {skip['problem']}", soft_wrap=True, markup=False, style="yellow")


def _draw(path: Path, out: Path, rows: list[Image.Image] | None) -> dict[str, Any]:
    episode = open_episode(path, strict=False)
    story = tell(episode, stops=frozenset(STOPS))
    whole = Path(os.path.abspath(path))  # "." names nothing
    name = whole.name if whole.is_dir() else whole.stem  # a folder's dots are part of its name
    sheet, lines = out / f"{name}-sheet.png", out / f"{name}-plot.png"
    save_png(contact_sheet(episode, story), sheet)
    save_png(plot(episode, story), lines)
    if rows is not None:
        rows.append(overview_row(episode, story))
    return {
        "path": str(path),
        "steps": len(story),
        "flagged_steps": int(story.flagged.sum()),
        "torn": episode.torn,
        "sheet": str(sheet),
        "plot": str(lines),
    }
