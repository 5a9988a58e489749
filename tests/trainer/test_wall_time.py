"""How a job's time is shared, and what is said when it was too short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.trainer.wall_time import adapter_s, fell_short, reflex_s, steps_s

SECONDS = st.floats(1e-3, 1e6)


@given(SECONDS)
def test_the_shares_are_the_whole(whole: float) -> None:
    assert abs(adapter_s(whole, teaches_reflex=True) + reflex_s(whole) - whole) < 1e-6 * whole
    assert adapter_s(whole, teaches_reflex=False) == whole


@given(SECONDS, st.floats(0, 1e7))
def test_preparation_never_takes_all_of_the_steps_time_and_never_adds_to_it(
    stage: float, prepared: float
) -> None:
    left = steps_s(stage, prepared)
    assert 0.5 * stage <= left <= stage
    assert left >= stage - prepared


def test_what_fell_short_is_named_with_its_remedy() -> None:
    figures = {"ended": "steps", "steps": 400, "max_steps": 400}
    assert fell_short(figures, 58) == ""
    figures |= {"reflex_ended": "wall time", "reflex_steps": 3, "reflex_max_steps": 150}
    told = "the reflex head made 3 of 150 steps within max_wall_time_s = 58: raise it in config.json"
    assert fell_short(figures, 58.0) == told
    figures |= {"ended": "wall time", "steps": 12}
    assert fell_short(figures, 58).startswith("the adapter made 12 of 400 steps and the reflex head")
