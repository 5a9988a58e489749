"""Which episodes leave: rules, without a disk."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.cloud.plan import (
    EARLIER,
    MARKED,
    NO_ROOM,
    REFUSED,
    SENT,
    TOO_LARGE,
    UNFINISHED,
    UNSAID,
    Candidate,
    what_leaves,
)
from continuonbrain.rlds.sharing import answer_of

candidates = st.lists(
    st.builds(
        Candidate,
        name=st.text("abcdef", min_size=1, max_size=6),
        answer=st.sampled_from(("yes", "no", "unsaid")),
        finished=st.booleans(),
        steps=st.integers(0, 3),
        bytes=st.integers(0, 100 << 20),
        start_unix_ms=st.none() | st.integers(0, 10**13),
        size=st.none() | st.sampled_from(((24, 32), (120, 160), (121, 160))),
        problem=st.sampled_from(("", "", "it is damaged")),
        bad=st.booleans(),
    ),
    unique_by=lambda c: c.name,
    max_size=12,
)


@pytest.mark.parametrize(
    ("share", "answer"),
    [
        (None, "unsaid"),
        ({}, "no"),
        ({"cloud": True}, "yes"),
        ({"cloud": False}, "no"),
        ({"cloud": 1}, "no"),
        ({"cloud": "yes"}, "no"),
        ({"cloud": None}, "no"),
        ({"public": True}, "no"),
        ({"public": False, "cloud": True}, "yes"),
    ],
)
def test_only_a_true_under_its_own_key_is_a_yes(share: dict[str, Any] | None, answer: str) -> None:
    assert answer_of(share) == answer


@given(found=candidates, unmarked=st.booleans(), frames=st.sampled_from(("keep", "half", "none")))
def test_nothing_leaves_that_may_not_and_every_episode_is_told_of_once(
    found: list[Candidate], unmarked: bool, frames: Any
) -> None:
    plan = what_leaves(found, share_unmarked=unmarked, frames=frames)
    for candidate in plan.going:
        assert candidate.answer == "yes" or (unmarked and candidate.answer == "unsaid")
        assert candidate.finished
        assert not candidate.problem
        assert not candidate.bad
        assert candidate.steps > 0
    names = [c.name for c in plan.going] + [s.name for s in plan.stays]
    assert sorted(names) == sorted(c.name for c in found)
    # Every episode is in exactly one shard of exactly one dataset, in the order of names.
    placed = [c.name for d in plan.datasets() for s in d.shards for c in s.episodes]
    assert sorted(placed) == sorted(c.name for c in plan.going)
    for dataset in plan.datasets():
        inside = [c.name for s in dataset.shards for c in s.episodes]
        assert inside == sorted(inside)
        assert [s.number for s in dataset.shards] == list(range(len(dataset.shards)))
        assert {s.count for s in dataset.shards} == {len(dataset.shards)}
    assert len({d.name for d in plan.datasets()}) == len(plan.datasets())


@given(found=candidates, room=st.integers(0, 300 << 20))
def test_a_bound_is_kept_and_what_is_sent_is_not_sent_again(found: list[Candidate], room: int) -> None:
    left = {c.name for c in what_leaves(found, share_unmarked=True).going}
    seen: set[str] = set()
    while True:
        plan = what_leaves(found, share_unmarked=True, sent=seen, most_bytes=room)
        assert plan.bytes <= room
        names = {c.name for c in plan.going}
        assert not names & seen
        if not names:
            break
        seen |= names
    too_large = {c.name for c in found if c.bytes > room}
    assert seen == left - too_large


def test_reasons() -> None:
    found = [
        Candidate("a", "yes", bytes=10),
        Candidate("b", "yes", bytes=95),
        Candidate("c", "yes", bytes=101),
        Candidate("d", "no", finished=False),
        Candidate("e", "unsaid"),
        Candidate("f", "yes", finished=False),
        Candidate("g", "yes"),
        Candidate("h", "yes", bad=True),
        Candidate("i", "no", bad=True),
    ]
    plan = what_leaves(found, share_unmarked=False, sent={"g"}, most_bytes=100)
    assert [c.name for c in plan.going] == ["a"]
    assert {s.name: s.reason for s in plan.stays} == {
        "b": NO_ROOM,
        "c": TOO_LARGE,
        "d": REFUSED,
        "e": UNSAID,
        "f": UNFINISHED,
        "g": SENT,
        "h": MARKED,
        "i": REFUSED,
    }
    dated = [
        Candidate("a", "yes", start_unix_ms=5),
        Candidate("b", "yes", start_unix_ms=6),
        Candidate("c", "yes"),
    ]
    plan = what_leaves(dated, share_unmarked=False, since_unix_ms=6)
    assert [c.name for c in plan.going] == ["b"]
    assert {s.reason for s in plan.stays} == {EARLIER}
