"""Which episodes leave, why the others stay, and how they lie in shards. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from continuonbrain.cloud.plain_jpeg import Size
from continuonbrain.rlds.sharing import Answer

Frames: TypeAlias = Literal["keep", "half", "none"]
FRAMES: Final[tuple[Frames, ...]] = ("keep", "half", "none")

SHARD_BYTES: Final = 64 << 20
"""Of the memory in one shard: what a killed export does again."""

UNFINISHED: Final = "it is being recorded, or was never closed"
REFUSED: Final = "its share says no"
UNSAID: Final = "its share says nothing"
MARKED: Final = "a person marked it as bad"
EARLIER: Final = "it is older than --since, or does not say when it was recorded"
SENT: Final = "it was in an earlier bundle"
EMPTY: Final = "it has no step"
NO_ROOM: Final = "the bundle is full: the next one takes it"
TOO_LARGE: Final = "it is larger than cloud.outbox_mib"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An episode of the memory.

    Attributes:
        name: its folder's.
        answer: what its `share` says.
        bad: a person said that nobody should learn from it.
        finished: closed.
        steps, bytes: how many, and on disk.
        start_unix_ms: None where nobody knows.
        came_ns: when it came to this robot, by which the robot itself orders what it learns from.
        size: of its first frame; None without one.
        problem: why it cannot be read, "" when it can as far as was looked.
    """

    name: str
    answer: Answer = "unsaid"
    finished: bool = True
    steps: int = 1
    bytes: int = 0
    start_unix_ms: int | None = None
    size: Size | None = None
    problem: str = ""
    bad: bool = False
    came_ns: int = 0


@dataclass(frozen=True, slots=True)
class Stays:
    """An episode that does not leave, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a dataset: its place among `count`, and what is in it."""

    number: int
    count: int
    episodes: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Episodes whose pictures have one size; None: they have none."""

    name: str
    size: Size | None
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Plan:
    """What leaves and what stays, both in the order of names."""

    going: tuple[Candidate, ...]
    stays: tuple[Stays, ...]
    frames: Frames = "keep"

    @property
    def bytes(self) -> int:
        """Of the memory, of what leaves."""
        return sum(c.bytes for c in self.going)

    @property
    def steps(self) -> int:
        """Of what leaves."""
        return sum(c.steps for c in self.going)

    def in_time(self) -> tuple[Candidate, ...]:
        """What leaves, the oldest first, in the robot's own order: its names may be older than its coming here."""
        return tuple(sorted(self.going, key=lambda c: (c.came_ns, c.name)))

    def reasons(self) -> list[tuple[str, int]]:
        """Why episodes stay, and how many for each reason, the most frequent first."""
        return Counter(s.reason for s in self.stays).most_common()

    def datasets(self) -> tuple[Dataset, ...]:
        """Of each picture's size one, in the order of their names."""
        groups: dict[Size | None, list[Candidate]] = {}
        for candidate in self.going:
            groups.setdefault(None if self.frames == "none" else candidate.size, []).append(candidate)
        made = []
        for size, members in groups.items():
            out = size
            if size is not None and self.frames == "half":
                out = (size[0] + 1) // 2, (size[1] + 1) // 2
            made.append(Dataset(_name_of(out), out, _shards(members)))
        # Two sizes may have the same half.
        return tuple(sorted(_joined(made), key=lambda d: d.name))


def what_leaves(
    found: Sequence[Candidate],
    *,
    share_unmarked: bool,
    frames: Frames = "keep",
    since_unix_ms: int | None = None,
    sent: Collection[str] = (),
    most_bytes: int | None = None,
) -> Plan:
    """Decide. That the owner has opted in is asked elsewhere, and first (`refusals.refuse_without_opt_in`).

    Args:
        share_unmarked: whether an episode leaves whose `share` says nothing. One whose `share` says no never does.
        since_unix_ms: only episodes that were recorded then or later.
        sent: names that were in a bundle before.
        most_bytes: of the memory; the oldest names come first. An episode that is larger by itself stays.
    """
    going: list[Candidate] = []
    stays: list[Stays] = []
    size = 0
    for candidate in sorted(found, key=lambda c: c.name):
        reason = _reason(candidate, share_unmarked, since_unix_ms, sent)
        if not reason and most_bytes is not None:
            if candidate.bytes > most_bytes:
                reason = TOO_LARGE
            elif size + candidate.bytes > most_bytes:
                reason = NO_ROOM
        if reason:
            stays.append(Stays(candidate.name, reason))
        else:
            going.append(candidate)
            size += candidate.bytes
    return Plan(tuple(going), tuple(stays), frames)


def kept_at_home(answer: Answer, *, bad: bool, share_unmarked: bool) -> str:
    """Why a person's word keeps an episode at home, "" where none does. One that is marked as bad stays even if it was
    shared: who trains on a bundle cannot see the mark, and nobody learns from such an episode."""
    if answer == "no":
        return REFUSED
    if answer != "yes" and not share_unmarked:
        return UNSAID
    return MARKED if bad else ""


def _reason(
    candidate: Candidate, share_unmarked: bool, since_unix_ms: int | None, sent: Collection[str]
) -> str:
    """Why it stays. What its owner said comes first: of an episode that may not leave nothing else is told."""
    said = kept_at_home(candidate.answer, bad=candidate.bad, share_unmarked=share_unmarked)
    if said:
        return said
    if not candidate.finished:
        return UNFINISHED
    if candidate.problem:
        return candidate.problem
    if candidate.steps < 1:
        return EMPTY
    start = candidate.start_unix_ms
    if since_unix_ms is not None and (start is None or start < since_unix_ms):
        return EARLIER
    return SENT if candidate.name in sent else ""


def _name_of(size: Size | None) -> str:
    return "episodes_without_frames" if size is None else f"episodes_{size[1]}x{size[0]}"


def _joined(datasets: Sequence[Dataset]) -> list[Dataset]:
    by_name: dict[str, Dataset] = {}
    for dataset in datasets:
        known = by_name.get(dataset.name)
        if known is not None:
            members = [c for d in (known, dataset) for s in d.shards for c in s.episodes]
            dataset = dataclasses.replace(dataset, shards=_shards(sorted(members, key=lambda c: c.name)))
        by_name[dataset.name] = dataset
    return list(by_name.values())


def _shards(members: Sequence[Candidate]) -> tuple[Shard, ...]:
    parts: list[list[Candidate]] = []
    size = 0
    for candidate in members:
        if not parts or size + candidate.bytes > SHARD_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(candidate)
        size += candidate.bytes
    return tuple(Shard(i, len(parts), tuple(part)) for i, part in enumerate(parts))
