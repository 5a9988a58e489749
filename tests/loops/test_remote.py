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
