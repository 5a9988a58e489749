"""Claims about numbers as tokens: what goes in comes out, within a fraction of a bin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.policy.codec import (
    CURVATURE_BINS,
    CURVATURE_KNOTS_M,
    QUERIES,
    SPEED_BINS,
    SPEED_KNOTS_S,
    curvature_tokens,
    decode_curvature,
    decode_speed,
    encode_curvature,
    encode_speed,
    query_tokens,
    speed_tokens,
)

CURVATURES = st.lists(st.floats(-1.6, 1.6), min_size=8, max_size=8)
SPEEDS = st.lists(st.floats(0, 2), min_size=2, max_size=2)


@given(CURVATURES)
def test_curvature_survives_within_a_tenth_of_a_bin(values: list[float]) -> None:
    back = decode_curvature(encode_curvature(np.array(values, np.float32)))
    assert np.abs(back - values).max() < 0.1 * CURVATURE_BINS.step


@given(SPEEDS)
def test_speed_survives_within_a_tenth_of_a_bin_and_is_never_negative(values: list[float]) -> None:
    back = decode_speed(encode_speed(np.array(values, np.float32)))
    assert np.abs(back - values).max() < 0.1 * SPEED_BINS.step
    assert back.min() >= 0


@given(CURVATURES)
def test_targets_are_distributions_that_peak_at_the_nearest_bin(values: list[float]) -> None:
    soft = encode_curvature(np.array(values, np.float32))
    assert soft.shape == (8, CURVATURE_BINS.count)
    np.testing.assert_allclose(soft.sum(-1), 1.0, rtol=1e-5)
    peaks = CURVATURE_BINS.centres[soft.argmax(-1)]
    assert np.abs(peaks - values).max() <= CURVATURE_BINS.step / 2 + 1e-5


@given(st.floats(1.8, 1e6))
def test_what_lies_beyond_the_bins_is_clipped_to_their_end(value: float) -> None:
    np.testing.assert_array_equal(
        encode_curvature(np.full(8, value, np.float32)), encode_curvature(np.full(8, 1.8, np.float32))
    )


@given(CURVATURES)
def test_left_and_right_are_mirror_images(values: list[float]) -> None:
    curvature = np.array(values, np.float32)
    np.testing.assert_allclose(encode_curvature(-curvature), encode_curvature(curvature)[:, ::-1], atol=1e-5)


def test_every_number_has_its_question_and_every_bin_its_token() -> None:
    assert len(query_tokens()) == QUERIES == len(CURVATURE_KNOTS_M) + len(SPEED_KNOTS_S)
    assert len(curvature_tokens()) == CURVATURE_BINS.count
    assert len(speed_tokens()) == SPEED_BINS.count
    tokens = query_tokens() + curvature_tokens() + speed_tokens()
    assert len(set(tokens)) == len(tokens)


def test_batches_keep_their_shape() -> None:
    assert decode_curvature(encode_curvature(np.zeros((3, 8), np.float32))).shape == (3, 8)
    assert encode_speed(np.zeros((3, 2), np.float32)).shape == (3, 2, SPEED_BINS.count)


def test_an_undecided_model_means_straight_on() -> None:
    uniform = np.full((8, CURVATURE_BINS.count), 1 / CURVATURE_BINS.count, np.float32)
    assert decode_curvature(uniform) == pytest.approx(0.0, abs=1e-6)
