"""When a driving record is worse: few ticks say little, grossly worse is seen at once, a good one is kept."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from continuonbrain.storage import probation_look
from continuonbrain.storage.driving_record import INCIDENTS, DrivingRecord
from continuonbrain.storage.probation_look import (
    Rules,
    asked_of,
    limit_per_s,
    log_evidence,
    look,
    poisson_upper,
)
from continuonbrain.storage.probation_rule import Terms

TERMS = Terms(400, 0.0, "boot")
RULES = Rules()


def record(
    seconds: float, *, decision_ms: float = 50.0, spread_ms: float = 5.0, **incidents: int
) -> DrivingRecord:
    n = int(seconds * 5)
    return DrivingRecord(
        ticks=round(seconds * 20),
        seconds=seconds,
        incidents=incidents,
        decisions=n,
        decision_ms=n * decision_ms,
        decision_ms2=n * (decision_ms**2 + spread_ms**2),
    )


def test_nothing_happened_it_goes_on_and_is_confirmed_at_the_end() -> None:
    before = record(600.0, correction=40)
    assert look(record(0.0), DrivingRecord(), TERMS).do == "go_on"
    assert look(record(19.9), before, TERMS).do == "go_on"
    seen = look(record(20.0), before, TERMS)
    assert (seen.do, seen.reason) == ("confirm", "drove_well")


def test_minutes_and_ticks_are_both_asked_for() -> None:
    both = Terms(400, 1.0, "boot")
    assert look(record(59.0), DrivingRecord(), both).do == "go_on"
    assert look(record(60.0), DrivingRecord(), both).do == "confirm"
    only_minutes = Terms(0, 1.0, "boot")
    assert look(record(59.0), DrivingRecord(), only_minutes).do == "go_on"
    assert look(record(60.0), DrivingRecord(), only_minutes).do == "confirm"


def test_grossly_worse_is_taken_back_within_seconds() -> None:
    for before in (DrivingRecord(), record(600.0, off_road=1)):
        seen = look(record(6.0, off_road=3), before, TERMS)
        assert (seen.do, seen.reason) == ("revert", "off_road")
        assert "off_road: 3 in 6.0 s" in seen.words


def test_one_incident_more_than_before_is_not_worse() -> None:
    for name in INCIDENTS:
        assert look(record(10.0, **{name: 1}), record(600.0), TERMS).do == "go_on"


def test_as_bad_as_the_one_before_is_good_enough() -> None:
    base = record(100.0, off_road=30, correction=90)
    assert look(record(20.0, off_road=6, correction=18), base, TERMS).do == "confirm"
    assert look(record(20.0, off_road=40, correction=18), base, TERMS).do == "revert"


def test_a_suspicious_one_is_watched_longer_and_then_taken_back() -> None:
    doubtful = next(n for n in range(200) if -math.log(0.1) <= log_evidence(n, 20.0, 0.05) < -math.log(0.01))
    rules = Rules(limits_per_min=dict.fromkeys(INCIDENTS, 3.0))
    assert look(record(20.0, block=doubtful), DrivingRecord(), TERMS, rules=rules).do == "go_on"
    more = next(n for n in range(200) if -math.log(0.1) <= log_evidence(n, 61.0, 0.05) < -math.log(0.01))
    seen = look(record(61.0, block=more), DrivingRecord(), TERMS, rules=rules)
    assert (seen.do, seen.reason) == ("revert", "doubt")


def test_slower_decisions_are_worse_only_when_that_is_certain() -> None:
    before = record(600.0, decision_ms=200.0)
    assert look(record(10.0, decision_ms=900.0), before, TERMS).reason == "latency"
    assert look(record(10.0, decision_ms=900.0, spread_ms=4000.0), before, TERMS).do == "go_on"
    assert look(record(4.0, decision_ms=900.0), before, TERMS).do == "go_on"  # twenty decisions
    assert look(record(10.0, decision_ms=30.0), record(600.0, decision_ms=10.0), TERMS).do == "go_on"


def test_a_policy_process_that_is_started_again_and_again_is_worse() -> None:
    assert look(record(1.0), DrivingRecord(), TERMS, restarts=3).do == "go_on"
    assert look(record(1.0), DrivingRecord(), TERMS, restarts=4).reason == "restarts"


def test_each_start_of_the_policy_process_has_it_driven_for_its_terms_once_more() -> None:
    for terms in (TERMS, Terms(0, 1 / 3, "boot"), Terms(400, 1 / 3, "boot")):
        for restarts in (0, 1, 2, 3):
            needed_s = 20.0 * (1 + restarts)
            assert look(record(needed_s - 0.1), record(600.0), terms, restarts=restarts).do == "go_on"
            assert look(record(needed_s), record(600.0), terms, restarts=restarts).do == "confirm"
    final = Terms(0, 0.0, "boot")
    assert asked_of(final, 3) == final


@settings(max_examples=30)
@given(st.floats(0.5, 19.9), st.integers(1, 8))
def test_what_ends_the_policy_process_more_often_than_once_in_its_terms_is_never_confirmed(
    period_s: float, max_restarts: int
) -> None:
    """Looked at once a second of driving, until it is over."""
    rules = Rules(max_restarts=max_restarts)
    for second in range(1, 200):
        restarts = int(second / period_s)
        seen = look(record(float(second)), record(600.0), TERMS, restarts=restarts, rules=rules)
        if seen.do != "go_on":
            break
    assert (seen.do, seen.reason) == ("revert", "restarts")
    assert second <= period_s * (max_restarts + 1) + 1.0


@pytest.mark.parametrize(("count", "expected"), [(0, 4.605), (1, 6.638), (10, 20.145), (1000, 1077.4)])
def test_the_upper_bound_is_the_exact_one(count: int, expected: float) -> None:
    # Half the chi-square quantile of 0.99 with 2 (count + 1) degrees of freedom.
    assert poisson_upper(count, 0.01) == pytest.approx(expected, rel=2e-3)


def test_above_a_thousand_the_bound_is_the_exact_one_too_and_a_garbage_count_takes_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = (1_001, 3_000, 20_000)
    quick = [poisson_upper(count, 0.01) for count in counts]
    started = time.monotonic()
    assert poisson_upper(2**53, 0.01) >= 2**53
    assert time.monotonic() - started < 1.0
    monkeypatch.setattr(probation_look, "_MANY", 10**9)
    assert quick == pytest.approx([poisson_upper(count, 0.01) for count in counts], rel=2e-6)


def test_one_incident_in_a_short_record_of_before_excuses_no_storm_of_them() -> None:
    before = record(21.5, block=1)
    assert limit_per_s("block", before, RULES) <= 6.0 / 60.0
    assert look(record(4.0, block=4), before, TERMS).reason == "block"
    assert look(record(20.0, block=2), before, TERMS).do == "confirm"


def test_a_short_record_of_before_says_nothing() -> None:
    short, long = record(5.0, off_road=5), record(100.0, off_road=5)
    assert limit_per_s("off_road", short, RULES) == pytest.approx(1 / 60)
    assert limit_per_s("off_road", long, RULES) > 0.05


def test_a_short_clean_record_does_not_loosen_the_limit_and_a_long_one_tightens_it() -> None:
    assert limit_per_s("off_road", record(25.0), RULES) == pytest.approx(1 / 60)
    assert limit_per_s("off_road", record(3600.0), RULES) == pytest.approx(1 / 240)
    assert look(record(5.0, off_road=3), record(25.0), TERMS).reason == "off_road"


def test_a_good_adapter_is_ever_taken_back_less_often_than_alpha_says() -> None:
    """At the limit itself, asked every second for five minutes, a thousand times."""
    random.seed(0)
    limit, bound, taken = 0.1, -math.log(RULES.alpha), 0
    for _ in range(1000):
        count = 0
        for second in range(1, 301):
            count += sum(random.random() < limit / 10 for _ in range(10))
            if log_evidence(count, float(second), limit) >= bound:
                taken += 1
                break
    assert taken <= 10


def test_one_three_times_worse_is_nearly_always_found() -> None:
    random.seed(1)
    limit, bound, taken = 0.1, -math.log(RULES.alpha), 0
    for _ in range(200):
        count = 0
        for second in range(1, 301):
            count += sum(random.random() < 3 * limit / 10 for _ in range(10))
            if log_evidence(count, float(second), limit) >= bound:
                taken += 1
                break
    assert taken >= 195


def test_records_are_read_strictly() -> None:
    good = record(20.0, correction=3)
    read = DrivingRecord.from_json(good.to_json())
    assert read.incidents == dict.fromkeys(INCIDENTS, 0) | {"correction": 3}
    assert (read.ticks, read.seconds, read.decisions) == (good.ticks, good.seconds, good.decisions)
    for broken in (
        None,
        [],
        {"ticks": -1},
        {"ticks": True},
        {"seconds": math.nan},
        {"incidents": {"stop": "1"}},
    ):
        with pytest.raises(ValueError):
            DrivingRecord.from_json(broken)


@pytest.mark.parametrize(
    "told",
    [
        {"ticks": 400, "seconds": 0.001},
        {"ticks": 2**52, "seconds": 1.0},
        {"ticks": 2**53 - 1, "seconds": 9e15},
        {"ticks": 0, "seconds": 2e9},
    ],
)
def test_counts_that_no_loop_makes_are_no_record(told: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no loop makes"):
        DrivingRecord.from_json(told)


def test_a_record_that_was_lost_counts_from_its_new_beginning() -> None:
    already = record(250.0, off_road=20)
    assert record(20.0, off_road=20).since(already).incidents["off_road"] == 20
    assert record(260.0, off_road=23).since(already).incidents["off_road"] == 3
