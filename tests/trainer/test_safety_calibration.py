"""What a robot's driving tells its safety head: the camera's angle, and how sure it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.policy.safety_head import SAFETY_HEAD_FILE, SafetyHead
from continuonbrain.policy.watch import HeadCalibration
from continuonbrain.rlds.examples import make_metadata_example
from continuonbrain.rlds.step import SAFETY_BY, SAFETY_LOGIT, SOURCE_AUTOPILOT, SOURCE_HUMAN, Step
from continuonbrain.rlds.writer import EpisodeWriter
from continuonbrain.robot.sim.shifts import SHIFTS
from continuonbrain.storage.layout import shipped_safety_head
from continuonbrain.trainer.safety_calibration import (
    Heard,
    driven_ways,
    fit_mount,
    fit_probability,
    teleop_views,
)
from continuonbrain.trainer.safety_evidence import heard
from continuonbrain.trainer.safety_scores import auroc, score, score_safety_head


@pytest.fixture(scope="module")
def head() -> SafetyHead:
    return SafetyHead.from_file(shipped_safety_head() / SAFETY_HEAD_FILE)


@pytest.mark.parametrize(("shift", "degrees"), [("none", 0.0), ("yaw", 18.0)])
def test_the_camera_is_found_by_where_people_drive(head: SafetyHead, shift: str, degrees: float) -> None:
    mount = fit_mount(head, *teleop_views(SHIFTS[shift], seed=5))
    assert np.degrees(mount.yaw_rad) == pytest.approx(degrees, abs=4.0)


def test_too_little_driving_says_nothing(head: SafetyHead) -> None:
    frames, ways = teleop_views(SHIFTS["yaw"], seed=5)
    assert fit_mount(head, frames[:40], ways[:40]).yaw_rad == 0.0
    assert fit_mount(head, frames, ways * 0.1).yaw_rad == 0.0, "a car that stands goes nowhere"
    assert fit_mount(head, frames[:0], ways[:0]).views == 0


def test_a_straight_drive_is_a_straight_way() -> None:
    way = driven_ways(np.full((1, 20), 1.0), np.zeros((1, 20)))
    assert way.shape == (1, 10, 2)
    assert way[0, -1] == pytest.approx((1.0, 0.0), abs=1e-5)
    assert driven_ways(np.full((1, 20), 1.0), np.full((1, 20), 0.5))[0, -1, 1] > 0.2


def _drives(shift: float, interventions: int, seed: int = 0) -> list[Heard]:
    """Drives in which a person steps in where the head's logit is above -shift."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(interventions):
        times = np.arange(400) * 0.05
        logits = rng.normal(-5 - shift, 1, 400)
        logits[-20:] = rng.normal(1 - shift, 1, 20)
        out.append(Heard(times, logits, np.array([times[-1] + 0.02])))
    return out


def test_a_head_that_is_too_sure_learns_from_interventions() -> None:
    slope, offset, count = fit_probability(_drives(3.0, 12))
    assert count == 12
    assert offset > 0.3, "people stepped in where it saw little"
    assert 0.5 <= slope <= 2.0
    HeadCalibration(0.0, slope, offset)


def test_ordinary_driving_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    calm = [Heard(np.arange(1000) * 0.05, rng.normal(0.5, 1, 1000), np.zeros(0)) for _ in range(20)]
    assert fit_probability(calm) == (1.0, 0.0, 0)
    assert fit_probability(_drives(3.0, 4))[:2] == (1.0, 0.0), "four are too few"
    assert fit_probability([]) == (1.0, 0.0, 0)


@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(-50, 50), min_size=1, max_size=40), st.lists(st.floats(0, 3), max_size=4)
        ),
        max_size=12,
    )
)
def test_whatever_was_heard_the_head_keeps_its_senses(drives: list[tuple[list[float], list[float]]]) -> None:
    told = [
        Heard(np.arange(len(logits)) * 0.05, np.array(logits), np.array(interventions))
        for logits, interventions in drives
    ]
    slope, offset, _ = fit_probability(told)
    HeadCalibration(0.0, slope, offset)


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 5, 60).astype(float)
    positive = rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(scores, np.zeros(60, bool)))


def test_figures_of_a_perfect_head() -> None:
    left = np.arange(100) % 4 == 0
    perfect = score(left.astype(float), left)
    assert (perfect.auroc, perfect.brier, perfect.calibration_error) == (1.0, 0.0, 0.0)
    assert (perfect.blocked, perfect.false_blocks, perfect.false_alarms_at_95) == (1.0, 0.0, 0.0)
    blind = score(np.full(100, 0.25), left)
    assert (blind.auroc, blind.calibration_error) == (0.5, 0.0)


def test_the_shipped_head_knows_roads_that_it_was_not_taught(head: SafetyHead) -> None:
    """In small; `python -m benchmarks.safety_head` in full."""
    found = score_safety_head(
        head.data, tracks=range(9500, 9508), states=500, seed=9, shifts=("none", "tape", "yaw")
    )
    assert found["none"]["calibrated"]["auroc"] >= 0.95
    assert found["tape"]["calibrated"]["auroc"] >= 0.88
    assert found["yaw"]["calibrated"]["auroc"] >= 0.88


def test_what_was_heard_is_the_policys_driving_alone_and_every_stop_and_takeover_counts_once(
    tmp_path: Path,
) -> None:
    own = {SAFETY_BY: "abcdabcd"}

    def step(tick: int, source: str = SOURCE_AUTOPILOT, reason: str = "", **extra: str) -> Step:
        reasons = (reason,) if reason else ()
        return Step(
            tick=tick,
            monotonic_ns=tick * 50_000_000,
            instruction="drive",
            command=(0.0, 0.0),
            source=source,
            reasons=reasons,
            extra=own | {SAFETY_LOGIT: str(float(tick))} | extra,
        )

    stop, block = "emergency_stop", "safety_head_block"
    steps = [
        step(0),
        step(1, reason=stop),  # the first intervention
        step(2, reason=stop),
        step(3),
        step(4, reason=block),  # held by the head itself: says nothing of what it thinks while driving
        step(5),
        step(6, SOURCE_HUMAN),  # the second
        step(7, SOURCE_HUMAN),
        step(8),
        step(9, safety_head_by="another!"),
        step(10, safety_head_logit="nan"),
        step(11),
    ]
    with EpisodeWriter(tmp_path, metadata=make_metadata_example("e")) as writer:
        for one in steps:
            writer.write(one)
    (said,) = heard([writer.path], "abcdabcd" + "0" * 56)
    assert said.logits.tolist() == [0.0, 3.0, 5.0, 8.0, 11.0]
    assert said.times_s.tolist() == pytest.approx([0.0, 0.15, 0.25, 0.4, 0.55])
    assert said.interventions.tolist() == pytest.approx([0.05, 0.3])
    assert heard([writer.path], "f" * 64) == []
