"""Claims about rollouts: a perfect policy scores perfectly, also when it is late; a bad one does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.codec import CURVATURE_KNOTS_M, SPEED_KNOTS_S
from continuonbrain.policy.engine import Decisions
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.ideal import ideal_curvature, ideal_speed
from continuonbrain.robot.sim.instructions import NAMES
from continuonbrain.robot.sim.shifts import BASE, SHIFTS
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer import rollout as rollout_module
from continuonbrain.trainer.rollout import count_reasons, decision_ticks, rollout
from continuonbrain.trainer.score import drive_score, follow_score

TRACKS = tuple(range(81_000, 81_003))


class Oracle:
    """Answers each car's ideal path from the simulator's truth: a frame is only the number of its car."""

    base_sha256 = adapter_sha256 = ""
    reflex = None

    def __init__(self) -> None:
        self.fleet: Any = None
        self.asked: list[tuple[list[str], list[float | None]]] = []

    def decide(
        self, frames: NDArray[Any], instructions: Sequence[str], speeds: Sequence[float | None]
    ) -> Decisions:
        self.asked.append((list(instructions), list(speeds)))
        rows = frames[:, 0].astype(int)
        curvature = ideal_curvature(self.fleet, CURVATURE_KNOTS_M)[rows]
        speed = ideal_speed(self.fleet.target_speed, self.fleet.speed, SPEED_KNOTS_S)[rows]
        return Decisions(curvature.astype(np.float32), speed.astype(np.float32))

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
        raise AssertionError("nothing to adapt")


class Stubborn(Oracle):
    """Always the same curvature and speed."""

    def __init__(self, bend: float, speed: float) -> None:
        super().__init__()
        self.bend, self.speed = bend, speed

    def decide(
        self, frames: NDArray[Any], instructions: Sequence[str], speeds: Sequence[float | None]
    ) -> Decisions:
        n = len(frames)
        return Decisions(np.full((n, 8), self.bend, np.float32), np.full((n, 2), self.speed, np.float32))


@pytest.fixture
def let_see(monkeypatch: pytest.MonkeyPatch) -> Callable[[Oracle], Oracle]:
    """Give an oracle the fleet of the next rollout, and save the rendering."""

    def give(oracle: Oracle) -> Oracle:
        class SeenFleet(Fleet):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                oracle.fleet = self

            def render(self) -> NDArray[np.uint8]:
                return np.arange(self.cars, dtype=np.uint8)[:, None]

        monkeypatch.setattr(rollout_module, "Fleet", SeenFleet)
        return oracle

    return give


Let = Callable[[Oracle], Oracle]


@pytest.mark.parametrize("decision_time_s", [0.0, 0.75])
def test_an_oracle_drives_every_lap_whole_also_when_each_decision_takes_three_quarters_of_a_second(
    let_see: Let, limits: Limits, decision_time_s: float
) -> None:
    score = drive_score(
        let_see(Oracle()),
        BASE,
        TRACKS,
        calibration=Calibration(),
        limits=limits,
        decision_time_s=decision_time_s,
    )
    assert score.completion == 1.0
    assert score.laps == score.tracks == len(TRACKS)
    assert score.lateral_error_m < (0.03 if decision_time_s == 0 else 0.08)
    assert score.guard_share < 0.1
    assert np.isfinite(score.trajectory[:50]).all()


def test_an_oracle_obeys_every_instruction_by_itself(let_see: Let, limits: Limits) -> None:
    score = follow_score(let_see(Oracle()), BASE, TRACKS[:2], calibration=Calibration(), limits=limits)
    assert score.by_instruction == dict.fromkeys(NAMES, 1.0)
    assert (score.following, score.stop, score.stop_model) == (1.0, 1.0, 1.0)


def test_the_calibration_is_what_a_shifted_servo_needs(let_see: Let, limits: Limits) -> None:
    def completion(calibration: Calibration) -> float:
        return drive_score(
            let_see(Oracle()), SHIFTS["reverse"], TRACKS, calibration=calibration, limits=limits
        ).completion

    assert completion(Calibration(steering_gain=-1.0)) == 1.0
    assert completion(Calibration()) < 0.2


def test_a_policy_that_drives_straight_on_leaves_the_road_and_keeps_what_it_had(
    let_see: Let, limits: Limits
) -> None:
    score = drive_score(let_see(Stubborn(0.0, 1.0)), BASE, TRACKS, calibration=Calibration(), limits=limits)
    assert 0.0 < score.completion < 0.5
    assert score.laps == 0
    assert np.isnan(score.trajectory[-1]).any()


def test_a_policy_that_stands_still_gets_nowhere_and_obeys_only_stop(let_see: Let, limits: Limits) -> None:
    score = follow_score(
        let_see(Stubborn(0.0, 0.0)), BASE, TRACKS[:1], calibration=Calibration(), limits=limits
    )
    assert score.by_instruction["stop"] == 1.0
    assert score.following == pytest.approx(1 / len(NAMES))


def test_stop_is_obeyed_without_the_model_and_measured_without_the_reflex(
    let_see: Let, limits: Limits
) -> None:
    result = rollout(
        let_see(Stubborn(0.3, 1.0)),
        BASE,
        [TRACKS[0]] * 2,
        ["stop", "stop"],
        calibration=Calibration(),
        limits=limits,
        seed=0,
        laps=False,
        seconds=3.0,
        start_speed_mps=0.8,
        stop_without_model=[True, False],
    )
    assert result.obeyed.tolist() == [True, False]


def test_interventions_are_the_share_of_the_ticks_that_a_car_drove_itself(let_see: Let) -> None:
    """A car that leaves the road early must not look calmer because another drives on for a whole lap."""

    class OneRaces(Oracle):
        def decide(
            self, frames: NDArray[Any], instructions: Sequence[str], speeds: Sequence[float | None]
        ) -> Decisions:
            curvature, speed = super().decide(frames, instructions, speeds)
            racing = frames[:, 0] == 0
            curvature[racing], speed[racing] = 0.0, 2.0
            return Decisions(curvature, speed)

    weak = Limits(throttle_min=-0.5, throttle_max=0.5, steering_rate_per_s=10.0, throttle_rate_per_s=50.0)
    result = rollout(
        let_see(OneRaces()), BASE, TRACKS[:2], ["drive"] * 2, calibration=Calibration(), limits=weak, seed=0
    )
    assert result.completion[0] < 0.3
    assert result.completion[1] == 1.0
    assert result.interventions[0] > 0.7
    assert result.interventions[1] < 0.2


def test_the_same_seed_is_the_same_rollout(let_see: Let, limits: Limits) -> None:
    def drive(seed: int) -> NDArray[np.float64]:
        return rollout(
            let_see(Oracle()),
            BASE,
            TRACKS[:1],
            ["drive"],
            calibration=Calibration(),
            limits=limits,
            seed=seed,
            laps=False,
            seconds=2.0,
        ).trajectory

    np.testing.assert_array_equal(drive(1), drive(1))
    assert not np.array_equal(drive(1), drive(2))


def test_the_engine_is_asked_in_words_with_measured_speeds(let_see: Let, limits: Limits) -> None:
    oracle = let_see(Oracle())
    rollout(
        oracle,
        BASE,
        TRACKS[:2],
        ["stay left", "go slow"],
        calibration=Calibration(),
        limits=limits,
        seed=0,
        laps=False,
        seconds=1.0,
        start_speed_mps=0.8,
    )
    texts, speeds = oracle.asked[0]
    assert texts == ["stay left", "go slow"]
    assert all(s is not None and abs(s - 0.8) < 0.15 for s in speeds)
    assert len(oracle.asked) == 10  # 20 ticks, every second one


def test_a_decision_time_is_rounded_to_ticks() -> None:
    assert decision_ticks(0.0) == (2, 1)
    assert decision_ticks(0.05) == (2, 1)
    assert decision_ticks(0.75) == (15, 15)
    assert decision_ticks(0.12) == (2, 2)


class Truth:
    """A reflex head that knows the road."""

    sha256 = "t" * 64

    def __init__(self, oracle: Oracle) -> None:
        self.oracle, self.asked = oracle, 0
        self.probes = np.zeros((1, 1), np.uint8)

    def curvatures(self, frames: NDArray[Any], intents: NDArray[np.float32]) -> NDArray[np.float32]:
        assert intents.shape == (len(frames), 10)
        self.asked += 1
        bends = ideal_curvature(self.oracle.fleet, CURVATURE_KNOTS_M)[frames[:, 0].astype(int)]
        return bends.astype(np.float32)


class Slowpoke(Stubborn):
    """Knows the speed and not the road."""

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)
        self.reflex: Any = None


def test_a_head_that_sees_carries_a_model_that_is_too_slow_to(let_see: Let, limits: Limits) -> None:
    oracle = Slowpoke()
    oracle.reflex = head = Truth(oracle)
    let_see(oracle)

    def completion(*, reflex: bool, decision_time_s: float = 0.75) -> float:
        return drive_score(
            oracle,
            BASE,
            TRACKS,
            calibration=Calibration(),
            limits=limits,
            decision_time_s=decision_time_s,
            reflex=reflex,
        ).completion

    assert completion(reflex=False) < 0.3
    assert head.asked == 0
    assert completion(reflex=True) > 0.95
    asked = head.asked
    assert asked > 100
    # Where the model itself is quick, it drives.
    assert completion(reflex=True, decision_time_s=0.0) < 0.3
    assert head.asked == asked


def test_each_instruction_on_tracks_of_its_own_is_as_many_cars_and_trials(
    let_see: Let, limits: Limits
) -> None:
    seeds = tuple(range(83_000, 83_000 + len(NAMES)))
    score = follow_score(
        let_see(Oracle()), BASE, seeds, calibration=Calibration(), limits=limits, own_tracks=True
    )
    assert len(score.by_track) == len(NAMES)
    assert score.following == pytest.approx(np.mean(score.by_track))
    assert dict(zip(NAMES, score.by_track, strict=True)) == score.by_instruction
    with pytest.raises(ValueError, match="shared out"):
        follow_score(
            let_see(Oracle()), BASE, seeds[:3], calibration=Calibration(), limits=limits, own_tracks=True
        )


def test_what_heads_do_is_counted_apart_from_the_guards_own_rules() -> None:
    touched, slowed = np.zeros(2), np.zeros(2)
    by_reason: dict[str, NDArray[np.float64]] = {}
    count_reasons(("steering_slew", "safety_head_warn"), 0, touched, slowed, by_reason)
    count_reasons(("safety_head_block",), 1, touched, slowed, by_reason)
    count_reasons((), 1, touched, slowed, by_reason)
    assert touched.tolist() == [1, 0]
    assert slowed.tolist() == [1, 1]
    assert by_reason["safety_head_warn"].tolist() == [1, 0]
