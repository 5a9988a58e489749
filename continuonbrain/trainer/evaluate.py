"""Gathers the evidence for a verdict: from the candidate's bytes on disk, in the engine that serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.convolution import F32
from continuonbrain.policy.engine import AdapterError, Decisions, Engine
from continuonbrain.policy.intent import Intents
from continuonbrain.policy.reflex import Reflex
from continuonbrain.policy.safety_head import SafetyHead
from continuonbrain.policy.watch import Watch
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.course import Course, CourseDriver, OnPart
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.evidence import Closed, Evidence, Imitation, Laps, Slow, Sources
from continuonbrain.trainer.exam import Paper
from continuonbrain.trainer.recorded import (
    examined,
    guarded_on,
    held_out,
    name_of,
    replayed,
    speed_error,
    steering_of,
)

_BATCH = 16
"""A closing gate waits for one of these."""


def _quiet(_part: str, _done: int, _total: int) -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Contender:
    """An adapter folder (None: the base alone), its identity and the calibration that travels with it."""

    folder: Path | None
    sha256: str
    calibration: Calibration


def answers(engine: Engine, samples: Samples, part: str = "", on_part: OnPart = _quiet) -> Decisions:
    """The engine's decisions on all samples. part: what on_part is told."""
    parts = []
    for i in range(0, len(samples), _BATCH):
        on_part(part, i, len(samples))
        batch = slice(i, i + _BATCH)
        parts.append(engine.decide(samples.frames[batch], samples.instructions[batch], samples.speeds[batch]))
    return Decisions(np.concatenate([p.curvature for p in parts]), np.concatenate([p.speed for p in parts]))


def imitation(decisions: Decisions, samples: Samples, calibration: Calibration) -> Imitation:
    """Mean absolute error against the driver."""
    steering = np.abs(steering_of(decisions, samples, calibration) - samples.command[:, 0])
    known = _speed_known(samples)
    speed = np.abs(decisions.speed[:, 0] - samples.speed_ahead[:, 0])[known]
    return Imitation(float(steering.mean()), float(speed.mean()) if len(speed) else None)


def reflex_imitation(
    engine: Engine,
    head: Reflex,
    samples: Samples,
    calibration: Calibration,
    *,
    intents: Intents | None = None,
    part: str = "",
    on_part: OnPart = _quiet,
) -> Imitation:
    """Mean absolute steering error of a reflex head against the driver; speeds are the model's."""
    asked = intents or Intents(engine, reflex=head)
    bends = []
    for i in range(0, len(samples), _BATCH):
        on_part(part, i, len(samples))
        batch = slice(i, i + _BATCH)
        meant = asked.of_all(samples.instructions[batch])
        assert meant is not None
        bends.append(head.curvatures(samples.frames[batch], meant))
    steering = steering_of(Decisions(np.concatenate(bends), samples.speed_ahead), samples, calibration)
    return Imitation(float(np.abs(steering - samples.command[:, 0]).mean()), None)


def _speed_known(samples: Samples) -> NDArray[np.bool_]:
    """Samples whose speed was measured, at the step and half a second later."""
    measured = np.array([s is not None for s in samples.speeds], bool)
    known: NDArray[np.bool_] = measured & (samples.weights[:, -2] > 0)
    return known


def constant_baselines(train: Samples, held: Samples) -> tuple[Imitation, Imitation]:
    """(always the mean of the training commands, always the driver's last command) on the held-out steps."""
    known = _speed_known(held)
    ahead = held.speed_ahead[known, 0]
    driven = train.speed_ahead[_speed_known(train), 0]
    now = np.array([s for s, k in zip(held.speeds, known, strict=True) if k and s is not None])
    mean = Imitation(
        float(np.abs(held.command[:, 0] - train.command[:, 0].mean()).mean()),
        float(np.abs(ahead - driven.mean()).mean()) if len(ahead) and len(driven) else None,
    )
    kept = float(np.abs(now - ahead).mean()) if len(ahead) else None
    return mean, Imitation(float(np.abs(held.command[:, 0] - held.previous[:, 0]).mean()), kept)


def gather_evidence(
    engine: Engine,
    *,
    candidate: Contender,
    current: Contender,
    train: Samples,
    held: Samples | None,
    limits: Limits,
    course: Course | None,
    replay: Samples | None = None,
    exam: Paper | None = None,
    decision_time_s: float = 0.0,
    watch_with: Callable[[], Watch] | None = None,
    on_part: OnPart = _quiet,
) -> Evidence:
    """Measure candidate, current and base. The engine ends with the candidate in use, unless it does not take it.

    held: samples of held-out episodes, None when there are none. course: None where there is no simulator. replay:
    frozen states of the base's family (`states.frozen_samples`), None where they cannot be drawn. exam: of a
    consolidation. watch_with: makes watches that count what the safety head would have stopped, None where no head is
    installed.
    """
    steps = 0 if held is None else len(held)
    sources = Sources(
        current_sha256=current.sha256,
        safety_head_sha256=None if watch_with is None else watch_with().head.sha256,
        held_out_sha256="" if held is None else held.sha256(lambda: on_part("recorded steps", 0, steps)),
        course_sha256="" if course is None else course.sha256,
        replay_sha256=""
        if replay is None
        else replay.sha256(lambda: on_part("frozen states", 0, len(replay))),
    )
    evidence = Evidence(
        candidate_sha256=candidate.sha256,
        base_sha256=engine.base_sha256,
        evaluation_sha256=name_of(sources.held_out_sha256, sources.course_sha256, sources.replay_sha256),
        held_out_steps=steps,
        sources=sources,
    )
    try:  # before anything takes minutes
        engine.use_adapter(candidate.folder, sha256=candidate.sha256)
    except AdapterError as error:
        return replace(evidence, refused=error.message)
    sources = replace(sources, reflex_sha256="" if engine.reflex is None else engine.reflex.sha256)
    driver = (
        None if course is None else CourseDriver(engine, course, limits, decision_time_s, on_part, watch_with)
    )
    probe = held if held is not None else train
    base = Measured("base", Contender(None, "", current.calibration))
    own = Measured("candidate", candidate)
    now = base if current.folder is None else Measured("current", current)
    for run in [base, own] if now is base else [base, now, own]:
        engine.use_adapter(run.of.folder, sha256=run.of.sha256)
        run.answered = answers(engine, probe, f"{run.label}: recorded steps", on_part)
        if replay is not None and run in (own, base):
            run.remembered = answers(engine, replay, f"{run.label}: frozen states", on_part)
        if exam is not None and run in (own, now):
            run.examined = answers(engine, exam.samples, f"{run.label}: the exam", on_part)
        if held is not None and engine.reflex is not None:
            run.head = reflex_imitation(
                engine,
                engine.reflex,
                held,
                run.of.calibration,
                part=f"{run.label}: the reflex head",
                on_part=on_part,
            )
        run.has_reflex = engine.reflex is not None
        if driver is None:
            continue
        if run in (own, now):
            run.slow = driver.slow(run.label, run.of.calibration)
            if run is own and run.has_reflex:
                run.slow_path = driver.slow_by_paths(run.label, run.of.calibration)
            run.closed = driver.closed(run.label, run.of.calibration)
        if run in (own, base):
            run.unshifted = driver.unshifted(run.label)
    # In the same servo coordinates, so that a difference is the adapter's and not the calibration's.
    bends = {run.label: steering_of(run.answer, probe, candidate.calibration) for run in (own, base)}
    evidence = replace(
        evidence,
        sources=sources,
        difference=float(np.abs(bends["candidate"] - bends["base"]).mean()),
        closed_candidate=own.closed,
        closed_current=now.closed,
        unshifted_candidate=own.unshifted,
        unshifted_base=base.unshifted,
        has_reflex=own.has_reflex,
        reflex=own.head,
        # A base's head has not seen these roads: it is no rival, as its model is none on them.
        reflex_current=None if now is base else now.head,
        slow_candidate=own.slow,
        slow_current=now.slow,
        slow_path=own.slow_path,
    )
    if replay is not None and own.remembered is not None and base.remembered is not None:
        found = replayed(replay, own.remembered, base.remembered, sources.replay_sha256)
        evidence = replace(evidence, replay=found)
    if exam is not None and own.examined is not None and now.examined is not None:
        asked = exam.samples.sha256(lambda: on_part("the exam", 0, len(exam.samples)))
        evidence = replace(evidence, exam=examined(exam, own.examined, now.examined, asked))
    if held is None:
        return evidence
    watch = None if watch_with is None else (watch_with, grids_of(watch_with().head, held, on_part))
    return with_recordings(evidence, base, now, own, train, held, limits, on_part, watch)


def grids_of(head: SafetyHead, held: Samples, on_part: OnPart) -> F32:
    """What a safety head sees on the held-out steps."""
    out = []
    for i in range(0, len(held), _BATCH):
        on_part("recorded steps: the safety head", i, len(held))
        out.append(head.grids(held.frames[i : i + _BATCH]))
    return np.concatenate(out)


@dataclass(slots=True, eq=False)  # by identity: it is asked which run this is
class Measured:
    """What was measured of one contender."""

    label: str
    of: Contender
    answered: Decisions | None = None
    remembered: Decisions | None = None
    examined: Decisions | None = None
    head: Imitation | None = None
    has_reflex: bool = False
    slow: Slow | None = None
    slow_path: Laps | None = None
    closed: Closed | None = None
    unshifted: Laps | None = None

    @property
    def answer(self) -> Decisions:
        assert self.answered is not None
        return self.answered


def with_recordings(
    evidence: Evidence,
    base: Measured,
    now: Measured,
    own: Measured,
    train: Samples,
    held: Samples,
    limits: Limits,
    on_part: OnPart,
    watch: tuple[Callable[[], Watch], F32] | None,
) -> Evidence:
    """The evidence with what the held-out steps say, as means and by block."""
    mean, repeat = constant_baselines(train, held)
    driven = held.command[:, 0].astype(float)
    errors = {"mean": np.abs(driven - float(train.command[:, 0].mean()))}
    acted = {}
    for name, run in (("candidate", own), ("current", now)):
        errors[name] = np.abs(steering_of(run.answer, held, run.of.calibration) - driven)
        errors[f"speed_{name}"] = speed_error(run.answer, held)
        part = f"{run.label}: the guard on recorded steps"
        look = partial(on_part, part, 0, len(held))
        acted[name] = guarded_on(run.answer, held, run.of.calibration, limits, look, watch)
    speed_gap = np.abs(own.answer.speed[:, 0] - held.speed_ahead[:, 0]) / 2
    return replace(
        evidence,
        candidate=imitation(own.answer, held, own.of.calibration),
        current=imitation(now.answer, held, now.of.calibration),
        base=imitation(base.answer, held, base.of.calibration),
        mean=mean,
        repeat=repeat,
        distance=float((errors["candidate"].mean() + speed_gap.mean()) / 2),
        held=held_out(held, errors, acted),
    )
