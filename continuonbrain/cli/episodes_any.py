"""`continuonbrain episodes show` for memories that are not one episode of ours: what is in them, and of which shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from continuonbrain.rlds.episode_view import EpisodeView, Memory
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.foreign_tfds import TfdsEpisode, TfdsMemory
from continuonbrain.rlds.memory import open_memory

EpisodeOption = Annotated[
    int | None, typer.Option("--episode", help="Of a dataset with several: which one, from 0.", min=0)
]
_SHOWN = 20


def show_any(path: Path, episode: int | None, *, as_json: bool) -> bool:
    """Print what is at `path`; False where it is one episode of ours, which has a better summary of its own."""
    summed = _sum_up(path, episode)
    if summed is None:
        return False
    value, lines = summed
    if as_json:
        typer.echo(json.dumps(value, indent=2, allow_nan=False))
        return True
    console = Console(highlight=False)
    for line in lines:
        console.print(line if isinstance(line, Table) else Text(line), soft_wrap=True)
    return True


def _sum_up(path: Path, episode: int | None) -> tuple[dict[str, Any], list[str | Table]] | None:
    """(JSON, what to print) of a memory at `path`; None where it is one episode of ours or of the ecosystem.

    Raises:
        EpisodeError: nothing is there, it is damaged, or it has no such episode.
    """
    if episode is None and _is_one_of_ours(path):
        return None
    memory = open_memory(path)
    if episode is None:
        return _of_memory(memory)
    if episode >= len(memory):
        raise EpisodeError(
            f"there is no episode {episode}: it has {len(memory)}", file=path, remedy="count from 0"
        )
    return _of_episode(memory, episode)


def _is_one_of_ours(path: Path) -> bool:
    if path.is_dir():
        return (path / "metadata.json").exists() and (path / "steps").is_dir()
    return not path.exists() or (
        path.suffix == ".json" and path.name not in ("features.json", "dataset_info.json")
    )


def _of_memory(memory: Memory) -> tuple[dict[str, Any], list[str | Table]]:
    value: dict[str, Any] = {"path": str(memory.path), "format": memory.format, "episodes": len(memory)}
    lines: list[str | Table] = [f"{memory.path}  {memory.format}, {len(memory)} episodes"]
    if isinstance(memory, TfdsMemory):
        value |= {"name": memory.info.name, "version": memory.info.version}
        value["splits"] = {split: len(found) for split, found in memory.splits.items()}
        lines.append(
            f"{memory.info.name} {memory.info.version}: "
            + ", ".join(f"{split} ({count})" for split, count in value["splits"].items())
        )
    if not len(memory):
        return value, lines
    table = Table("", "episode", "steps", box=None)
    value["first_episodes"] = []
    first: EpisodeView | None = None
    for number in range(min(_SHOWN, len(memory))):
        try:
            view = memory.episode(number)
        except EpisodeError as error:  # one that is damaged does not hide the others
            value["first_episodes"].append({"id": "", "steps": 0, "problem": error.message})
            table.add_row(str(number), Text(error.message, style="yellow"), "")
            continue
        value["first_episodes"].append({"id": view.episode_id, "steps": len(view)})
        table.add_row(str(number), Text(view.episode_id), str(len(view)))
        first = first or view
    lines.append(table)
    if len(memory) > _SHOWN:
        lines.append(f"and {len(memory) - _SHOWN} more")
    if first is not None:
        value["signals"] = [spec.to_json() for spec in first.signals]
        lines.append(_signals(first))
    lines.append("one of them: continuonbrain episodes show PATH --episode N")
    return value, lines


def _of_episode(memory: Memory, number: int) -> tuple[dict[str, Any], list[str | Table]]:
    view = memory.episode(number)
    value: dict[str, Any] = {
        "path": str(memory.path),
        "format": memory.format,
        "episode": number,
        "id": view.episode_id,
        "source": str(view.source),
        "steps": len(view),
        "signals": [spec.to_json() for spec in view.signals],
        "metadata": {key: _short(view.metadata[key]) for key in view.metadata},
    }
    lines: list[str | Table] = [f"{view.episode_id}  {view.source}", f"{len(view)} steps"]
    for key, shown in value["metadata"].items():
        lines.append(f"{key}: {shown}")
    if len(view):
        last = view.step(-1)
        value["terminal"] = last.is_terminal
        value["frames"] = {key: list(frame.shape) for key, frame in view.frames(0).items()}
        lines.append("terminal" if last.is_terminal else "not terminal")
        lines.append(_signals(view))
    if isinstance(view, TfdsEpisode) and view.missing:
        value["missing"] = list(view.missing)
        lines.append(f"declared, but not in this episode: {', '.join(view.missing)}")
    return value, lines


def _signals(view: EpisodeView) -> Table:
    table = Table("signal", "type", "shape", "at the first step", box=None)
    values = view.step(0).values if len(view) else {}
    for spec in view.signals:
        shape = [*("list" if size is None else f"list of {size}" for size in spec.lists)]
        shape += [str(["any" if size is None else size for size in spec.shape]).replace("'", "")] * (
            spec.kind != "text"
        )
        kind = spec.dtype if spec.kind == "tensor" else spec.kind
        table.add_row(
            Text(spec.key),
            kind,
            Text(" ".join(shape)),
            Text(_short(values[spec.key]) if spec.key in values else ""),
        )
    return table


def _short(value: Any) -> str:
    size = getattr(value, "size", 0)
    shape = getattr(value, "shape", None)
    if shape is not None and size > 8:
        return f"{shape} {value.dtype}, {value.min()} to {value.max()}"
    if isinstance(value, list):
        return f"{len(value)} entries"
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
