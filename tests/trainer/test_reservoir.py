"""The reservoir: as many as it may hold, every instruction in it, every look before any twice, whatever the order."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.policy.calibration import Calibration
from continuonbrain.trainer.reservoir import GRID, Remembered, chosen, look_of, reservoir_sha256, sizes

LOOK = GRID[0] * GRID[1] * 3


def one(
    name: str, instruction: str = "drive", look: float = 0.5, *, exam: bool = False, lesson: int = 1
) -> Remembered:
    return Remembered(name, instruction, (look,) * LOOK, exam, lesson, Calibration())


many = st.lists(
    st.builds(
        one,
        st.integers(0, 60).map(lambda n: f"episode-{n:03d}"),
        st.sampled_from(["drive", "keep left", "drive fast"]),
        st.floats(0, 1),
        exam=st.booleans(),
        lesson=st.integers(1, 4),
    ),
    max_size=60,
)


@given(many, st.integers(8, 40))
def test_it_holds_no_more_than_it_may_and_every_instruction(known: list[Remembered], capacity: int) -> None:
    kept = chosen(known, capacity)
    names = [e.episode for e in kept]
    assert len(names) == len(set(names)) <= capacity
    by_name = {}
    for episode in known:
        by_name.setdefault(episode.episode, episode)
    for exam, room in zip((False, True), sizes(capacity), strict=True):
        there = Counter(e.instruction for e in by_name.values() if e.exam == exam)
        got = Counter(e.instruction for e in kept if e.exam == exam)
        assert sum(got.values()) == min(room, sum(there.values()))
        for instruction, count in there.items():
            assert got[instruction] >= min(count, room // max(1, len(there)))


@given(many, st.integers(8, 40), st.permutations(range(60)))
def test_the_order_in_which_they_come_does_not_matter(
    known: list[Remembered], capacity: int, order: list[int]
) -> None:
    once = list({e.episode: e for e in known}.values())
    mixed = [once[i] for i in order if i < len(once)]
    assert chosen(once, capacity) == chosen(mixed, capacity)


@given(many, st.integers(8, 40))
def test_what_was_chosen_is_chosen_again(known: list[Remembered], capacity: int) -> None:
    kept = chosen(known, capacity)
    assert {e.episode for e in chosen(kept, capacity)} == {e.episode for e in kept}


def test_each_look_has_one_before_any_has_two() -> None:
    ordinary = [one(f"a{i:02d}", look=0.5 + i / 10_000) for i in range(40)]
    rare = [one("night", look=0.05), one("snow", look=0.95), one("dusk", look=0.25)]
    kept = {e.episode for e in chosen([*ordinary, *rare], 8)}
    assert {"night", "snow", "dusk"} <= kept


def test_the_newest_crowd_out_nobody() -> None:
    first = [one(f"a{i}", "keep left", look=0.2) for i in range(3)]
    later = [one(f"b{i:03d}", "drive", look=0.8) for i in range(300)]
    kept = Counter(e.instruction for e in chosen([*first, *later], 16))
    assert kept == {"keep left": 3, "drive": 9}


def test_a_look_is_the_mean_colour_of_each_part() -> None:
    frame = np.zeros((120, 160, 3), np.uint8)
    frame[:30, :40] = (255, 0, 51)
    look = look_of([frame, frame])
    assert look[:3] == pytest.approx((1.0, 0.0, 0.2), abs=1e-4)
    assert sum(look[3:]) == 0.0
    with pytest.raises(ValueError, match="without frames"):
        look_of([])


def test_a_file_gives_back_what_was_put_in_it_and_refuses_the_rest() -> None:
    episode = replace(one("a"), calibration=Calibration(steering_gain=-0.5))
    assert Remembered.from_json(json.loads(json.dumps(episode.to_json()))) == episode
    good = episode.to_json()
    for wrong in (
        {},
        [],
        None,
        good | {"look": [0.1]},
        good | {"look": [float("nan")] * LOOK},
        good | {"exam": "yes"},
        good | {"episode": 3},
        good | {"calibration": {"steering_gain": 99.0}},
        good | {"calibration": None},
        good | {"lesson": "x"},
    ):
        with pytest.raises(ValueError):
            Remembered.from_json(wrong)


def test_its_name_says_what_is_in_it_and_what_is_for_the_exam() -> None:
    kept = [one("a"), one("b")]
    assert reservoir_sha256(kept) == reservoir_sha256(kept[::-1])
    assert reservoir_sha256(kept) != reservoir_sha256([one("a"), one("b", exam=True)])
