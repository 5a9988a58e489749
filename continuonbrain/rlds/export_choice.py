"""Which episodes an export takes, the same for every format, and what it leaves out and why.

Left out and named: what is being recorded or was never closed (nothing is wrong with it yet), and what has no step. A
damaged one is refused before anything is written: an export that is short of it looks whole to whoever trains on it,
and repair keeps its whole steps. What only reading every frame can tell aborts the export, which then leaves nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from continuonbrain.rlds.doctor import episode_folders, is_episode_folder
from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.flat import refuse_taken
from continuonbrain.rlds.metadata import EPISODE_ID, RecordingState
from continuonbrain.rlds.reader import Episode, is_being_recorded, open_episode, read_metadata
from continuonbrain.rlds.step import FLAT_FRAMES
from continuonbrain.rlds.writer import METADATA_FILE

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LeftOut:
    """An episode that is not in the export, by its name, and why."""

    episode: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """A plain object."""
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """What is exported, in its order, and what is not."""

    episodes: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]


def choose_episodes(path: Path) -> Choice:
    """The episodes of a memory, or the one at `path`.

    Raises:
        EpisodeError: one is damaged, or none is left.
    """
    path = Path(os.path.abspath(path))  # "." names nothing; a link keeps its name
    is_memory = path.is_dir() and not is_episode_folder(path)
    paths = episode_folders(path) if is_memory else [path]
    chosen: list[Path] = []
    left_out: list[LeftOut] = []
    for episode in paths:
        reason = _unfinished(episode) if is_memory else ""
        if not reason:
            try:
                reason = "" if len(open_episode(episode)) else "it has no step"
            except EpisodeError as error:
                raise _refused(error, episode) from error
        if reason:
            left_out.append(LeftOut(episode.name, reason))
        else:
            chosen.append(episode)
    if not chosen:
        why = "".join(f"; {item.episode}: {item.reason}" for item in left_out[:3])
        raise EpisodeError(
            f"none of {len(paths)} episodes has a step that can be exported{why}",
            file=path,
            remedy="give an episode, or a folder of episodes: continuonbrain episodes list --root DIR",
        )
    return Choice(tuple(chosen), tuple(left_out))


def _unfinished(path: Path) -> str:
    """Why an episode is not finished, "" when it is or nobody can say."""
    try:
        state = RecordingState.of(read_metadata(path / METADATA_FILE))
    except EpisodeError:
        return ""
    if state is None or state.state != "open":
        return ""
    if is_being_recorded(path):
        return "it is being recorded"
    return "it was never closed: the next start of the recorder closes it"


def _refused(error: EpisodeError, path: Path) -> EpisodeError:
    return EpisodeError(
        error.problem,
        file=error.file or path,
        step=error.step,
        field=error.field,
        remedy=f"nothing was written; continuonbrain episodes repair {path} OUT keeps its whole steps, then export OUT",
    )


def export_each(
    episodes: Sequence[Path],
    out: Path,
    write: Callable[[Episode, Path], int],
    suffix: str,
    progress: Progress,
) -> int:
    """One file `NAME<suffix>` in `out` for each episode; of all or, when one cannot be read, of none. The steps.

    Raises:
        EpisodeError: a file is there already, or an episode cannot be read.
        OSError: the folder cannot be written.
    """
    targets = [out / f"{_name(path)}{suffix}" for path in episodes]
    for path, target in zip(episodes, targets, strict=True):
        _refuse_taken(path, target)
    out.mkdir(parents=True, exist_ok=True)
    steps = 0
    written: list[Path] = []  # none of them was there before
    try:
        for number, (path, target) in enumerate(zip(episodes, targets, strict=True)):
            steps += write(open_episode(path), target)
            written.append(target)
            progress(number + 1, len(episodes))
    except BaseException:
        for target in written:
            target.unlink(missing_ok=True)
            if suffix == ".json":
                shutil.rmtree(target.with_name(f"{target.stem}{FLAT_FRAMES}"), ignore_errors=True)
        raise
    return steps


def _name(path: Path) -> str:
    """An episode's name: of a folder all of it, whatever dots are in it."""
    return path.name if path.is_dir() else path.stem


def _refuse_taken(path: Path, target: Path) -> None:
    if not EPISODE_ID.fullmatch(_name(path)):
        raise EpisodeError(
            f"{_name(path)!r} cannot name its files",
            file=path,
            remedy="rename it: letters, digits, '.', '_' and '-', the first no sign",
        )
    if target.suffix == ".json":
        refuse_taken(target)
    elif os.path.lexists(target):
        raise EpisodeError("this is there already", file=target, remedy="give another folder")
