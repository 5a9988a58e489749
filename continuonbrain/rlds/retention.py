"""Which episodes go when a memory is larger than it may be. Rules first, then the disk.

What this robot recorded itself goes, oldest first, and what the policy drove before what a person drove: only that is a
lesson, and a robot that is left on would otherwise drive its lessons out of its memory. Never: what is being recorded
or unfinished, what was imported (its original may be gone), and what is protected. Lessons that were not learned yet go
last: what is protected is old, and a memory that is full of it would forget whatever is new before it is of use.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.reader import list_episodes, read_metadata
from continuonbrain.rlds.statistics import bytes_of
from continuonbrain.rlds.tub_records import is_imported
from continuonbrain.rlds.writer import METADATA_FILE
from continuonbrain.storage.durable import sync_directory

_GOING = ".deleting-"


@dataclass(frozen=True)
class Held:
    """One finished episode of a memory.

    Attributes:
        bytes: on disk; 0 for a link, whose episode lies elsewhere.
        since_ns: when it was closed here, by the file system.
        own: recorded by this robot into this memory: not imported, written by others, or a link to elsewhere.
        taught: a person drove.
    """

    path: Path
    bytes: int
    since_ns: int
    own: bool
    taught: bool


@dataclass(frozen=True)
class Retention:
    """What goes, and by how much the memory is still too large afterwards (0: it is not)."""

    going: tuple[Held, ...]
    episodes_over: int
    bytes_over: int


def what_goes(
    held: Collection[Held],
    *,
    max_episodes: int,
    max_bytes: int | None,
    protected: Collection[str] = (),
    unlearned: Collection[str] = (),
    least_unlearned: int = 0,
    other_bytes: int = 0,
) -> Retention:
    """The episodes that have to go. Pure.

    Args:
        held: all finished episodes.
        max_episodes: of those that this robot recorded.
        max_bytes: of all; None for no limit.
        other_bytes: of what else lies there and does not go (`unheld_bytes`).
        protected: names of episodes that stay whatever the limits say.
        unlearned: names of lessons that nobody has learned from yet. Of these `max_episodes` stay beside what is
            protected, unless max_bytes is passed; `least_unlearned` stay whatever the limits say.
    """
    own = sum(e.own for e in held)
    size = sum(e.bytes for e in held) + other_bytes
    new = frozenset(unlearned)
    candidates = sorted(
        (e for e in held if e.own and e.path.name not in protected),
        key=lambda e: (e.path.name in new, e.taught, e.since_ns, e.path.name),
    )
    left_unlearned = sum(e.path.name in new for e in candidates)
    going = []
    for episode in candidates:
        too_large = max_bytes is not None and size > max_bytes
        if own <= max_episodes and not too_large:
            break
        if episode.path.name in new:
            if left_unlearned <= (least_unlearned if too_large else max(least_unlearned, max_episodes)):
                break
            left_unlearned -= 1
        going.append(episode)
        own -= 1
        size -= episode.bytes
    over = 0 if max_bytes is None else max(0, size - max_bytes)
    return Retention(tuple(going), max(0, own - max_episodes), over)


def finished_episodes(episodes_dir: Path) -> list[Held]:
    """What a memory holds; an episode that cannot be read is left out, and so stays."""
    found = []
    for path in list_episodes(episodes_dir, finished_only=True):
        is_link = path.is_symlink()
        try:
            metadata = read_metadata(path / METADATA_FILE)
            state = RecordingState.of(metadata)
            since_ns = (path / METADATA_FILE).stat().st_mtime_ns
            size = 0 if is_link else bytes_of(path)
        except (EpisodeError, OSError):
            continue
        # What an import left that was killed was closed by recovery too, and is no more ours for it.
        recorded = state is not None and state.closed_by in ("recorder", "recovery")
        own = recorded and not is_imported(metadata) and not is_link
        found.append(Held(path, size, since_ns, own, metadata.control_role.startswith("human")))
    return found


def unheld_bytes(episodes_dir: Path, held: Iterable[Held]) -> tuple[int, int]:
    """(episodes, bytes) of a memory that are not `held`: unfinished, being recorded, or unreadable. They fill the disk
    like the others, and never go: nobody can say what is in them."""
    names = {e.path.name for e in held}
    rest = [p for p in list_episodes(episodes_dir) if p.name not in names and not p.is_symlink()]
    return len(rest), sum(map(bytes_of, rest))


def forget(episodes: Iterable[Held]) -> int:
    """Delete episodes, each whole or not at all whatever interrupts; bytes that are free again.

    Raises:
        OSError: the disk refused; those before are gone.
    """
    freed = 0
    for episode in episodes:
        hidden = episode.path.with_name(f"{_GOING}{episode.path.name}")
        os.rename(episode.path, hidden)  # from here on it is no episode any more
        sync_directory(hidden.parent)
        shutil.rmtree(hidden)
        freed += episode.bytes
    return freed


def sweep(episodes_dir: Path) -> None:
    """Finish deletions that were interrupted."""
    if episodes_dir.is_dir():
        for left in episodes_dir.glob(f"{_GOING}*"):
            if left.is_symlink():  # rmtree refuses a link; what it leads to is not ours to delete
                left.unlink(missing_ok=True)
            else:
                shutil.rmtree(left, ignore_errors=True)
