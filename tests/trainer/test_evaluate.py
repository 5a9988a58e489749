"""Claims about evidence: measured from the candidate's own folder, against the right rivals, bound to the set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import AdapterError, Decisions
from continuonbrain.robot.sim.shifts import BASE
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.course import Course
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.evaluate import (
    Contender,
    answers,
    constant_baselines,
    gather_evidence,
    imitation,
    steering_of,
)
from continuonbrain.trainer.verdict import judge


class Scripted:
    """Answers a fixed curvature for each adapter; remembers which were asked for."""

    base_sha256 = "b" * 64
    reflex = None

    def __init__(self, bends: dict[str, float]) -> None:
        self.bends = bends
        self.adapter_sha256 = "?"
        self.used: list[tuple[Path | None, str]] = []

    def decide(
        self, frames: NDArray[Any], instructions: Sequence[str], speeds: Sequence[float | None]
    ) -> Decisions:
        n = len(frames)
        bend = self.bends[self.adapter_sha256]
        return Decisions(np.full((n, 8), bend, np.float32), np.full((n, 2), 1.0, np.float32))

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
        self.used.append((folder, sha256))
        self.adapter_sha256 = sha256


@pytest.fixture
def half(recorded: Samples) -> tuple[Samples, Samples]:
    return recorded.select(np.arange(48)), recorded.select(np.arange(48, 96))


CANDIDATE = Contender(Path("candidate"), "c" * 64, Calibration())
CURRENT = Contender(Path("current"), "d" * 64, Calibration())
NOTHING = Contender(None, "", Calibration())


def test_each_contender_is_asked_from_its_own_folder_and_the_candidate_stays_in_use(
    half: tuple[Samples, Samples], limits: Limits
) -> None:
    engine = Scripted({"": 0.0, "c" * 64: 0.3, "d" * 64: -0.3})
    evidence = gather_evidence(
        engine, candidate=CANDIDATE, current=CURRENT, train=half[0], held=half[1], limits=limits, course=None
    )
    assert set(engine.used) == {(None, ""), (Path("candidate"), "c" * 64), (Path("current"), "d" * 64)}
    assert engine.adapter_sha256 == "c" * 64
    assert evidence.candidate_sha256 == "c" * 64
    assert evidence.base_sha256 == "b" * 64
    assert evidence.held_out_steps == len(half[1])
    assert evidence.difference == pytest.approx(Calibration().steering(0.3))
    truth = np.abs(Calibration().steering(0.3) - half[1].command[:, 0]).mean()
    assert evidence.candidate is not None
    assert evidence.candidate.steering == pytest.approx(truth, rel=1e-5)
    assert evidence.closed_candidate is None


def test_without_a_current_adapter_the_base_is_the_rival(
    half: tuple[Samples, Samples], limits: Limits
) -> None:
    engine = Scripted({"": 0.1, "c" * 64: 0.3})
    evidence = gather_evidence(
        engine, candidate=CANDIDATE, current=NOTHING, train=half[0], held=half[1], limits=limits, course=None
    )
    assert evidence.current == evidence.base


def test_an_adapter_that_changes_nothing_is_found_out(half: tuple[Samples, Samples], limits: Limits) -> None:
    engine = Scripted({"": 0.1, "c" * 64: 0.1})
    evidence = gather_evidence(
        engine, candidate=CANDIDATE, current=NOTHING, train=half[0], held=half[1], limits=limits, course=None
    )
    assert evidence.difference == 0.0
    assert judge(evidence, Rules()).reason.startswith("differs_from_base")


def test_evidence_is_bound_to_the_held_out_set_and_to_the_course(
    half: tuple[Samples, Samples], limits: Limits
) -> None:
    def name(held: Samples | None) -> str:
        return gather_evidence(
            Scripted({"": 0.1, "c" * 64: 0.3}),
            candidate=CANDIDATE,
            current=NOTHING,
            train=half[0],
            held=held,
            limits=limits,
            course=None,
        ).evaluation_sha256

    assert len({name(half[1]), name(half[0]), name(None)}) == 3
    assert name(half[1]) == name(half[1])


def test_without_held_out_samples_imitation_stays_unknown(
    half: tuple[Samples, Samples], limits: Limits
) -> None:
    engine = Scripted({"": 0.1, "c" * 64: 0.3})
    evidence = gather_evidence(
        engine, candidate=CANDIDATE, current=NOTHING, train=half[0], held=None, limits=limits, course=None
    )
    assert evidence.candidate is None
    assert evidence.distance is None
    assert evidence.held_out_steps == 0
    assert not judge(evidence, Rules()).passed


def test_on_a_course_candidate_and_rival_drive_the_same_roads(
    half: tuple[Samples, Samples], limits: Limits
) -> None:
    engine = Scripted({"": 0.0, "c" * 64: 1.5})
    parts: list[str] = []
    course = Course(
        BASE,
        tracks=(82_000, 82_003),
        follow_tracks=(82_001,),
        unshifted_tracks=(82_002,),
        slow_follow_tracks=(82_004,),
    )
    evidence = gather_evidence(
        engine,
        candidate=CANDIDATE,
        current=NOTHING,
        train=half[0],
        held=half[1],
        limits=limits,
        course=course,
        on_part=lambda part, _done, _total: parts.append(part),
    )
    assert evidence.closed_candidate is not None
    assert evidence.closed_current is not None
    assert evidence.closed_candidate.completion != evidence.closed_current.completion
    assert evidence.closed_candidate.stop == 1.0  # without the model
    assert evidence.closed_candidate.stop_model == 0.0
    assert None not in (evidence.unshifted_base, evidence.unshifted_candidate)
    assert {"base: laps", "candidate: laps", "candidate: instructions", "candidate: unshifted tracks"} <= set(
        parts
    )


def test_steering_is_read_where_the_car_is_when_the_command_acts(recorded: Samples) -> None:
    samples = replace(recorded.select(np.arange(2)), speeds=[None, 2.0])
    ramp = np.tile(np.array([0.0, 0.2, 0.4, 0.7, 1.1, 1.6, 1.6, 1.6], np.float32), (2, 1))
    calibration = Calibration(delay_s=0.1)
    steering = steering_of(Decisions(ramp, np.ones((2, 2), np.float32)), samples, calibration)
    assert steering[0] == pytest.approx(calibration.steering(0.0))
    assert steering[1] == pytest.approx(calibration.steering(0.2))


def test_the_drivers_own_answers_have_no_imitation_error(recorded: Samples) -> None:
    """Where the driver's labels go in as decisions, the steering comes out as recorded (up to delay rounding)."""
    found = imitation(Decisions(recorded.curvature, recorded.speed_ahead), recorded, Calibration(delay_s=0.1))
    assert found.speed_mps == 0.0
    assert found.steering < 0.1


def test_baselines_are_the_mean_and_the_last_command(half: tuple[Samples, Samples]) -> None:
    train, held = half
    mean, last = constant_baselines(train, held)
    assert mean.steering == pytest.approx(np.abs(held.command[:, 0] - train.command[:, 0].mean()).mean())
    assert last.steering == pytest.approx(np.abs(held.command[:, 0] - held.previous[:, 0]).mean())


@pytest.mark.filterwarnings("error")
def test_baselines_without_a_known_speed_say_so_instead_of_zero(half: tuple[Samples, Samples]) -> None:
    train, held = (replace(s, weights=np.zeros_like(s.weights)) for s in half)
    mean, last = constant_baselines(train, held)
    assert np.isfinite([mean.steering, last.steering]).all()
    assert mean.speed_mps is None
    assert last.speed_mps is None


def test_batches_are_joined_in_order(recorded: Samples) -> None:
    class Counting(Scripted):
        def decide(self, frames: Any, instructions: Any, speeds: Any) -> Decisions:
            n = len(frames)
            value = np.array([0.0 if s is None else s for s in speeds], np.float32)
            return Decisions(np.repeat(value[:, None], 8, 1), np.zeros((n, 2), np.float32))

    found = answers(Counting({}), recorded)
    np.testing.assert_allclose(found.curvature[:, 0], [s or 0.0 for s in recorded.speeds], rtol=1e-6)


class Head:
    """A reflex head that always bends the same way."""

    sha256 = "f" * 64
    probes = np.zeros((1, 120, 160, 3), np.uint8)

    def __init__(self, bend: float) -> None:
        self.bend = bend

    def curvatures(self, frames: Any, intents: Any) -> NDArray[np.float32]:
        assert intents.shape == (len(frames), 10)
        return np.full((len(frames), 8), self.bend, np.float32)


def test_a_candidates_head_is_measured_against_the_driver_and_on_the_course(
    half: tuple[Samples, Samples], limits: Limits
) -> None:
    """The base stands still, the candidate drives; slow decisions are driven by both, each with its own head."""

    class Headed(Scripted):
        def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
            super().use_adapter(folder, sha256=sha256)
            self.reflex: Any = Head(-0.5) if folder else Head(1.5)

    turned = replace(CANDIDATE, calibration=Calibration(steering_gain=0.7))
    course = Course(
        BASE,
        tracks=(82_000,),
        follow_tracks=(82_001,),
        unshifted_tracks=(82_002,),
        slow_tracks=(82_003,),
        slow_follow_tracks=(82_004,),
    )
    evidence = gather_evidence(
        Headed({"": 0.0, "c" * 64: 0.3}),
        candidate=turned,
        current=NOTHING,
        train=half[0],
        held=half[1],
        limits=limits,
        course=course,
    )
    truth = np.abs(turned.calibration.steering(-0.5) - half[1].command[:, 0]).mean()
    assert evidence.has_reflex
    assert evidence.reflex is not None
    assert evidence.reflex.steering == pytest.approx(truth, rel=1e-5)
    assert evidence.reflex.speed_mps is None
    assert evidence.reflex_current is None  # the base is no rival on these roads
    assert None not in (evidence.slow_path, evidence.slow_candidate, evidence.slow_current)
    assert evidence.slow_candidate is not None
    assert evidence.slow_current is not None
    assert evidence.slow_path is not None
    laps = {
        evidence.slow_path.completion,
        evidence.slow_candidate.completion,
        evidence.slow_current.completion,
    }
    assert len(laps) == 3


def test_the_head_that_drives_now_is_measured_on_the_same_steps(
    half: tuple[Samples, Samples], limits: Limits
) -> None:
    class Headed(Scripted):
        def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
            super().use_adapter(folder, sha256=sha256)
            self.reflex: Any = None if folder is None else Head(0.9 if sha256[0] == "d" else 0.1)

    evidence = gather_evidence(
        Headed({"": 0.0, "c" * 64: 0.3, "d" * 64: 0.2}),
        candidate=CANDIDATE,
        current=CURRENT,
        train=half[0],
        held=half[1],
        limits=limits,
        course=None,
    )
    assert evidence.reflex is not None
    assert evidence.reflex_current is not None
    assert evidence.reflex_current.steering > evidence.reflex.steering


def test_without_a_head_nothing_is_said_of_one(half: tuple[Samples, Samples], limits: Limits) -> None:
    evidence = gather_evidence(
        Scripted({"": 0.0, "c" * 64: 0.3}),
        candidate=CANDIDATE,
        current=NOTHING,
        train=half[0],
        held=half[1],
        limits=limits,
        course=None,
    )
    assert (evidence.has_reflex, evidence.reflex, evidence.slow_path) == (False, None, None)


def test_an_adapter_that_the_engine_does_not_take_gets_a_verdict_and_nothing_is_driven(
    half: tuple[Samples, Samples], limits: Limits
) -> None:
    class Refusing(Scripted):
        def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
            if folder == CANDIDATE.folder:
                raise AdapterError("candidate holds numbers that are not finite")
            super().use_adapter(folder, sha256=sha256)

        def decide(self, *_: Any) -> Decisions:
            pytest.fail("it was asked")

    evidence = gather_evidence(
        Refusing({}),
        candidate=CANDIDATE,
        current=NOTHING,
        train=half[0],
        held=half[1],
        limits=limits,
        course=Course(BASE),
    )
    verdict = judge(evidence, Rules())
    assert [c.name for c in verdict.checks] == ["loads"]
    assert verdict.reason.endswith("candidate holds numbers that are not finite)")
    assert (verdict.evidence.candidate_sha256, verdict.evidence.base_sha256) == ("c" * 64, "b" * 64)


def test_frozen_states_are_asked_of_candidate_and_base_and_name_the_evaluation(
    half: tuple[Samples, Samples], limits: Limits
) -> None:
    frozen = replace(half[0], episode=np.arange(48) % 6)

    def gathered(replay: Samples | None) -> Any:
        return gather_evidence(
            Scripted({"": 0.1, "c" * 64: 0.3, "d" * 64: 0.2}),
            candidate=CANDIDATE,
            current=CURRENT,
            train=half[0],
            held=half[1],
            limits=limits,
            course=None,
            replay=replay,
        )

    evidence = gathered(frozen)
    assert evidence.replay is not None
    assert evidence.replay.sha256 == evidence.sources.replay_sha256 == frozen.sha256()
    assert evidence.replay.candidate != evidence.replay.base
    assert evidence.held is not None
    weights = evidence.held.steps
    assert np.average(evidence.held.candidate, weights=weights) == pytest.approx(evidence.candidate.steering)
    assert np.average(evidence.held.current, weights=weights) == pytest.approx(evidence.current.steering)
    assert evidence.sources.current_sha256 == "d" * 64
    assert gathered(None).evaluation_sha256 != evidence.evaluation_sha256
