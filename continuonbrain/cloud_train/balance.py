"""How often each robot and each instruction is drawn, which episodes came twice, and in which order they came. Pure.

One robot alone is drawn as it draws itself (`trainer.dataset.sampling_weights`): of an instruction with n samples each
has a chance in proportion to n^-1/2, so that what is taught a hundred times as often is drawn ten times as often. Among
robots the same law holds: one with a hundred times the samples is drawn ten times as often.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from continuonbrain.trainer.dataset import sampling_weights

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Seen:
    """An episode as it came. content: names what is in it, whoever sends it; pixels: of its pictures; place: the
    counter of its bundle and its order there; words: what was said in it, in their order."""

    robot: str
    episode: str
    content: str
    pixels: int = 0
    place: tuple[int, int] = (0, 0)
    words: tuple[str, ...] = ()


def balanced(robots: Sequence[str], instructions: Sequence[str]) -> F64:
    """The chance of drawing each sample, `[n]`, 1 together: a robot of n samples has n^1/2 parts of all, and within
    them its own balance of instructions."""
    names, which, counts = np.unique(np.array(robots), return_inverse=True, return_counts=True)
    shares = counts**0.5 / (counts**0.5).sum()
    out = np.zeros(len(robots))
    for number in range(len(names)):
        rows = np.flatnonzero(which == number)
        out[rows] = shares[number] * sampling_weights([instructions[i] for i in rows.tolist()])
    return out


def distinct(episodes: Sequence[Seen]) -> list[int]:
    """Positions of the episodes that are kept, rising: of those with one content, and of those of one robot and name
    (exported twice, say at two sizes), one. That with the words of the last bundle that holds it, as a person may have
    labelled it anew; of these that with the larger pictures, and then the later. Whatever order they came in."""
    last: dict[tuple[str, str], Seen] = {}
    for e in episodes:
        last[e.robot, e.episode] = max(
            e, last.get((e.robot, e.episode), e), key=lambda s: (s.place, s.words, s.content)
        )
    order = sorted(
        (i for i, e in enumerate(episodes) if e.words == last[e.robot, e.episode].words),
        key=lambda i: (
            -episodes[i].pixels,
            *(-n for n in episodes[i].place),
            episodes[i].content,
            episodes[i].robot,
            episodes[i].episode,
        ),
    )
    known: set[tuple[str, ...]] = set()
    kept = []
    for i in order:
        names = {(episodes[i].content,), (episodes[i].robot, episodes[i].episode)}
        if known.isdisjoint(names):
            kept.append(i)
        known |= names
    return sorted(kept)


def in_time(episodes: Sequence[Seen], kept: Iterable[int]) -> list[int]:
    """The positions `kept`, robot by robot, each robot's in the order in which they came to it, as far as its bundles
    tell it together: one may hold a part of another, or a few old lessons that were labelled anew beside new ones."""
    bundles: dict[tuple[str, int], dict[str, int]] = {}
    for e in episodes:
        of_it = bundles.setdefault((e.robot, e.place[0]), {})
        of_it[e.episode] = max(e.place[1], of_it.get(e.episode, 0))
    orders: dict[str, list[str]] = {}
    for (robot, _), places in sorted(bundles.items()):
        told = sorted(places, key=lambda name: (places[name], name))
        orders[robot] = _one_order(orders.get(robot, []), told)
    ranks = {(robot, name): i for robot, names in orders.items() for i, name in enumerate(names)}
    return sorted(kept, key=lambda i: (episodes[i].robot, ranks[episodes[i].robot, episodes[i].episode]))


def _one_order(before: Sequence[str], told: Sequence[str]) -> list[str]:
    """Of what earlier bundles told of an order, and a later one. What both name is in the later one's order. What is
    new stands before the next that both name, and behind all where none follows: it came since."""
    known, again = set(before), set(told)
    ahead: dict[str, list[str]] = {}
    new: list[str] = []
    for name in told:
        if name in known:
            ahead[name], new = new, []
        else:
            new.append(name)
    both = iter([name for name in told if name in known])
    out: list[str] = []
    for name in (next(both) if name in again else name for name in before):
        out += [*ahead.get(name, ()), name]
    return out + new
