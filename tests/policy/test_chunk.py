"""Claims about the action chunk: only whole and finite ones exist."""

from __future__ import annotations

import math

import pytest

from continuonbrain.errors import BrainError
from continuonbrain.policy.chunk import ActionChunk

CURVATURE, SPEED = (0.0,) * 8, (1.0, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["curvature", "speed", "observed_s"])
def test_a_number_that_is_not_finite_is_refused_by_field(field: str, bad: float) -> None:
    values = {"curvature": CURVATURE, "speed": SPEED, "observed_s": 0.0}
    values[field] = bad if field == "observed_s" else (*values[field][:-1], bad)  # type: ignore[index]
    with pytest.raises(BrainError, match=field):
        ActionChunk(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("curvature", "speed"), [((0.0,) * 7, SPEED), ((0.0,) * 9, SPEED), (CURVATURE, (1.0,))]
)
def test_a_wrong_length_is_refused(curvature: tuple[float, ...], speed: tuple[float, ...]) -> None:
    with pytest.raises(BrainError, match="are needed"):
        ActionChunk(curvature, speed, 0.0)


def test_a_chunk_does_not_change() -> None:
    with pytest.raises(AttributeError):
        ActionChunk(CURVATURE, SPEED, 0.0).speed = (0.0, 0.0)  # type: ignore[misc]
