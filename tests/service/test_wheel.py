"""Who holds the wheel, and which commands are too old to drive by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.service.access import KeptSession, Sessions
from continuonbrain.service.lateness import GOOD_S, SILENT_S, Lateness, good_for_s
from continuonbrain.service.session_file import read_sessions, write_sessions
from continuonbrain.service.wheel import Grip, Wheel, read_message

TICK_S = 0.05
DEAD_MAN_S = 0.25
PERIOD_S = 0.05


def test_a_turn_ends_with_giving_back_also_for_a_socket_that_is_still_open() -> None:
    wheel = Wheel(clock=lambda: 0.0)
    assert wheel.take("ann") == ""
    assert wheel.open_socket("ann") == ""
    turn = wheel.turn
    assert wheel.is_turn(turn)
    wheel.give("ann")  # in another tab
    assert not wheel.is_turn(turn)
    assert wheel.take("bob") == ""
    assert wheel.open_socket("bob") == ""
    bobs = wheel.turn
    wheel.close_socket(turn)  # ann's closes at last
    assert wheel.is_turn(bobs)
    assert wheel.seen_by("bob") == "me"


def test_a_lease_is_not_held_by_asking_again_without_a_socket() -> None:
    now = 0.0
    wheel = Wheel(clock=lambda: now)
    assert wheel.take("ann") == ""
    now = 4.0
    assert wheel.take("ann") == ""  # no harm, and no longer
    now = 5.5
    assert wheel.seen_by("bob") == "none"
    assert "others'" in wheel.take("ann")
    assert wheel.take("bob") == ""
    assert wheel.open_socket("bob") == ""
    wheel.give("bob")
    now = 11.0
    assert wheel.take("ann") == ""
    assert wheel.open_socket("ann") == ""
    now = 1000.0
    assert wheel.holder() == "ann"  # with a socket it is hers


def test_who_asks_all_the_time_leaves_the_wheel_free_half_of_it() -> None:
    now, free = 0.0, 0
    wheel = Wheel(clock=lambda: now)
    for tenth in range(1000):
        now = tenth / 10
        free += wheel.seen_by("bob") == "none"
        wheel.take("ann")
    assert free > 400


def test_a_hand_that_held_on_while_the_line_was_away_lets_go_before_it_drives_again() -> None:
    grip, obeyed_s = Grip(), -inf

    def drives(now_s: float, *, active: bool = True) -> bool:
        """A message that the robot obeys at once."""
        nonlocal obeyed_s
        if grip.may_drive(active=active, now_s=now_s, obeyed_s=obeyed_s):
            obeyed_s = now_s
            return True
        return False

    assert all(drives(0.05 * i) for i in range(20))
    assert drives(0.95 + 0.4)  # a hiccup
    assert not any(drives(1.35 + 0.6 + 0.05 * i) for i in range(200))
    assert drives(20.0, active=False)
    assert drives(60.0)  # it had let go: there is nothing to hold on to
    assert not drives(61.0)


def test_a_hand_that_held_on_while_the_robot_hung_lets_go_before_it_drives_again() -> None:
    grip = Grip()
    assert all(grip.may_drive(active=True, now_s=0.05 * i, obeyed_s=0.05 * i - 0.1) for i in range(20))
    # Every message comes in time; the robot has taken none since 0.9 s.
    assert all(grip.may_drive(active=True, now_s=0.95 + 0.05 * i, obeyed_s=0.9) for i in range(9))
    assert not grip.may_drive(active=True, now_s=1.45, obeyed_s=0.9)
    assert not grip.may_drive(active=True, now_s=5.0, obeyed_s=4.95)  # it goes on, and the key is still down
    assert grip.may_drive(active=False, now_s=5.05, obeyed_s=5.0)
    assert grip.may_drive(active=True, now_s=5.1, obeyed_s=5.05)


def test_a_hand_that_takes_hold_while_the_robot_hangs_is_not_waited_for_longer() -> None:
    grip = Grip()
    assert grip.may_drive(active=True, now_s=9.0, obeyed_s=-inf)
    assert grip.may_drive(active=True, now_s=9.4, obeyed_s=-inf)
    assert not grip.may_drive(active=True, now_s=9.6, obeyed_s=-inf)
    assert not grip.may_drive(active=True, now_s=12.0, obeyed_s=11.9)


@dataclass
class Network:
    """A driver and the service over a line that delays: what is said in one direction arrives in order. Their clocks
    are `ahead` seconds apart, and `drift` seconds a second; at `jumps_at_s` the driver's is put forward by `by_s`."""

    ahead: float = 0.0
    drift: float = 0.0
    jumps_at_s: float = inf
    by_s: float = 0.0

    def mine(self, true_s: float) -> float:
        """The driver's clock, ms."""
        jumped = self.by_s if true_s >= self.jumps_at_s else 0.0
        return (true_s * (1 + self.drift) - self.ahead + jumped) * 1000

    def drives(self, there: list[float], back: list[float]) -> list[tuple[float, float]]:
        """(when a message was given, seconds from then within which it is driven by) of those that are driven by.

        there, back: how long each message and its ack would be under way alone."""
        lateness, driven = Lateness(), []
        acks: list[tuple[float, float]] = []  # (when it comes, the service's clock in it)
        arrives = comes = 0.0
        for i, (out_s, back_s) in enumerate(zip(there, back, strict=True)):
            given_s = 100.0 + i * PERIOD_S
            arrives = max(arrives, given_s + out_s)
            heard = [(at_s, clock_s) for at_s, clock_s in acks if at_s <= given_s]
            echo = (heard[-1][1] * 1000, self.mine(heard[-1][0])) if heard else None
            late_s = lateness.of(self.mine(given_s), now_s=arrives, echo=echo)
            if late_s is not None and (for_s := good_for_s(late_s)):
                driven.append((given_s, arrives - late_s + for_s - given_s))
            comes = max(comes, arrives + back_s)
            acks.append((comes, arrives))
        return driven


def test_a_quick_network_drives_from_its_second_message_on() -> None:
    driven = Network(ahead=-5000.0).drives([0.01] * 50, [0.01] * 50)
    assert len(driven) == 49
    assert all(SILENT_S < good_s <= GOOD_S for _, good_s in driven)


@pytest.mark.parametrize(("there_s", "back_s"), [(3.0, 0.01), (0.3, 0.3), (1.0, 1.0), (0.01, 3.0)])
def test_a_network_that_is_slow_from_its_first_message_drives_nothing(there_s: float, back_s: float) -> None:
    assert Network(ahead=77.0).drives([there_s] * 400, [back_s] * 400) == []


def test_a_network_that_stays_slow_stays_refused_and_heals() -> None:
    there = [0.01] * 100 + [3.0] * 20 * 60 + [0.01] * 200
    driven = {round(given_s, 2) for given_s, _ in Network().drives(there, [0.01] * len(there))}
    assert max(g for g in driven if g < 105.1) < 105.0
    assert not [g for g in driven if 105.0 <= g < 105.0 + 60]
    assert len([g for g in driven if g > 165 + 3]) > 130


@given(
    st.lists(
        st.tuples(st.floats(0.0, 0.6), st.floats(0.0, 0.6)) | st.just((0.01, 0.01)), min_size=2, max_size=60
    ),
    st.floats(-1e6, 1e6),
    st.floats(-5e-5, 5e-5),
)
def test_whatever_the_network_does_no_command_drives_for_longer(
    ways: list[tuple[float, float]], ahead: float, drift: float
) -> None:
    driven = Network(ahead, drift).drives([w[0] for w in ways], [w[1] for w in ways])
    assert all(good_s + TICK_S <= DEAD_MAN_S + 1e-3 for _, good_s in driven)


@given(
    st.lists(
        st.tuples(st.floats(0.0, 0.6), st.floats(0.0, 0.6)) | st.just((0.01, 0.01)), min_size=2, max_size=60
    ),
    st.floats(100.0, 103.0),
    st.sampled_from([-30.0, -2.0, 2.0, 30.0]),
)
def test_a_clock_that_jumps_makes_no_command_drive_for_longer(
    ways: list[tuple[float, float]], at_s: float, by_s: float
) -> None:
    driven = Network(jumps_at_s=at_s, by_s=by_s).drives([w[0] for w in ways], [w[1] for w in ways])
    assert all(good_s + TICK_S <= DEAD_MAN_S + 1e-3 for _, good_s in driven)


@pytest.mark.parametrize("by_s", [-30.0, -2.0, 2.0, 30.0])
def test_a_clock_that_jumped_does_not_open_a_slow_line_and_locks_nobody_out_of_a_quick_one(
    by_s: float,
) -> None:
    quick, slow = [0.01] * 100, [1.0] * 400
    network = Network(jumps_at_s=105.0, by_s=by_s)
    assert max(given_s for given_s, _ in network.drives(quick + slow, quick + slow)) < 105.0
    healed = [given_s for given_s, _ in network.drives(quick * 3, quick * 3) if given_s > 105.0 + 2.5]
    assert len(healed) > 0.9 * (115.0 - 107.5) / PERIOD_S


def test_clocks_that_drift_apart_drive_on() -> None:
    for drift in (-5e-5, 5e-5):
        lateness, network = Lateness(), Network(drift=drift)
        for second in range(1, 4 * 3600):
            echo = ((second - 0.5) * 1000, network.mine(second - 0.5))
            late_s = lateness.of(network.mine(second), now_s=float(second), echo=echo)
            assert late_s is not None
            assert late_s < 0.01


def test_an_echo_of_what_was_never_said_drives_nothing() -> None:
    lateness = Lateness()
    assert lateness.of(0.0, now_s=10.0) is None
    assert good_for_s(lateness.of(100.0, now_s=10.1, echo=(20_000.0, 50.0)) or 0.0) == 0.0
    assert good_for_s(lateness.of(100.0, now_s=10.1, echo=(10_000.0, 150.0)) or 0.0) == 0.0


def test_half_an_echo_is_no_message() -> None:
    good = {"t": 1, "steering": 0, "throttle": 0, "active": True}
    assert read_message(json.dumps(good)).echo is None
    assert read_message(json.dumps({**good, "clock": 5, "heard": 0.5})).echo == (5.0, 0.5)
    for wrong in ({"clock": 5}, {"heard": 5}, {"clock": "5", "heard": 1}, {"clock": True, "heard": 1}):
        with pytest.raises(ValueError, match=r"clock|heard"):
            read_message(json.dumps({**good, **wrong}))


def test_many_new_sessions_push_out_none_that_is_in_use() -> None:
    now = 0.0
    sessions = Sessions(clock=lambda: now)
    token, mine = sessions.begin()
    for _ in range(3000):
        sessions.begin()
    assert sessions.of(token) == mine
    now = 3600.0
    assert sessions.of(token) == mine
    assert sessions.of(sessions.begin()[0]) is not None
    assert len(sessions._by_key) <= 64


def test_a_week_without_a_request_ends_a_session() -> None:
    now = 1e9
    sessions = Sessions(clock=lambda: now)
    token, mine = sessions.begin()
    now += 6.9 * 24 * 3600
    assert sessions.of(token) == mine
    now += 7.1 * 24 * 3600
    assert sessions.of(token) is None
    assert sessions.of(token) is None


@pytest.mark.parametrize("leap_s", [9 * 24 * 3600.0, -9 * 24 * 3600.0])
def test_a_wall_clock_that_is_set_ends_no_session_that_is_in_use(tmp_path: Path, leap_s: float) -> None:
    path, now = tmp_path / "sessions.json", 1e9
    leapt_s, noted = 0.0, list[float]()

    def write(kept: list[KeptSession]) -> None:
        noted.append(max((session.seen_s for session in kept), default=0.0))
        write_sessions(path, kept)

    def sessions() -> Sessions:
        return Sessions(
            read_sessions(path), on_change=write, wall=lambda: now + leapt_s, clock=lambda: now - 1e9
        )

    first = sessions()
    (watching, mine), (asleep, its) = first.begin(), first.begin()
    now, leapt_s = now + 1.0, leap_s  # as a Pi's is, once it has a network
    assert first.of(watching) == mine
    assert noted[-1] == now + leapt_s
    second = sessions()  # and who did not ask just then is not forgotten by the file either
    assert second.of(watching) == mine
    assert second.of(asleep) == its
    now += 8 * 24 * 3600.0
    assert second.of(watching) is None
    assert sessions().of(asleep) is None


def test_sessions_that_are_in_use_are_not_pushed_out_by_a_clock_that_is_set() -> None:
    now, leapt_s = 0.0, 0.0
    sessions = Sessions(wall=lambda: 1e9 + now + leapt_s, clock=lambda: now)
    token, mine = sessions.begin()
    leapt_s = -3600.0
    for _ in range(200):
        sessions.begin()
    assert sessions.of(token) == mine
    now = 60.0
    for _ in range(200):
        sessions.begin()
    assert sessions.of(token) is None  # not in use any more: the oldest


def test_sessions_outlive_the_service_and_the_file_opens_nothing(tmp_path: Path) -> None:
    path, now = tmp_path / "run" / "sessions.json", 1e9
    first = Sessions(read_sessions(path), on_change=partial(write_sessions, path), wall=lambda: now)
    token, mine = first.begin()
    assert path.stat().st_mode & 0o777 == 0o600
    for secret in (token, mine.csrf):
        assert secret not in path.read_text()
    now += 6 * 24 * 3600
    second = Sessions(read_sessions(path), on_change=partial(write_sessions, path), wall=lambda: now)
    assert second.of(token) == mine
    assert second.of(path.read_text()) is None
    assert all(second.of(kept.key) is None for kept in read_sessions(path))
    now += 6 * 24 * 3600  # in use within the week, which the file knows
    third = Sessions(read_sessions(path), on_change=partial(write_sessions, path), wall=lambda: now)
    assert third.of(token) == mine
    third.forget()
    assert third.of(token) is None
    assert read_sessions(path) == []


@pytest.mark.parametrize(
    "damage",
    [b"", b"{}", b"[1]", b"[[" * 40000, b'[{"key": "x", "name": "y", "seen_unix_s": 1}]', b"\xff" * 9,
     b'[{"key": "' + b"a" * 64 + b'", "name": "abcdef01", "seen_unix_s": NaN}]'],
)  # fmt: skip
def test_a_damaged_session_file_lets_nobody_in(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "s.json").write_bytes(damage)
    assert read_sessions(tmp_path / "s.json") == []
