"""Claims about the states that the base is made from: seeded, varied, with the ideal answer to each."""

from __future__ import annotations

import numpy as np
import pytest

from continuonbrain.policy.codec import CURVATURE_KNOTS_M
from continuonbrain.robot.sim.instructions import BY_PHRASING, HELD_OUT, NAMES
from continuonbrain.trainer.states import States, StateSource, frozen_samples, replay_samples


def digest(states: States) -> tuple[bytes, ...]:
    return (
        states.frames.tobytes(),
        states.curvature.tobytes(),
        states.speed_ahead.tobytes(),
        repr((states.phrases, states.speeds)).encode(),
    )


@pytest.fixture(scope="module")
def drawn() -> States:
    return StateSource([1, 2], seed=0, chunk=256).draw(all_lanes=True)


def test_the_same_seed_is_the_same_states_also_through_the_stream(drawn: States) -> None:
    first = [digest(s) for s in StateSource([1, 2], seed=5, chunk=32).stream(3)]
    again = StateSource([1, 2], seed=5, chunk=32)
    assert [digest(again.draw()) for _ in range(3)] == first
    assert len(set(first)) == 3
    assert digest(StateSource([1, 2], seed=6, chunk=32).draw()) != first[0]


def test_every_instruction_is_asked_in_phrasings_that_are_not_held_out(drawn: States) -> None:
    assert {BY_PHRASING[p].name for p in drawn.phrases} == set(NAMES)
    assert not set(drawn.phrases) & {p for phrases in HELD_OUT.values() for p in phrases}


def test_labels_are_finite_and_inside_what_a_car_can_do(drawn: States) -> None:
    assert np.isfinite(drawn.geometry).all()
    assert np.abs(drawn.curvature).max() <= np.tan(0.4) / 0.26 + 1e-5
    assert 0 <= drawn.speed_ahead.min() <= drawn.speed_ahead.max() <= 2.0
    unknown = sum(s is None for s in drawn.speeds) / len(drawn.speeds)
    assert 0.03 < unknown < 0.2


def test_the_lane_asked_for_is_one_of_the_three_that_the_trunk_learns(drawn: States) -> None:
    lanes = drawn.geometry[:, :24].reshape(-1, 3, len(CURVATURE_KNOTS_M))
    column = {0.45: 0, 0.0: 1, -0.45: 2}
    for i, phrase in enumerate(drawn.phrases):
        np.testing.assert_allclose(
            lanes[i, column[BY_PHRASING[phrase].lateral]], drawn.curvature[i], atol=1e-5
        )


def test_stopping_is_answered_with_falling_speeds(drawn: States) -> None:
    stopping = np.array([BY_PHRASING[p].name == "stop" for p in drawn.phrases])
    assert drawn.speed_ahead[stopping, 1].max() < 0.35
    assert (drawn.speed_ahead[stopping, 1] <= drawn.speed_ahead[stopping, 0] + 1e-6).all()


def test_the_frozen_states_are_the_same_for_every_candidate_of_a_base_and_on_roads_of_their_own() -> None:
    looks: list[int] = []
    first = frozen_samples("ab" * 32, look=lambda: looks.append(1))
    assert first.sha256() == frozen_samples("ab" * 32).sha256()
    assert first.sha256() != frozen_samples("cd" * 32).sha256()
    assert looks
    assert len(first) == 256
    assert len(set(first.episode.tolist())) > 16  # tracks are the clusters
    trained_with = replay_samples(128, seed=int("ab" * 4, 16))
    assert trained_with.select(np.arange(128)).sha256() != first.select(np.arange(128)).sha256()
