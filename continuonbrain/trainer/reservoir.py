"""Which episodes stand for all that a robot has lived through. Pure.

A memory that keeps the newest forgets what is rare: the third instruction, last winter's light. The reservoir keeps a
fixed number of episodes, balanced by instruction, and among those of one instruction the ones that differ most in what
was seen: always the one farthest from all that are chosen already (Gonzalez 1985, "Clustering to minimize the maximum
intercluster distance"), so that each look that there was has one before any has two.

A quarter of it is never trained on: by those episodes a consolidation is examined for what it has forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration, CalibrationError

F32 = NDArray[np.float32]
GRID = (4, 4)
"""Rows and columns of a look."""
EXAM_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Remembered:
    """One episode. instruction: the one given most often in it; look: `look_of` its frames; exam: never trained on;
    lesson: number of the round that learned it first; calibration: of the robot in that round, by which its commands
    are understood."""

    episode: str
    instruction: str
    look: tuple[float, ...]
    exam: bool
    lesson: int
    calibration: Calibration

    def to_json(self) -> dict[str, Any]:
        """As a file keeps it."""
        return asdict(self)

    @staticmethod
    def from_json(value: object) -> Remembered:
        """Raises ValueError when it is no such thing."""
        try:
            data: dict[str, Any] = dict(value)  # type: ignore[call-overload]
            look = tuple(float(v) for v in data["look"])
            if len(look) != GRID[0] * GRID[1] * 3 or not np.isfinite(look).all():
                raise ValueError(f"look: {len(look)} finite numbers")
            if not isinstance(data["exam"], bool) or not isinstance(data["episode"], str):
                raise ValueError("episode or exam")
            return Remembered(
                data["episode"],
                str(data["instruction"]),
                look,
                data["exam"],
                int(data["lesson"]),
                Calibration(**{k: float(v) for k, v in data["calibration"].items()}),
            )
        except (TypeError, KeyError, AttributeError, ArithmeticError, CalibrationError) as error:
            raise ValueError(f"not a remembered episode: {error!r}") from error


def look_of(frames: Sequence[NDArray[np.uint8]]) -> tuple[float, ...]:
    """What an episode looks like: mean colour of each part of a 4 x 4 grid, over its frames `[h, w, 3]`, in [0, 1].

    Raises:
        ValueError: there is no frame.
    """
    if not frames:
        raise ValueError("an episode without frames has no look")
    total = np.zeros((*GRID, 3))
    for frame in frames:
        for i, rows in enumerate(np.array_split(frame, GRID[0], axis=0)):
            for j, part in enumerate(np.array_split(rows, GRID[1], axis=1)):
                total[i, j] += part.reshape(-1, 3).mean(0) / 255
    return tuple(round(float(v), 5) for v in (total / len(frames)).reshape(-1))


def sizes(capacity: int) -> tuple[int, int]:
    """Of a reservoir: episodes to train on, and for the exam."""
    exam = round(capacity * EXAM_SHARE)
    return capacity - exam, exam


def chosen(known: Iterable[Remembered], capacity: int) -> list[Remembered]:
    """What stays of all that is known, in the order of the episodes' names; whatever order they come in.

    Two episodes of one name are one: the first.
    """
    by_name: dict[str, Remembered] = {}
    for one in known:
        by_name.setdefault(one.episode, one)
    every = [by_name[name] for name in sorted(by_name)]
    learned, exam = sizes(capacity)
    kept = _spread([e for e in every if not e.exam], learned) + _spread([e for e in every if e.exam], exam)
    return sorted(kept, key=lambda e: e.episode)


def _spread(episodes: list[Remembered], capacity: int) -> list[Remembered]:
    groups: dict[str, list[Remembered]] = {}
    for episode in episodes:
        groups.setdefault(episode.instruction, []).append(episode)
    kept: list[Remembered] = []
    for name, room in _rooms({name: len(group) for name, group in groups.items()}, capacity).items():
        kept += _farthest(groups[name], room)
    return kept


def _rooms(counts: dict[str, int], capacity: int) -> dict[str, int]:
    """As many places for each as the smallest leaves to all others."""
    rooms: dict[str, int] = {}
    left = capacity
    for place, name in enumerate(sorted(counts, key=lambda n: (counts[n], n))):
        rooms[name] = min(counts[name], left // (len(counts) - place))
        left -= rooms[name]
    # What a division leaves over goes to who has most to tell, one each.
    for name in sorted(counts, key=lambda n: (rooms[n] - counts[n], n)):
        if left > 0 and rooms[name] < counts[name]:
            rooms[name] += 1
            left -= 1
    return rooms


def _farthest(episodes: list[Remembered], count: int) -> list[Remembered]:
    if count <= 0:
        return []
    looks = np.array([e.look for e in episodes], float)
    # The most ordinary one first, so that what is rare is measured against it.
    first = int(((looks - looks.mean(0)) ** 2).sum(1).argmin())
    order, distance = [first], ((looks - looks[first]) ** 2).sum(1)
    while len(order) < min(count, len(episodes)):
        distance[order[-1]] = -1.0
        following = int(distance.argmax())
        order.append(following)
        seen = distance < 0
        distance = np.minimum(distance, ((looks - looks[following]) ** 2).sum(1))
        distance[seen] = -1.0
    return [episodes[i] for i in order]


def reservoir_sha256(episodes: Iterable[Remembered]) -> str:
    """Names what is kept."""
    names = "\0".join(f"{e.episode} {e.exam}" for e in sorted(episodes, key=lambda e: e.episode))
    return hashlib.sha256(names.encode()).hexdigest()
