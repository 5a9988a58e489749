"""A person's word about a finished episode: it is bad (nobody learns from it), or it was another instruction.

A mark is a tag of the metadata. A label stands in every step, so its file is written anew, each line with its own seal;
frames stay where they are. First the steps, then the metadata: killed in between, the steps say the new label, the tag
the old one, and both files are whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.metadata import EpisodeMetadata, RecordingState
from continuonbrain.rlds.metadata_seal import metadata_bytes
from continuonbrain.rlds.reader import list_episodes, open_episode, read_metadata
from continuonbrain.rlds.stepline import encode_step_line
from continuonbrain.rlds.writer import METADATA_FILE, STEPS_FILE
from continuonbrain.storage.durable import write_bytes_durably
from continuonbrain.storage.plain_text import is_plain

BAD: Final = "marked:bad"
INSTRUCTION_TAG: Final = "instruction:"
TEACHER_TAG: Final = "teach"
"""Of lessons that the simulator's expert drove, with one that begins with `TRACK_TAG`."""
TRACK_TAG: Final = "track:"
"""Begins the tag that names a simulated episode's track by its seed."""
LESSON_TAG: Final = "teleop"
CORRECTION_TAG: Final = "correction"
"""Of what a person drove through the running brain: by hand, and over the autopilot."""
LEAST_S: Final = 5.0
"""A lesson or a correction that is shorter teaches, but is no episode of those that a training waits for."""
_LONGEST = 200


def is_bad(metadata: EpisodeMetadata) -> bool:
    """Whether a person said that nobody should learn from it."""
    return BAD in metadata.tags


def teaches(metadata: EpisodeMetadata) -> bool:
    """Whether anybody learns from it, here or elsewhere: a person drove it, and none marked it as bad. What the policy
    drove is no lesson, also where single steps say that a person did."""
    return metadata.control_role.startswith("human") and not is_bad(metadata)


def counts(metadata: EpisodeMetadata) -> bool:
    """Whether it is one of the episodes that a training waits for: driven by a person, marked by none, and long enough
    where it was driven here. What was imported or driven by the simulator's expert was chosen as it is."""
    return teaches(metadata) and not is_short(metadata)


def is_short(metadata: EpisodeMetadata) -> bool:
    """Whether it is a person's lesson or correction of less than `LEAST_S`."""
    here = LESSON_TAG in metadata.tags or CORRECTION_TAG in metadata.tags
    return here and metadata.duration_ms is not None and metadata.duration_ms < LEAST_S * 1000


def driver_of(metadata: EpisodeMetadata) -> str:
    """Who drove: "person", "policy", "simulated teacher"; "" where its metadata do not say."""
    role = metadata.control_role
    if role.startswith("human"):
        simulated = TEACHER_TAG in metadata.tags and any(t.startswith(TRACK_TAG) for t in metadata.tags)
        return "simulated teacher" if simulated else "person"
    return "policy" if role == "autonomous" else ""


def instruction_of(metadata: EpisodeMetadata) -> str:
    """What its tag says that the robot was told; "" where no tag does."""
    told = (tag.removeprefix(INSTRUCTION_TAG) for tag in metadata.tags if tag.startswith(INSTRUCTION_TAG))
    return next(told, "")


def bad_episodes(episodes_dir: Path) -> list[str]:
    """Names of the finished episodes that are marked, sorted."""
    found = list_episodes(episodes_dir, finished_only=True)
    return [path.name for path in found if is_bad(read_metadata(path / METADATA_FILE))]


def mark(path: Path, *, bad: bool) -> bool:
    """Mark a finished episode, or take the mark away; whether that changed anything.

    Raises:
        EpisodeError: it is unfinished, or its metadata were altered.
        OSError: the disk refused; nothing changed.
    """

    def marked(metadata: EpisodeMetadata) -> EpisodeMetadata:
        others = tuple(tag for tag in metadata.tags if tag != BAD)
        return replace(metadata, tags=(*others, BAD) if bad else others)

    with _alone(path):
        return _rewrite(path / METADATA_FILE, marked)


def relabel(path: Path, instruction: str) -> int:
    """Say that all of a finished episode was driven to `instruction`; how many steps it has.

    Raises:
        EpisodeError: it is unfinished, damaged, no folder with one file of steps, or being read or written under a
            lock; or the words are empty or too long.
        OSError: the disk refused; the old label stands.
    """
    words = instruction.strip()
    if not words or len(words) > _LONGEST or not is_plain(words):
        raise EpisodeError(
            f"an instruction of 1 to {_LONGEST} characters in one line is needed", field="instruction"
        )
    with _alone(path):
        return _relabelled(path, words)


def _relabelled(path: Path, words: str) -> int:
    files = sorted((path / "steps").glob("*.jsonl"))
    if files != [path / STEPS_FILE]:
        raise EpisodeError(
            "only a folder with one file of steps can be labelled anew",
            file=path,
            remedy="continuonbrain episodes repair PATH OUT writes it so",
        )
    closed_metadata(path / METADATA_FILE)
    episode = open_episode(path)  # whole, or not at all: nothing is sealed that was not read
    with open(path / STEPS_FILE, "rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EpisodeError(
                "somebody reads or writes it now", file=path, remedy="try again soon"
            ) from error
        lines = [encode_step_line(replace(step, instruction=words)) for step in episode]
        mode = stat.S_IMODE(os.fstat(held.fileno()).st_mode)
        write_bytes_durably(path / STEPS_FILE, b"".join(lines), mode=mode)

    def told(metadata: EpisodeMetadata) -> EpisodeMetadata:
        others = tuple(tag for tag in metadata.tags if not tag.startswith(INSTRUCTION_TAG))
        return replace(metadata, tags=(*others, f"{INSTRUCTION_TAG}{words}"))

    _rewrite(path / METADATA_FILE, told)
    return len(lines)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else changes this episode inside: what is read is what is written over."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def closed_metadata(file: Path) -> EpisodeMetadata:
    """Of a finished episode, to be written anew. `EpisodeError` for one that is not."""
    metadata = read_metadata(file)
    state = RecordingState.of(metadata)
    if state is not None and state.state != "closed":
        raise EpisodeError(
            "the episode is unfinished (being recorded, or cut by a crash)",
            file=file,
            field="metadata.provenance.recording.state",
            remedy="say it again when it is closed; the next start of the recorder closes what a crash cut",
        )
    return metadata


def _rewrite(file: Path, change: Callable[[EpisodeMetadata], EpisodeMetadata]) -> bool:
    """The file keeps its time: by it the memory knows how old an episode is."""
    before = closed_metadata(file)
    after = change(before)
    if after == before:
        return False
    was = file.stat()
    write_bytes_durably(file, metadata_bytes(after), mode=stat.S_IMODE(was.st_mode))
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    return True
