"""Who holds the wheel, and which commands are too old to drive by."""

from __future__ import annotations

import pytest

from continuonbrain.service.access import Sessions
from continuonbrain.service.wheel import LATE_S, Lateness, Wheel


def test_a_turn_ends_with_giving_back_also_for_a_socket_that_is_still_open() -> None:
    wheel = Wheel(clock=lambda: 0.0)
    assert wheel.take("ann")
    assert wheel.open_socket("ann") == ""
    turn = wheel.turn
    assert wheel.is_turn(turn)
    wheel.give("ann")  # in another tab
    assert not wheel.is_turn(turn)
    assert wheel.take("bob")
    assert wheel.open_socket("bob") == ""
    bobs = wheel.turn
    wheel.close_socket(turn)  # ann's closes at last
    assert wheel.is_turn(bobs)
    assert wheel.seen_by("bob") == "me"


def test_a_network_that_stays_slow_stays_refused() -> None:
    lateness, now = Lateness(), 100.0
    for _ in range(100):
        now += 0.05
        assert lateness.of((now - 0.01) * 1000, now_s=now) == pytest.approx(0.0, abs=1e-3)
    for _ in range(20 * 60):  # a minute
        now += 0.05
        assert lateness.of((now - 3.0) * 1000, now_s=now) > LATE_S
    now += 0.05
    assert lateness.of((now - 0.02) * 1000, now_s=now) < LATE_S


def test_clocks_that_drift_apart_drive_on() -> None:
    lateness = Lateness()
    for second in range(4 * 3600):
        assert lateness.of(second * (1 - 5e-5) * 1000, now_s=float(second)) < 0.01


def test_many_new_sessions_push_out_none_that_is_in_use() -> None:
    now = 0.0
    sessions = Sessions(clock=lambda: now)
    token, mine = sessions.begin()
    for _ in range(3000):
        sessions.begin()
    assert sessions.of(token) is mine
    now = 3600.0
    assert sessions.of(token) is mine
    assert sessions.of(sessions.begin()[0]) is not None
    assert len(sessions._by_hash) <= 64
