"""A day's learning costs what it costs, and no clock gives any of it back."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.trainer.budget import Budget, Spent, budget_gate, charged

DAYS = st.dates().map(lambda d: d.isoformat())
CHARGES = st.lists(st.tuples(DAYS, st.floats(-1e6, 1e6), st.integers(-(10**12), 10**12)), max_size=20)


@given(CHARGES)
def test_only_a_later_date_gives_anything_back(charges: list[tuple[str, float, int]]) -> None:
    spent = Spent("2026-01-01")
    for day, seconds, written in charges:
        before, spent = spent, charged(spent, today=day, seconds=seconds, written_bytes=written)
        assert spent.day == max(before.day, day)
        if spent.day == before.day:
            assert spent.seconds >= before.seconds
            assert spent.written_bytes >= before.written_bytes
        else:
            assert (spent.seconds, spent.written_bytes) == (max(0.0, seconds), max(0, written))
        assert Spent.from_json(spent.to_json()).day == spent.day


@pytest.mark.parametrize(
    ("seconds", "mib", "opens"),
    [(0, 0, True), (3599, 99, True), (3600, 0, False), (0, 100, False), (1e9, 1e6, False)],
)
def test_the_first_limit_that_is_reached_closes(seconds: float, mib: float, opens: bool) -> None:
    gate = budget_gate(Budget(5.0, 100.0, watts=5.0), Spent("2026-01-01", seconds, int(mib * 2**20)))
    assert gate.open is opens
    assert ("tomorrow" in gate.reason) is not opens


def test_without_limits_it_is_open_and_says_so() -> None:
    gate = budget_gate(Budget(None, None, watts=5.0), Spent("2026-01-01", 1e9, 10**15))
    assert (gate.open, gate.reason) == (True, "no limits a day")


def test_one_limit_alone_counts() -> None:
    spent = Spent("2026-01-01", 1e9, 0)
    assert budget_gate(Budget(None, 1.0, watts=5.0), spent).open
    assert not budget_gate(Budget(1.0, None, watts=5.0), spent).open


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"day": 3, "seconds": 0, "written_bytes": 0},
        {"day": "2026-01-01", "seconds": math.nan, "written_bytes": 0},
        {"day": "2026-01-01", "seconds": -1, "written_bytes": 0},
        {"day": "2026-01-01", "seconds": True, "written_bytes": 0},
        {"day": "2026-01-01", "seconds": 0, "written_bytes": 1.5},
        {"day": "2026-01-01", "seconds": 0, "written_bytes": -1},
    ],
)
def test_a_file_of_something_else_is_no_account(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not what a day has cost"):
        Spent.from_json(value)
