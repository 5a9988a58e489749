"""The reservoir on disk: the episodes that stand for all that there were, brought up to date from adapters' cards."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.slow_adapter import KIND, SLOW, card_of, names_in
from continuonbrain.policy.calibration import Calibration
from continuonbrain.rlds.marking import bad_episodes
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.step import Step
from continuonbrain.storage.adapter_reader import AdapterReader
from continuonbrain.storage.durable import write_json_durably
from continuonbrain.trainer.dataset import HUMAN, frame_at
from continuonbrain.trainer.look import Look, unwatched
from continuonbrain.trainer.reservoir import Remembered, chosen, look_of

_FORMAT = "continuonbrain.reservoir.1"
_LOOKS = 8
"""Frames of an episode that say what it looks like."""


@dataclass(frozen=True, slots=True)
class Reservoir:
    """kept: what is remembered; seen: names of all episodes that had the chance, of those that are still on disk."""

    kept: tuple[Remembered, ...] = ()
    seen: frozenset[str] = frozenset()

    @property
    def names(self) -> set[str]:
        """Of what is remembered."""
        return {e.episode for e in self.kept}


def read_reservoir(path: Path) -> Reservoir:
    """The file's content; an empty one where there is none yet. Raises BrainError when it makes no sense."""
    try:
        value = json.loads(path.read_bytes())
        if value["format"] != _FORMAT:
            raise ValueError(f"format is {value['format']!r}, not {_FORMAT}")
        kept = tuple(Remembered.from_json(e) for e in value["episodes"])
        return Reservoir(kept, frozenset(str(n) for n in value["seen"]))
    except FileNotFoundError:
        return Reservoir()
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ArithmeticError) as error:
        raise BrainError(
            f"{path} cannot be read: {error}",
            remedy="move it away: what the adapters' cards name, and is still there, is remembered anew",
        ) from error


def write_reservoir(path: Path, reservoir: Reservoir) -> None:
    """Durably. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_durably(
        path,
        {
            "format": _FORMAT,
            "episodes": [e.to_json() for e in reservoir.kept],
            "seen": sorted(reservoir.seen),
        },
    )


@dataclass(frozen=True, slots=True)
class _Lesson:
    """Of a fast adapter's card: its number, what it was trained on, what was held out, the robot then."""

    number: int
    learned: frozenset[str]
    held_out: frozenset[str]
    calibration: Calibration


def lessons_of(store: AdapterReader) -> list[_Lesson]:
    """What each fast adapter of the store learned, oldest first, also one that was refused: its episodes are lessons
    all the same. Cards that cannot be read are passed over."""
    found = []
    for version in store.list():
        card = card_of(version)
        if card.get(KIND) == SLOW or "episodes" not in card:
            continue
        try:
            calibration = Calibration(**{k: float(v) for k, v in dict(card["calibration"]).items()})
            learned, held = (frozenset(names_in(card, k)) for k in ("episodes", "held_out"))
        except (BrainError, TypeError, ValueError, KeyError, ArithmeticError):
            continue
        found.append(_Lesson(version.counter, learned, held, calibration))
    return found


def remember(
    before: Reservoir,
    lessons: list[_Lesson],
    episodes_dir: Path,
    capacity: int,
    look: Look = unwatched,
) -> tuple[Reservoir, list[str]]:
    """The reservoir with what was learned since, and in words what could not be read. look: at every episode.

    Episodes that no adapter has learned from yet wait; those that are gone from the disk, or marked as bad, are gone
    here.
    """
    bad = set(bad_episodes(episodes_dir))
    there = {p.name: p for p in list_episodes(episodes_dir, finished_only=True) if p.name not in bad}
    learned_by = Counter(name for lesson in lessons for name in lesson.learned)
    unreadable: list[str] = []
    new: list[Remembered] = []
    named: set[str] = set()
    for lesson in lessons:
        for name in sorted((lesson.learned | lesson.held_out) & there.keys() - before.seen - named):
            look()
            named.add(name)
            try:
                new.append(_described(there[name], lesson, exam=learned_by[name] == 0))
            except (BrainError, ValueError) as error:
                named.discard(name)  # mended, it may be remembered yet
                unreadable.append(f"{name}: {error}")
    # What is there and cannot be read is not forgotten for that: it may be mended, and nobody knows what it would show.
    damaged = {
        e.episode
        for e in before.kept
        if e.episode not in there and e.episode not in bad and (episodes_dir / e.episode).is_dir()
    }
    unreadable += [f"{name}: its metadata cannot be read" for name in sorted(damaged)]
    # A later job may have trained on what an earlier one held out: then it is no exam any more.
    still = [
        replace(e, exam=e.exam and learned_by[e.episode] == 0)
        for e in before.kept
        if e.episode in there or e.episode in damaged
    ]
    kept = chosen([*still, *new], capacity)
    return Reservoir(tuple(kept), frozenset((before.seen | named) & (there.keys() | damaged))), unreadable


def bring_up_to_date(
    brain: BrainRoot, store: AdapterReader, look: Look = unwatched
) -> tuple[Reservoir, Reservoir, list[str]]:
    """The reservoir on disk with what was learned since: before, after, and in words what cannot be read. As soon as a
    lesson was learned it is settled which of its episodes are for the exam.

    Raises BrainError, OSError.
    """
    path, config = brain.layout.reservoir_path, brain.config
    before = read_reservoir(path)
    # Half of the memory is for what is new.
    capacity = min(config.slow.reservoir_episodes, max(1, config.max_episodes // 2))
    after, unreadable = remember(before, lessons_of(store), brain.layout.episodes_dir, capacity, look)
    if after != before:
        write_reservoir(path, after)
    return before, after, unreadable


def _described(path: Path, lesson: _Lesson, *, exam: bool) -> Remembered:
    episode = open_episode(path)
    driven = [(i, s) for i, s in enumerate(episode) if _is_lesson(s)]
    said = Counter(step.instruction for _, step in driven)
    chosen_steps = driven[:: max(1, len(driven) // _LOOKS)]
    look = look_of([frame_at(episode, i) for i, _ in chosen_steps])
    instruction = min(said, key=lambda name: (-said[name], name))
    return Remembered(path.name, instruction, look, exam, lesson.number, lesson.calibration)


def _is_lesson(step: Step) -> bool:
    return step.source.startswith(HUMAN) and step.has_frame


def told(reservoir: Reservoir) -> dict[str, Any]:
    """For status and cards: how many, by instruction and by lesson."""
    return {
        "episodes": len(reservoir.kept),
        "exam": sum(e.exam for e in reservoir.kept),
        "instructions": dict(sorted(Counter(e.instruction for e in reservoir.kept).items())),
        "lessons": {str(n): c for n, c in sorted(Counter(e.lesson for e in reservoir.kept).items())},
    }
