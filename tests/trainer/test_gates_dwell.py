"""Claims about opening again: closing is immediate, opening needs its margin and its dwell time."""

from __future__ import annotations

import math

import pytest

from continuonbrain.robot.host import SimulatedHost
from continuonbrain.trainer.gate_rules import GateState, settled
from tests.trainer.gate_readings import NOW, all_gates


@pytest.mark.parametrize(
    ("name", "closing", "between", "opening"),
    [
        ("battery_fraction", 0.39, 0.42, 0.45),
        ("cpu_temp_c", 76.0, 72.0, 70.0),
        ("memory_available_mib", 500.0, 600.0, 640.0),
        ("disk_free_mib", 500.0, 600.0, 640.0),
        ("memory_pressure", 21.0, 15.0, 10.0),
        ("io_pressure", 61.0, 55.0, 50.0),
    ],
)
def test_closing_is_immediate_and_opening_needs_the_margin(
    name: str, closing: float, between: float, opening: float
) -> None:
    host = SimulatedHost(clock=lambda: NOW, jitter=False)
    gates = all_gates()
    seen = []
    for value in (between, closing, between, opening, between):
        host.set(**{name: value})
        seen.append(gates.poll(host, clock=lambda: NOW).open)
    assert seen == [True, False, False, True, True]


@pytest.mark.parametrize(
    ("refused_s", "now_s", "opens"),
    [
        (0.0, 4.9, False),
        (0.0, 5.0, True),
        (None, 5.0, False),  # when it was closed is not known: the wait begins
        (9.0, 5.0, False),  # closed by another clock
    ],
)
def test_a_closed_gate_opens_when_its_dwell_time_is_over(
    refused_s: float | None, now_s: float, opens: bool
) -> None:
    before = GateState("idle", False, 1.0, "", refused_s=refused_s)
    after = settled(GateState("idle", True, 1.0, ""), before, now_s=now_s, dwell_s=5.0)
    assert after.open is opens
    if not opens:
        assert after.refused_s == (refused_s if refused_s == 0.0 else now_s)
        assert not settled(GateState("idle", True, 1.0, ""), after, now_s=math.nan, dwell_s=5.0).open
        assert settled(GateState("idle", True, 1.0, ""), after, now_s=now_s + 5.0, dwell_s=5.0).open


def test_the_dwell_is_counted_from_the_last_refusal_not_the_first() -> None:
    no, yes = GateState("idle", False, 0.0, "no"), GateState("idle", True, 1.0, "yes")
    state = settled(no, None, now_s=0.0, dwell_s=10.0)
    state = settled(no, state, now_s=50.0, dwell_s=10.0)
    for now_s, opens in ((51.0, False), (59.0, False), (60.0, True)):
        state = settled(yes, state, now_s=now_s, dwell_s=10.0)
        assert state.open is opens, now_s


def test_after_a_look_without_a_time_the_wait_begins_anew() -> None:
    no, yes = GateState("idle", False, 0.0, "no"), GateState("idle", True, 1.0, "yes")
    for blind in (no, yes):
        state = settled(no, None, now_s=0.0, dwell_s=10.0)
        state = settled(blind, state, now_s=math.nan, dwell_s=10.0)
        assert not state.open
        for now_s, opens in ((100.0, False), (109.0, False), (110.0, True)):
            state = settled(yes, state, now_s=now_s, dwell_s=10.0)
            assert state.open is opens, now_s
