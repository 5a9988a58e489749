"""Claims about the stuck detector: what stands still is seen, what may stand still is left in peace."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.robot.host import HostReadings, Reading, SimulatedHost
from continuonbrain.trainer.stuck import Alive, Grows, Moves, MovesOrRests, PulseOr, Trace

READINGS = SimulatedHost(clock=lambda: 0.0).read()


def verdicts(
    rule: Alive, rows: list[tuple[float, float, float | None]], readings: HostReadings = READINGS
) -> list[bool]:
    """Whether the sensor counts as stuck after each (time, value, pulse)."""
    trace: Trace | None = None
    found = []
    for now_s, value, pulse in rows:
        why, trace = rule(Reading(value, now_s, "probe", pulse=pulse), readings, trace)
        found.append(bool(why))
    return found


def test_a_value_that_stands_still_is_seen_after_the_window_and_forgiven_when_it_moves() -> None:
    rows = [(float(t), 50.0, None) for t in range(13)] + [(13.0, 50.55, None), (14.0, 50.55, None)]
    assert verdicts(Moves("value", 10.0, least=5), rows) == [False] * 11 + [True] * 2 + [False] * 2


def test_few_looks_prove_nothing_and_one_reading_seen_often_is_one() -> None:
    rule = Moves("value", 10.0, least=5)
    assert not any(verdicts(rule, [(0.0, 50.0, None), (3600.0, 50.0, None), (7200.0, 50.0, None)]))
    assert not any(verdicts(rule, [(0.0, 50.0, None)] + [(60.0, 50.0, None)] * 30))
    coarse = Moves("value", 300.0, least=20)
    soon_after = [(0.0, 50.0, None)] + [(3600.0 + t / 2, 50.0, None) for t in range(60)]
    assert not any(verdicts(coarse, soon_after)), "the same step as an hour ago is no hour on one step"
    assert verdicts(coarse, [(3600.0 * t, 50.0, None) for t in range(25)])[-1], "rare looks prove it in time"


def test_a_pulse_must_be_there_and_move_whatever_the_value_does() -> None:
    rule = Moves("pulse", 5.0)
    assert verdicts(rule, [(0.0, 1.0, None)]) == [True]
    assert verdicts(rule, [(float(t), 1.0, math.nan) for t in range(3)]) == [True] * 3
    assert verdicts(rule, [(float(t), float(t), 7.0) for t in range(8)]) == [False] * 6 + [True] * 2
    assert not any(verdicts(rule, [(float(t), 0.0, float(t)) for t in range(1000)]))


def test_readings_out_of_order_are_a_fault() -> None:
    for rule in (Moves("value", 10.0), Grows()):
        assert verdicts(rule, [(5.0, 1.0, None), (4.0, 1.0, None)])[-1]


def test_a_load_average_may_rest_at_whole_numbers_only() -> None:
    rule = MovesOrRests(180.0, "whole")
    for value, stuck in ((0.0, False), (1.0, False), (0.52, True)):
        assert verdicts(rule, [(10.0 * t, value, None) for t in range(40)])[-1] is stuck


def test_a_battery_with_whole_percents_may_rest_on_its_charger_only() -> None:
    rule = PulseOr(Moves("pulse", 600.0), MovesOrRests(7200.0, "docked"))
    rows = [(60.0 * t, 1.0, None) for t in range(200)]
    for docked, stuck in ((1.0, False), (0.0, True), (None, True)):
        readings = replace(READINGS, docked=Reading(docked, 0.0, "supply"))
        assert verdicts(rule, rows, readings)[-1] is stuck
    docked_readings = replace(READINGS, docked=Reading(1.0, 0.0, "supply"))
    assert verdicts(rule, [(60.0 * t, 1.0, 5.0) for t in range(20)], docked_readings)[-1], "a frozen gauge"


@pytest.mark.parametrize(
    ("values", "stuck"),
    [
        ([100.0, 101.0, 102.0, 103.0], False),
        ([100.0, 100.7, 101.8, 103.3], False),  # rounding and scheduling
        ([100.0, 0.0, 1.0, 2.0], False),  # it drove
        ([0.0, 0.0, 0.0, 0.0], False),  # it drives
        ([100.0, 100.0, 100.0, 100.0], True),
        ([100.0, 101.0, 3600.0, 3601.0], True),  # nobody can have stood still for longer than there was time
        ([100.0, 50.0, 51.0, 52.0], True),  # it would have driven before it was last seen standing
        ([100.0, 102.0, 104.0, 106.0], True),
    ],
)
def test_idle_time_grows_with_the_clock_or_begins_anew(values: list[float], stuck: bool) -> None:
    rows = [(1000.0 + t, value, None) for t, value in enumerate(values)]
    assert any(verdicts(Grows(), rows)) is stuck


def test_idle_time_counts_again_once_it_has_been_consistent() -> None:
    rows = [(0.0, 100.0, None)] + [(t, 500.0 + t, None) for t in (1.0, 2.0, 5.0, 5.9, 6.0, 7.0)]
    assert verdicts(Grows(), rows) == [False, True, True, True, True, False, False]


def test_a_creeping_idle_time_is_not_followed() -> None:
    """Each step is within the tolerance, the sum is not."""
    assert verdicts(Grows(), [(float(t), 100.0 + 0.8 * t, None) for t in range(20)])[-1]


@given(
    drives=st.lists(
        st.tuples(st.floats(0.1, 30.0), st.booleans(), st.floats(-0.05, 0.05)), min_size=1, max_size=60
    )
)
def test_a_healthy_idle_time_is_never_stuck(drives: list[tuple[float, bool, float]]) -> None:
    now_s, drove_s, rows = 1000.0, 400.0, []
    for step_s, driving, jitter in drives:
        now_s += step_s
        drove_s = now_s if driving else drove_s
        rows.append((now_s, max(0.0, now_s - drove_s + jitter), None))
    assert not any(verdicts(Grows(), rows))
