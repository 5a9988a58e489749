"""Which lessons are judged by and never learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from continuonbrain.trainer.dataset import Drive


def instructions_by_name(drives: Sequence[Drive]) -> dict[str, str]:
    """By an episode's name what a person mostly drove to in it."""
    return {
        drive.episode.path.name: Counter(
            said for said, labelled in zip(drive.instructions, drive.labelled, strict=True) if labelled
        ).most_common(1)[0][0]
        for drive in drives
        if drive.labelled.any()
    }


def hold_out(
    episodes: Sequence[Path],
    *,
    tail: int,
    least: int = 1,
    unseen: Collection[str] = (),
    said: Mapping[str, str] | None = None,
) -> tuple[list[Path], list[Path]]:
    """Split into training and held-out episodes: one of eight from the newest back, at most `tail`; one of four until
    there are `least` where one of eight gives fewer, so that few episodes cost at most a quarter of the lessons. None
    of fewer than four. Episodes, never single steps: neighbouring frames are nearly the same.

    unseen: names of those that nobody may train on. Of eight or four neighbours one of these is held out before another
    is, so that what was held out for good costs no further lessons; the others of them are in neither list.
    said: an episode's instruction by its name. Of the neighbours the one is held out whose instruction is owed most, by
    D'Hondt's divisors: who teaches four instructions in turn has a lesson of each judged and three of each learned. One
    that was taught once is learned: where all neighbours are such, another lesson of what is owed most is held out
    instead, an older one rather than a newer, unless nothing was taught twice.
    """
    ordered = list(episodes)
    newest = ordered[::-1]
    told = {p: (said or {}).get(p.name, "") for p in ordered}
    lessons = Counter(told.values())

    def pick(stride: int, most: int) -> set[Path]:
        found: set[Path] = set()
        held: Counter[str] = Counter()
        learned = Counter(told[p] for p in ordered if p.name not in unseen)
        for start in range(0, len(newest) - 3, stride)[:most]:
            block = newest[start : start + stride]
            block = block[3:] + block[2::-1]  # the newest lessons are the last that are not learned
            middle = start + stride // 2
            others = newest[middle:] + newest[:middle][::-1]
            least_missed = max(
                [p for p in block if p.name in unseen and p not in found]
                or [p for p in block if learned[told[p]] > 1 and p not in found]
                or [p for p in others if learned[told[p]] > 1 and p not in found and p.name not in unseen]
                or [p for p in block if p not in found]
                or [p for p in others if p not in found],
                key=lambda p: lessons[told[p]] / (held[told[p]] + 1),
            )
            held[told[least_missed]] += 1
            learned[told[least_missed]] -= least_missed.name not in unseen
            found.add(least_missed)
        return found

    held = pick(8, tail)
    if len(held) < min(least, tail):
        held = pick(4, min(least, tail))
    train = [p for p in ordered if p not in held and p.name not in unseen]
    return train, [p for p in ordered if p in held]
