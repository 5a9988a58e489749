"""What a probability means for the speed: never more than was asked for, a stop that holds, and no way around it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.errors import BrainError
from continuonbrain.safety.caution import Caution, Thresholds
from continuonbrain.safety.reasons import Reason

ANYTHING = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.none(),
    st.booleans(),
    st.text(max_size=2),
    st.integers(),
)


def test_below_warn_nothing_happens() -> None:
    counsel = Caution().judge(0.2499, now_s=0.0)
    assert (counsel.share, counsel.reason) == (1.0, None)


def test_between_the_thresholds_the_surer_the_slower() -> None:
    caution = Caution()
    shares = [caution.judge(p, now_s=0.0).share for p in (0.25, 0.3, 0.45, 0.59)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert 0.3 < shares[-1] < 0.4
    assert caution.judge(0.25, now_s=0.0).reason is Reason.SAFETY_HEAD_WARN


def test_a_stop_holds_until_it_has_been_calm_for_half_a_second() -> None:
    caution = Caution()
    assert caution.judge(0.6, now_s=0.0).share == 0.0
    assert caution.judge(0.5, now_s=0.1).share == 0.0, "just below block is not calm"
    assert caution.judge(0.1, now_s=0.2).share == 0.0
    assert caution.judge(0.45, now_s=0.6).share == 0.0, "calm begins anew"
    assert caution.judge(0.1, now_s=0.7).share == 0.0
    assert caution.judge(0.1, now_s=1.19).reason is Reason.SAFETY_HEAD_BLOCK
    assert caution.blocked
    assert caution.judge(0.3, now_s=1.21).reason is Reason.SAFETY_HEAD_WARN, "and goes on slowly"


def test_a_clock_that_jumps_back_does_not_let_go() -> None:
    caution = Caution()
    caution.judge(0.9, now_s=100.0)
    caution.judge(0.1, now_s=100.1)
    assert caution.judge(0.1, now_s=10.0).share == 0.0
    assert caution.judge(0.1, now_s=10.3).share == 0.0
    assert caution.judge(0.1, now_s=10.6).share == 1.0


def test_a_car_that_may_go_slowly_does_not_stand_for_ever() -> None:
    caution = Caution()
    caution.judge(0.7, now_s=0.0)
    shares = [caution.judge(0.5, now_s=0.05 * tick).share for tick in range(1, 60)]
    assert shares[:39] == [0.0] * 39
    assert 0.3 < shares[-1] < 0.4, "as slowly as it goes"
    assert caution.judge(0.26, now_s=3.1).share < 0.4, "until all is well"
    assert caution.judge(0.1, now_s=3.2).share == 1.0
    assert caution.judge(0.3, now_s=3.3).share > 0.9
    caution.judge(0.7, now_s=3.4)
    assert [caution.judge(0.65, now_s=3.4 + 0.05 * tick).share for tick in range(200)] == [0.0] * 200


@given(st.lists(st.tuples(ANYTHING, st.floats(0, 5)), max_size=30))
def test_whatever_the_head_says(said: list[tuple[object, float]]) -> None:
    caution, now = Caution(), 0.0
    for probability, later in said:
        now += later
        counsel = caution.judge(probability, now_s=now)
        assert 0.0 <= counsel.share <= 1.0
        assert (counsel.reason is None) == (counsel.share == 1.0) or counsel.reason is Reason.SAFETY_HEAD_WARN
        sound = type(probability) in (float, int) and math.isfinite(probability) and 0 <= probability <= 1  # type: ignore[arg-type]
        if not sound or probability >= 0.6:  # type: ignore[operator]
            assert counsel.reason is Reason.SAFETY_HEAD_BLOCK


@pytest.mark.parametrize(
    ("warn", "block"),
    [(0.6, 0.25), (0.0, 0.6), (0.3, 0.3), (math.nan, 0.6), (0.2, 1.1), (0.2, math.inf), (True, 1.0)],
)
def test_thresholds_that_would_let_everything_through_are_refused(warn: float, block: float) -> None:
    with pytest.raises(BrainError, match="warn_threshold"):
        Thresholds(warn, block)


def test_flags() -> None:
    thresholds = Thresholds(0.2, 0.5)
    assert [thresholds.flag(p) for p in (0.1, 0.2, 0.49, 0.5, 1.0, math.nan)] == [
        "",
        "warn",
        "warn",
        "block",
        "block",
        "block",
    ]
