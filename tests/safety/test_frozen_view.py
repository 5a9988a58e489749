"""A frozen view: found only in motion, and believed again only when the picture changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.safety.frozen_view import FrozenView

PERIOD_S = 0.05


def looks(pictures: list[int], moving: list[bool], after_s: float = 9.5 * PERIOD_S) -> list[bool]:
    view = FrozenView(after_s)
    return [
        view.look(picture, now_s=index * PERIOD_S, moving=moves)
        for index, (picture, moves) in enumerate(zip(pictures, moving, strict=True))
    ]


def test_the_same_picture_in_motion_is_frozen_after_half_a_second_and_stays_so_at_rest() -> None:
    found = looks([7] * 40, [True] * 20 + [False] * 20)
    assert found.index(True) == 10
    assert all(found[10:])


def test_at_rest_the_same_picture_is_right() -> None:
    assert not any(looks([7] * 40, [False] * 40))
    # Driving off, the car has half a second to see something else.
    assert not any(looks([7] * 48 + [8], [False] * 39 + [True] * 10))


def test_any_other_picture_ends_it() -> None:
    found = looks([7] * 20 + [8] * 5, [True] * 25)
    assert found[19]
    assert not any(found[20:])


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=80))
def test_it_is_frozen_only_after_that_long_in_motion_without_a_change(ticks: list[tuple[int, bool]]) -> None:
    found = looks([picture for picture, _ in ticks], [moves for _, moves in ticks])
    for now, frozen in enumerate(found):
        same = now
        while same > 0 and ticks[same - 1][0] == ticks[now][0]:
            same -= 1
        longest = streak = 0
        for index in range(same, now + 1):
            streak = streak + 1 if ticks[index][1] else 0
            longest = max(longest, streak)
        assert frozen == (longest > 10), (now, ticks)


def test_a_ring_of_old_pictures_is_no_view_either() -> None:
    view = FrozenView()
    for tick in range(40):
        view.look(tick, now_s=tick * 0.05, moving=True)
    found = [view.look(38 + tick % 2, now_s=2.0 + tick * 0.05, moving=True) for tick in range(20)]
    assert found[-1]
    assert not view.look(1000, now_s=3.0, moving=True)
