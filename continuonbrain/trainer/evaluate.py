"""Gathers the evidence for a verdict: from the candidate's bytes on disk, in the engine that serves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.codec import CURVATURE_KNOTS_M
from continuonbrain.policy.engine import Decisions, Engine
from continuonbrain.policy.intent import Intents
from continuonbrain.policy.reflex import Reflex
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.course import Course, CourseDriver, OnPart
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.verdict import Closed, Evidence, Imitation, Slow

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


def steering_of(decisions: Decisions, samples: Samples, calibration: Calibration) -> NDArray[np.float64]:
    """The steering command that each decision asks for at its own step, `[n]` in [-1, 1].

    Measured robots: the curvature where the car is once the command takes effect; others: the first one.
    """
    out = np.empty(len(samples))
    for i, speed in enumerate(samples.speeds):
        distance = 0.0 if speed is None else speed * calibration.delay_s
        out[i] = calibration.steering(float(np.interp(distance, CURVATURE_KNOTS_M, decisions.curvature[i])))
    return out


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
    decision_time_s: float = 0.0,
    on_part: OnPart = _quiet,
) -> Evidence:
    """Measure candidate, current and base. The engine ends with the candidate in use.

    held: samples of held-out episodes, None when there are none. course: None where there is no simulator.
    """
    base = Contender(None, "", current.calibration)
    driver = None if course is None else CourseDriver(engine, course, limits, decision_time_s, on_part)
    name = hashlib.sha256()
    steps = 0 if held is None else len(held)
    if held is not None:
        name.update(held.sha256(lambda: on_part("recorded steps", 0, steps)).encode())
    if course is not None:
        name.update(repr(course).encode())
    figures: dict[str, Imitation] = {}
    unshifted: dict[str, float] = {}
    closed: dict[str, Closed] = {}
    slow: dict[str, Slow] = {}
    heads: dict[str, Imitation] = {}
    slow_path, has_reflex = None, False
    steering: dict[str, NDArray[np.float64]] = {}
    distance = difference = None
    probe = held if held is not None else train
    runs = [("base", base), ("candidate", candidate)]
    if current.folder is not None:
        runs.insert(1, ("current", current))
    for label, contender in runs:
        engine.use_adapter(contender.folder, sha256=contender.sha256)
        decisions = answers(engine, probe, f"{label}: recorded steps", on_part)
        # In the same servo coordinates, so that a difference is the adapter's and not the calibration's.
        steering[label] = steering_of(decisions, probe, candidate.calibration)
        if held is not None:
            figures[label] = imitation(decisions, held, contender.calibration)
        if label == "candidate":
            speed_gap = np.abs(decisions.speed[:, 0] - probe.speed_ahead[:, 0]) / 2
            gap = np.abs(steering[label] - probe.command[:, 0])
            distance = float((gap.mean() + speed_gap.mean()) / 2) if held is not None else None
        drives_now = label == ("current" if current.folder is not None else "base")
        if held is not None and engine.reflex is not None:
            heads[label] = reflex_imitation(
                engine,
                engine.reflex,
                held,
                contender.calibration,
                part=f"{label}: the reflex head",
                on_part=on_part,
            )
        if label == "candidate":
            has_reflex = engine.reflex is not None
        if driver is None:
            continue
        if label == "candidate" or drives_now:
            slow[label] = driver.slow(label, contender.calibration)
            if label == "candidate" and has_reflex:
                slow_path = driver.slow_by_paths(label, contender.calibration)
            closed[label] = driver.closed(label, contender.calibration)
        if label != "current":
            unshifted[label] = driver.unshifted(label)
    difference = float(np.abs(steering["candidate"] - steering["base"]).mean())
    mean, repeat = constant_baselines(train, held) if held is not None else (None, None)
    return Evidence(
        candidate_sha256=candidate.sha256,
        base_sha256=engine.base_sha256,
        evaluation_sha256=name.hexdigest(),
        held_out_steps=steps,
        candidate=figures.get("candidate"),
        current=figures.get("current", figures.get("base")),
        base=figures.get("base"),
        mean=mean,
        repeat=repeat,
        distance=distance,
        difference=difference,
        closed_candidate=closed.get("candidate"),
        closed_current=closed.get("current", closed.get("base")),
        unshifted_candidate=unshifted.get("candidate"),
        unshifted_base=unshifted.get("base"),
        has_reflex=has_reflex,
        reflex=heads.get("candidate"),
        # A base's head has not seen these roads: it is no rival, as its model is none on them.
        reflex_current=heads.get("current"),
        slow_candidate=slow.get("candidate"),
        slow_current=slow.get("current", slow.get("base")),
        slow_path=slow_path,
    )
