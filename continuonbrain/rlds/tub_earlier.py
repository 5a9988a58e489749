"""What earlier imports of a tub left in the memory: whole episodes that stay, and halves that are imported anew.

An import that was killed leaves an open episode, and the next start of a recorder closes it as it closes one of its
own: it can be read, and it is half a drive. So what counts is not whether an episode can be read but who closed it,
and which of the tub's records stand in it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.reader import is_being_recorded, open_episode, read_metadata
from continuonbrain.rlds.tub_records import is_imported
from continuonbrain.rlds.writer import METADATA_FILE

_ON_PURPOSE = ("import", "repair")
"""Who closes an episode knowing what is in it; "recovery" closes whatever it finds."""


@dataclass
class Earlier:
    """The episodes of one tub that are in a memory already.

    Attributes:
        held: numbers of the tub's records that whole episodes hold.
        left: episodes to be replaced: an import of this tub wrote them, and they are not whole.
        seen: names of all that was there.
        foreign: what has a name that the import would use and is not provably its own, or the last copy: never touched.
    """

    held: set[int] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    def is_taken(self, target: Path) -> bool:
        """Whether the name is not free.

        Raises:
            EpisodeError: somebody took it since the import began.
        """
        if not os.path.lexists(target):
            return False
        if target.name not in self.seen:
            raise _busy(target)
        return True

    def clear(self, target: Path) -> bool:
        """Remove what an import left at `target`; whether there was something."""
        if target.name not in self.left:
            return False
        shutil.rmtree(target)
        self.left.discard(target.name)
        return True


def _busy(path: Path) -> EpisodeError:
    return EpisodeError(
        "another import is writing this episode now", file=path, remedy="wait until it is done"
    )


def earlier_imports(episodes_dir: Path, prefix: str, tub: str, usable: set[int]) -> Earlier:
    """Look at every episode whose name begins with `prefix`, which is made of the tub's content.

    Args:
        tub: the name in its provenance.
        usable: numbers of the records whose pictures the tub still has: half an episode that holds one of others is the
            last copy of it, and stays.

    Raises:
        EpisodeError: one of them is being written now.
    """
    found = Earlier()
    for path in sorted(episodes_dir.glob(f"{prefix}-*")):
        if is_being_recorded(path):
            raise _busy(path)
        found.seen.add(path.name)
        try:
            metadata = read_metadata(path / METADATA_FILE)
            if path.is_symlink() or not is_imported(metadata) or metadata.provenance.get("tub") != tub:
                found.foreign.add(path.name)
                continue
        except EpisodeError:
            found.foreign.add(path.name)  # nobody can say whose it is
            continue
        try:
            state = RecordingState.of(metadata)
            whole = state is not None and state.closed_by in _ON_PURPOSE
            numbers = {step.tick for step in open_episode(path)} if whole else set()
        except EpisodeError:
            whole, numbers = False, set()
        if whole:
            found.held |= numbers
        elif not _readable(path) <= usable:
            found.foreign.add(path.name)
        else:
            found.left.add(path.name)
    return found


def _readable(path: Path) -> set[int]:
    """Numbers of the records that half an episode holds as far as it can be read."""
    try:
        return {step.tick for step in open_episode(path, strict=False)}
    except EpisodeError:
        return set()
