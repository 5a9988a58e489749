"""A person's commands: the newer one counts, and none is ever younger than it is."""

from __future__ import annotations

import math

import pytest

from continuonbrain.loops.remote import RemoteControl


def test_before_the_first_command_there_is_none() -> None:
    assert RemoteControl(clock=lambda: 5.0)() == ((0.0, 0.0), math.inf)


def test_the_newer_of_the_two_counts() -> None:
    now = [10.0]
    own: list[tuple[tuple[float, float], float]] = [((0.9, 0.1), 0.2)]
    remote = RemoteControl(lambda: own[0], clock=lambda: now[0])
    assert remote() == own[0]
    assert remote.take({"steering": -0.5, "throttle": 1}) == ""
    now[0] = 10.1
    command, age_s = remote()
    assert command == (-0.5, 1.0)
    assert age_s == pytest.approx(0.1)
    own[0] = ((0.0, 0.0), 0.05)
    assert remote() == own[0]
    own[0] = ((0.0, 0.0), math.inf)
    remote.let_go()
    assert remote()[1] == math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.01, -2, "0", None, True, [0.1]])
def test_what_is_no_number_in_range_is_refused_and_changes_nothing(value: object) -> None:
    remote = RemoteControl(clock=lambda: 1.0)
    assert remote.take({"steering": 0.25, "throttle": 0.5}) == ""
    assert "is not a number" in remote.take({"steering": value, "throttle": 0.0})
    assert "is not a number" in remote.take({"steering": 0.0, "throttle": value})
    assert remote() == ((0.25, 0.5), 0.0)


def test_who_promised_to_come_again_and_did_not_is_gone() -> None:
    now = [1.0]
    remote = RemoteControl(clock=lambda: now[0])
    assert remote.hand() == "gone"
    assert remote.take({"steering": 0.5, "throttle": 0.5, "for_s": 0.2}) == ""
    now[0] = 1.19
    assert remote.hand() == "drives"
    assert remote()[1] == pytest.approx(0.19)
    now[0] = 1.21
    assert remote.hand() == "gone"
    assert remote()[1] == math.inf


def test_a_hand_off_the_wheel_watches_and_commands_nothing() -> None:
    remote = RemoteControl(clock=lambda: 1.0)
    assert remote.take({"steering": 0.5, "throttle": 0.5, "active": False, "for_s": 0.2}) == ""
    assert remote.hand() == "watches"
    assert remote()[1] == math.inf


def test_a_connection_that_ended_lets_go_for_good() -> None:
    there = [True]
    remote = RemoteControl(clock=lambda: 1.0)
    assert remote.take({"steering": 0.5, "throttle": 0.5}, lambda: there[0]) == ""
    assert remote.hand() == "drives"
    there[0] = False
    assert remote()[1] == math.inf
    there[0] = True
    assert remote.hand() == "gone"


@pytest.mark.parametrize(
    "wrong",
    [
        {"active": 1},
        {"for_s": 0},
        {"for_s": math.nan},
        {"for_s": 11},
        {"for_s": "1"},
        {"sent_s": 1.1},
        {"sent_s": math.nan},
        {"sent_s": "0"},
    ],
)
def test_a_promise_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    remote = RemoteControl(clock=lambda: 1.0)
    assert remote.take({"steering": 0.5, "throttle": 0.5, **wrong}) != ""
    assert remote.hand() == "gone"


def test_a_remote_control_of_the_bodys_own_drives_whatever_the_socket_says() -> None:
    own = [((0.1, 0.1), 0.1)]
    remote = RemoteControl(lambda: own[0], clock=lambda: 1.0)
    assert remote.hand() == "drives"
    own[0] = ((0.0, 0.0), 0.3)
    assert remote.hand() == "gone"


def test_a_command_that_waited_somewhere_is_as_old_as_it_is() -> None:
    remote = RemoteControl(clock=lambda: 5.0)
    assert remote.take({"steering": 0.5, "throttle": 0.5, "for_s": 0.2, "sent_s": 4.9}) == ""
    assert remote()[1] == pytest.approx(0.1)
    assert remote.take({"steering": 0.5, "throttle": 0.5, "for_s": 0.2, "sent_s": 4.7}) == ""
    assert remote.hand() == "gone"
