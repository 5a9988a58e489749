"""A hand that holds the pad while nobody listens: the loop that obeys it hangs, the thread that reads it, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.robot.donkey.absence import GAP_S, Absence
from continuonbrain.robot.donkey.evdev_pad import PadCodes
from continuonbrain.robot.donkey.gamepad import EV_ABS, EV_KEY, Gamepad, PadState, Press

CODES = PadCodes(steering=0, throttle=4, deadman=310, stop=305, mode=315)
RANGE = (-100, 100)
HOLD, LET_GO, AGAIN = (EV_KEY, 310, 1), (EV_KEY, 310, 0), (EV_KEY, 310, 2)
FULL, TREMBLE = (EV_ABS, 4, -100), (EV_ABS, 4, -99)
STOP, MODE = (EV_KEY, 305, 1), (EV_KEY, 315, 1)
TICK_S = 0.05
Who = Literal["the loop", "the reader", "both"]
WHO: tuple[Who, ...] = ("the loop", "the reader", "both")


class Desk:
    """A pad whose events wait in a queue, the thread that reads it and the loop that obeys it, one step of 50 ms after
    the other. A trembling stick speaks all the while."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.queue: list[tuple[int, int, int]] = []
        self.presses: list[Press] = []
        self.pad = Gamepad(
            lambda: self, CODES, quiet_s=3.0, on_press=self.presses.append, clock=lambda: self.now_s
        )
        self.state = PadState(CODES, (RANGE, RANGE), 3.0)

    def read(self, timeout_s: float) -> Sequence[tuple[int, int, int]]:
        events, self.queue = self.queue[:64], self.queue[64:]
        return events

    def range_of(self, axis: int) -> tuple[int, int]:
        return RANGE

    def close(self) -> None:
        pass

    def step(
        self, *events: tuple[int, int, int], reads: bool = True, obeys: bool = True, loop_first: bool = False
    ) -> bool:
        """Whether the car drives in this step."""
        self.now_s += TICK_S
        self.queue += [*events, TREMBLE]
        if reads and not loop_first:
            self._follow()
        (_, throttle), age_s = self.pad() if obeys else ((0.0, 0.0), 9.0)
        if reads and loop_first:
            self._follow()
        if obeys:
            self.pad.ticked()
        return throttle > 0.5 and age_s < 0.25

    def _follow(self) -> None:
        """What waits is read at once, 64 events a look."""
        self.pad._follow(self, self.state)
        while self.queue:
            self.pad._follow(self, self.state)

    def hang(self, who: Who, seconds: float, *events: tuple[int, int, int]) -> None:
        for step in range(round(seconds / TICK_S)):
            self.step(*(events if step == 2 else ()), reads=who == "the loop", obeys=who == "the reader")


@pytest.fixture
def held() -> Desk:
    desk = Desk()
    desk.step(HOLD, FULL)
    assert all(desk.step() for _ in range(20))
    return desk


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("loop_first", [False, True])
@pytest.mark.parametrize("seconds", [0.6, 2.0, 30.0])
def test_a_hand_that_held_on_while_nobody_listened_presses_anew(
    held: Desk, who: Who, seconds: float, *, loop_first: bool
) -> None:
    held.hang(who, seconds)
    assert not any(held.step(loop_first=loop_first) for _ in range(200))
    assert not any(held.step(AGAIN) for _ in range(20))  # one that is held, said again
    held.step(LET_GO)
    held.step(HOLD)
    assert held.step()


@pytest.mark.parametrize("who", WHO)
def test_a_hiccup_is_none_of_it(held: Desk, who: Who) -> None:
    held.hang(who, 0.4)
    held.step()
    assert all(held.step() for _ in range(20))


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("deeds", [(LET_GO, HOLD), (MODE,), (LET_GO, HOLD, *[TREMBLE] * 900, LET_GO, HOLD)])
def test_what_was_pressed_while_nobody_listened_moves_nothing(
    held: Desk, who: Who, deeds: tuple[tuple[int, int, int], ...]
) -> None:
    held.hang(who, 2.0, *deeds)
    assert not any(held.step() for _ in range(100))
    if who != "the loop":  # that the loop hangs the reader cannot know: the body forgets it
        assert held.presses == []
    held.step(MODE)
    held.step(LET_GO, HOLD)
    assert held.step()
    assert held.presses[-1:] == ["mode"]


@pytest.mark.parametrize("who", WHO)
def test_a_stop_that_was_pressed_while_nobody_listened_is_one(held: Desk, who: Who) -> None:
    held.hang(who, 2.0, STOP)
    held.step()
    assert held.presses == ["stop"]


@pytest.mark.parametrize("who", WHO)
def test_a_hand_that_let_go_meanwhile_presses_and_drives(held: Desk, who: Who) -> None:
    held.hang(who, 2.0, LET_GO)
    assert not any(held.step() for _ in range(8))
    held.step(HOLD)
    assert held.step()


def test_a_loop_that_looks_for_no_hand_is_no_loop_that_hangs(held: Desk) -> None:
    """On autopilot nobody asks the pad for its command."""
    for _ in range(100):
        held.now_s += TICK_S
        held.queue.append(TREMBLE)
        held.pad._follow(held, held.state)
        held.pad.ticked()
    assert held.step()


def test_a_tick_that_hangs_after_it_took_the_command_is_seen_too(held: Desk) -> None:
    held.now_s += TICK_S
    held.pad()
    for _ in range(40):
        held.step(obeys=False)
    held.pad.ticked()
    assert not any(held.step() for _ in range(100))


GAPS = st.lists(st.tuples(st.sampled_from(WHO), st.integers(1, 60), st.booleans()), max_size=6)


@given(GAPS)
def test_after_every_gap_the_car_stands_until_a_press_that_somebody_heard(
    gaps: list[tuple[Who, int, bool]],
) -> None:
    desk, may_drive = Desk(), True
    desk.step(HOLD, FULL)
    for who, steps, presses in gaps:
        desk.hang(who, steps * TICK_S)
        may_drive = may_drive and (steps + 1) * TICK_S <= GAP_S + 1e-6
        if abs((steps + 1) * TICK_S - GAP_S) < 1e-6:
            return  # by a rounding
        desk.step()
        driven = [desk.step() for _ in range(10)]
        assert driven == [may_drive] * 10
        if presses:
            desk.step(LET_GO)
            desk.step(HOLD)
            may_drive = True
            assert desk.step()


@given(st.lists(st.floats(0.0, 3.0), max_size=20))
def test_who_was_away_is_known_at_the_first_look_after_it(waits: list[float]) -> None:
    absence, now_s = Absence(), 7.0
    assert not absence.is_over(now_s)
    for wait_s in waits:
        now_s, before = now_s + wait_s, now_s
        assert absence.is_over(now_s) == (now_s - before > GAP_S)


def test_a_time_that_is_none_is_a_gap() -> None:
    for time_s in (float("nan"), 6.0):
        absence = Absence()
        absence.is_over(7.0)
        assert absence.is_over(time_s)
