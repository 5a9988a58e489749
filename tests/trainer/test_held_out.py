"""Which lessons are judged by: few, spread in time, of every instruction, and never learned from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.trainer.held_out import hold_out, instructions_by_name


@pytest.mark.parametrize(
    ("count", "held"),
    [(3, 0), (4, 1), (8, 2), (15, 3), (16, 4), (31, 4), (32, 4), (40, 5), (64, 8), (200, 8)],
)
def test_few_episodes_give_a_quarter_until_there_are_enough_to_judge_by(count: int, held: int) -> None:
    train, out = hold_out([Path(f"e{i:04}") for i in range(count)], tail=8, least=4)
    assert (len(train), len(out)) == (count - held, held)


@given(st.integers(0, 300), st.integers(1, 20), st.randoms())
def test_held_out_episodes_are_never_trained_on(count: int, tail: int, random: object) -> None:
    episodes = [Path(f"e{i:04}") for i in range(count)]
    shuffled = list(episodes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    train, held = hold_out(shuffled, tail=tail)
    assert not set(train) & set(held)
    assert sorted([*train, *held]) == episodes
    assert len(held) <= tail
    assert (len(held) >= 1) == (count >= 4)
    assert hold_out(shuffled, tail=tail) == (train, held)


@pytest.mark.parametrize("count", range(16, 33))
def test_what_is_kept_unseen_judges_and_costs_no_further_lessons(count: int) -> None:
    """As it comes when sixteen were learned from, and some more are there at the next round."""
    first = [Path(f"e{i:04}") for i in range(16)]
    kept = {p.name for p in hold_out(first, tail=8, least=4)[1]}
    episodes = [Path(f"e{i:04}") for i in range(count)]
    train, held = hold_out(episodes, tail=8, least=4, unseen=kept)
    assert len(held) == 4
    assert not kept & {p.name for p in train}
    assert len(train) >= count - 4 - 4 + sum(p.name in kept for p in held)
    if count == 16:
        assert {p.name for p in held} == kept


@given(st.integers(0, 100), st.integers(1, 20), st.sets(st.integers(0, 100)))
def test_unseen_episodes_are_never_trained_on_and_as_many_judge(
    count: int, tail: int, numbers: set[int]
) -> None:
    episodes = [Path(f"e{i:04}") for i in range(count)]
    unseen = {f"e{i:04}" for i in numbers}
    train, held = hold_out(episodes, tail=tail, least=4, unseen=unseen)
    assert not unseen & {p.name for p in train}
    assert not set(train) & set(held)
    assert len(held) == len(hold_out(episodes, tail=tail, least=4)[1])
    assert {p.name for p in episodes} - {p.name for p in (*train, *held)} <= unseen


def told(said: list[str]) -> tuple[list[Path], dict[str, str]]:
    episodes = [Path(f"e{i:04}") for i in range(len(said))]
    return episodes, {p.name: words for p, words in zip(episodes, said, strict=True)}


@pytest.mark.parametrize("turn", range(4))
def test_who_teaches_in_turn_has_one_lesson_of_each_judged(turn: int) -> None:
    order = ("drive", "keep left", "keep right", "drive slowly")
    episodes, said = told([order[(i + turn) % 4] for i in range(16)])
    train, held = hold_out(episodes, tail=8, least=4, said=said)
    assert Counter(said[p.name] for p in held) == dict.fromkeys(order, 1)
    assert Counter(said[p.name] for p in train) == dict.fromkeys(order, 3)


@pytest.mark.parametrize("at", [(0, 4, 8, 12), (12, 13, 14, 15), (1, 6, 11, 12), (3, 7, 8, 9)])
def test_what_was_taught_once_is_learned(at: tuple[int, ...]) -> None:
    episodes, said = told(["drive"] * 16)
    for number in at[1:]:
        said[episodes[number].name] = f"once, {number}"
    train, held = hold_out(episodes, tail=8, least=4, said=said)
    assert len(held) == 4
    assert {said[p.name] for p in train} == set(said.values())


@pytest.mark.parametrize(
    "taught",
    ["a" * 12 + "bcde", "a" * 20 + "bcde", "a" * 16 + "bcdefghi", "aaaabbbbccccdefg", "bcdefghia" + "a" * 8],
)
def test_what_was_taught_once_among_others_that_were_is_learned(taught: str) -> None:
    episodes, said = told(list(taught))
    train, held = hold_out(episodes, tail=8, least=4, said=said)
    assert len(held) == len(hold_out(episodes, tail=8, least=4)[1])
    assert {said[p.name] for p in train} == set(taught)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=48), st.sets(st.integers(0, 47)))
def test_no_instruction_is_lost_while_another_was_taught_more_often(
    taught: list[str], numbers: set[int]
) -> None:
    episodes, said = told(taught)
    unseen = {f"e{i:04}" for i in numbers}
    train, held = hold_out(episodes, tail=8, least=4, said=said, unseen=unseen)
    assert not set(train) & set(held)
    assert len(held) == len(hold_out(episodes, tail=8, least=4)[1])
    learned = Counter(said[p.name] for p in train)
    possible = {said[p.name] for p in episodes if p.name not in unseen}
    if possible - set(learned):
        assert max(learned.values(), default=0) <= 1


def test_of_what_is_taught_more_often_more_is_judged() -> None:
    episodes, said = told((["drive"] * 3 + ["keep left"]) * 8)
    _, held = hold_out(episodes, tail=8, least=8, said=said)
    assert Counter(said[p.name] for p in held) == {"drive": 6, "keep left": 2}


def test_the_newest_lessons_are_learned_where_nothing_speaks_against_it() -> None:
    episodes, said = told(["drive"] * 16)
    train, _ = hold_out(episodes, tail=8, least=4, said=said)
    assert set(episodes[-3:]) <= set(train)


def test_without_instructions_it_is_the_fourth_from_the_newest_back() -> None:
    episodes, _ = told(["drive"] * 17)
    _, held = hold_out(episodes, tail=8, least=4)
    assert [p.name for p in held] == ["e0001", "e0005", "e0009", "e0013"]


def test_shares_are_dhondts() -> None:
    """Of twelve and four: 12, 12/2, 12/3 or 4, which are as much."""
    episodes, said = told(["a", "a", "b", "a"] * 4)
    _, held = hold_out(episodes, tail=8, least=4, said=said)
    assert Counter(said[p.name] for p in held) == {"a": 3, "b": 1}
    # Thirteen and three: 13/4 is more than 3. By other divisors (1, 3, 5: Sainte-Lague) it is 13/5 at the third.
    episodes, said = told(["b" if i in (1, 5, 9) else "a" for i in range(16)])
    _, held = hold_out(episodes, tail=8, least=4, said=said)
    assert Counter(said[p.name] for p in held) == {"a": 4}


def test_an_episodes_instruction_is_what_a_person_mostly_drove_to() -> None:
    def drive(name: str, said: list[str], labelled: list[bool]) -> Any:
        return SimpleNamespace(
            episode=SimpleNamespace(path=Path(name)), instructions=said, labelled=np.array(labelled)
        )

    found = instructions_by_name(
        [
            drive("x/one", ["a", "b", "b", "c", "c", "c"], [True, True, True, False, False, False]),
            drive("x/two", ["a", "a"], [False, True]),
            drive("x/nobody", ["a"], [False]),
        ]
    )
    assert found == {"one": "b", "two": "a"}
