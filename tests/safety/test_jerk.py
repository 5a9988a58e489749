"""Claims about the jerk limit of steering: the rate changes no faster than it says, and nothing else gets worse."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from continuonbrain.config import GuardsConfig
from continuonbrain.safety.guards import Guard, Limits
from continuonbrain.safety.reasons import Reason
from continuonbrain.safety.slew import jerk_limited

DT = 0.05
TINY = 1e-9

limits_with_jerk = st.builds(
    Limits,
    steering_min=st.floats(-1, 0),
    steering_max=st.floats(0, 1),
    steering_rate_per_s=st.floats(0.01, 100),
    steering_jerk_per_s2=st.floats(0.1, 1e6),
)
ticks = st.lists(
    st.tuples(st.floats(-2, 2), st.one_of(st.just(DT), st.just(0.0), st.floats(1e-4, 0.5), st.floats(-9, 9))),
    min_size=1,
    max_size=40,
)


@settings(max_examples=500)
@given(limits=limits_with_jerk, ticks=ticks)
@example(  # a clock that moves by its last bit
    limits=Limits(steering_max=0.0, steering_rate_per_s=1.0, steering_jerk_per_s2=0.375),
    ticks=[(-1.0, 0.05), (0.0, 2.220446049250313e-16), (-1.0, 0.05)],
)
def test_however_targets_and_clock_jump_rate_and_jerk_and_bounds_all_hold(
    limits: Limits, ticks: list[tuple[float, float]]
) -> None:
    assert limits.steering_jerk_per_s2 is not None
    guard = Guard(limits)
    now, before, rate, unread = 0.0, 0.0, 0.0, 0.0
    guard.step((0.0, 0.0), now_s=now, chunk_age_s=0.0)
    for target, wait in ticks:
        elapsed = (now + wait) - now  # what the guard will measure
        now += wait
        after = guard.step((target, 0.0), now_s=now, chunk_age_s=0.0)
        if not 0.0 <= elapsed <= limits.max_gap_s:
            assert after.stopped
            rate, unread = 0.0, 0.0
        else:
            assert not after.stopped
            assert limits.steering_min <= after.steering <= limits.steering_max
            moved = after.steering - before
            assert abs(moved) <= limits.steering_rate_per_s * elapsed + TINY
            # Written without dividing by a time that may be tiny.
            turned = moved - rate * elapsed
            assert abs(turned) <= limits.steering_jerk_per_s2 * elapsed * (elapsed + unread) + 1e-7
            # Over a time this short the way is lost in the rounding of the command: the rate shows at the next tick.
            rate, unread = (moved / elapsed, 0.0) if elapsed >= 1e-6 else (rate, unread + max(elapsed, 0.0))
        before = after.steering


@settings(max_examples=200)
@given(limits=limits_with_jerk, start=st.floats(-2, 2), target=st.floats(-2, 2))
def test_a_held_target_is_reached_and_never_overshot_from_rest(
    limits: Limits, start: float, target: float
) -> None:
    low, high, jerk = limits.steering_min, limits.steering_max, limits.steering_jerk_per_s2
    assert jerk is not None
    position, rate = min(max(start, low), high), 0.0
    goal = min(max(target, low), high)
    sign = 1.0 if goal >= position else -1.0
    # Ten times as long as speeding up and braking take at the slower of the two limits, and some ticks.
    time_s = 10 * (2 / limits.steering_rate_per_s + 4 * (2 / jerk) ** 0.5)
    step = max(DT, time_s / 4000)
    for _ in range(4200):
        position, rate = jerk_limited(
            position,
            rate,
            goal,
            low=low,
            high=high,
            max_rate=limits.steering_rate_per_s,
            max_jerk=jerk,
            elapsed_s=step,
        )
        assert sign * (goal - position) >= -TINY
    assert position == pytest.approx(goal, abs=1e-6)


def turning(limits: Limits) -> tuple[Guard, float]:
    """A guard whose steering moves fast to the left, and where it is."""
    guard = Guard(limits)
    for tick in range(5):
        last = guard.step((1.0, 0.5), now_s=tick * DT, chunk_age_s=0.0)
    assert 0.2 < last.steering < 1.0
    return guard, last.steering


def test_a_safe_stop_is_as_quick_with_a_jerk_limit_as_without() -> None:
    guard, before = turning(Limits(steering_rate_per_s=6.0, steering_jerk_per_s2=30.0))
    after = guard.step(None, now_s=5 * DT, chunk_age_s=0.0)
    assert after.throttle == 0.0
    assert after.steering == pytest.approx(max(0.0, before - 6.0 * DT))


def test_after_a_stop_it_begins_anew_from_rest() -> None:
    guard, _ = turning(Limits(steering_rate_per_s=6.0, steering_jerk_per_s2=30.0))
    stopped = guard.step(None, now_s=5 * DT, chunk_age_s=0.0)
    after = guard.step((1.0, 0.0), now_s=6 * DT, chunk_age_s=0.0)
    assert after.steering - stopped.steering == pytest.approx(30.0 * DT * DT)


def test_the_correction_has_a_reason_of_its_own() -> None:
    guard = Guard(Limits(steering_rate_per_s=6.0, steering_jerk_per_s2=30.0))
    guard.step((0.0, 0.0), now_s=0.0, chunk_age_s=0.0)
    after = guard.step((0.2, 0.0), now_s=DT, chunk_age_s=0.0)
    assert after.reasons == (Reason.STEERING_JERK,)
    assert 0.0 < after.steering <= 30.0 * DT * DT
    assert after.step_metadata() == {"safety_clamped": "true", "safety_violations": "steering_jerk"}


def test_throttle_knows_no_jerk() -> None:
    with_jerk, without = Guard(Limits(steering_jerk_per_s2=1.0)), Guard(Limits())
    for tick in range(10):
        a = with_jerk.step((0.0, 0.5), now_s=tick * DT, chunk_age_s=0.0)
        b = without.step((0.0, 0.5), now_s=tick * DT, chunk_age_s=0.0)
        assert a == b


def test_it_is_off_by_default_and_comes_from_the_config() -> None:
    assert Limits.from_config(GuardsConfig()).steering_jerk_per_s2 is None
    assert Limits.from_config(GuardsConfig(steering_jerk_per_s2=80.0)).steering_jerk_per_s2 == 80.0
    with pytest.raises(ValueError, match="steering_jerk_per_s2"):
        GuardsConfig(steering_jerk_per_s2=0.0)
