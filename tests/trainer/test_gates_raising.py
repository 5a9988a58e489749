"""Claims about gates, hosts and clocks that raise: they close what they concern, and take nothing from the others."""

from __future__ import annotations

import pytest

from continuonbrain.errors import BrainError
from continuonbrain.robot.host import HostReadings, SimulatedHost
from continuonbrain.trainer.gate_rules import GateState
from continuonbrain.trainer.gates import GateSet
from tests.trainer.gate_readings import NOW, all_gates, good


def test_a_host_that_raises_closes_every_gate() -> None:
    class Broken:
        def read(self) -> HostReadings:
            raise OSError("i2c: no acknowledge")

    report = all_gates().poll(Broken())
    assert all(not state.open for state in report.states)
    assert "i2c" in report.states[0].reason


def test_a_clock_that_raises_closes_every_gate() -> None:
    def broken_clock() -> float:
        raise OSError("no clock")

    report = all_gates().poll(SimulatedHost(), clock=broken_clock)
    assert all(not state.open for state in report.states)


def test_a_gate_that_raises_is_closed() -> None:
    class Broken:
        name, dwell_s = "broken", 0.0

        def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
            raise ZeroDivisionError("oops")

    report = GateSet((Broken(),)).evaluate(good(), NOW)
    assert not report.open
    assert "oops" in report.states[0].reason


def test_what_a_gate_has_seen_is_not_forgotten_in_a_round_in_which_it_raises() -> None:
    broken: list[bool] = []

    class Shaky:
        name, dwell_s = "idle", 0.0

        def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
            if broken:
                raise ZeroDivisionError("oops")
            return GateState("idle", True, 1.0, "", traces=(None, None), seen=True)

    gates = GateSet((Shaky(),))
    first = gates.evaluate(good(), NOW)
    broken.append(True)
    second = gates.evaluate(good(), NOW + 1, previous=first)
    assert not second.open
    assert (second.states[0].traces, second.states[0].seen) == ((None, None), True)


def test_a_gate_that_raises_takes_nothing_from_the_gates_after_it() -> None:
    class Broken:
        name, dwell_s = "broken", 0.0

        def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
            raise ZeroDivisionError("oops")

    class Next:
        name, dwell_s = "next", 0.0

        def __call__(self, readings: HostReadings, *, now_s: float, before: GateState | None) -> GateState:
            seen.append(before)
            return GateState("next", True, now_s, "")

    seen: list[GateState | None] = []
    gates = GateSet((Broken(), Next()))
    first = gates.evaluate(good(), NOW)
    gates.evaluate(good(), NOW + 1, previous=first)
    assert seen == [None, first.states[1]]


def test_no_gates_at_all_is_an_error_not_a_permission() -> None:
    with pytest.raises(BrainError, match="no gates"):
        GateSet(())
