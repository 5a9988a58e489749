"""The verdict: rules that decide from measured evidence whether a candidate may drive. Pure, no I/O.

- No held-out evidence, no pass (unless the owner allows promotion without evaluation, off by default).
- The candidate must answer differently from the base: an adapter that does nothing is a broken one.
- A number that is not finite, anywhere in the evidence, means that the measurement broke: no pass.
- It must be a gain: closer to the driver on held-out steps, or further round the track, than what drives now.
- It must not imitate the driver worse than what drives now, and not be far from the driver's actions.
- Where a reflex head was to be taught there must be one, and it must steer like the driver.
- With slow decisions too it must drive and obey no worse than what drives now.
- Where there is a simulator: it must not drive worse than what drives now, must obey "stop", must not make the
  guard work more, and must not have forgotten the roads that the base knew.

A verdict names every number, threshold and hash. It is bound to the bytes that were judged.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

VERDICT_VERSION = 1
_MIN_DIFFERENCE = 1e-3
_IMITATION_SLACK = 1.02  # measured on few episodes: 2 % is noise, not harm
_REFLEX_SLACK = 1.25  # a head is taught anew each time, for seconds
_REFLEX_TO_MODEL = 1.5


@dataclass(frozen=True, slots=True)
class Imitation:
    """Error against the driver on held-out steps: mean absolute steering (of [-1, 1]) and speed (m/s; None on a
    robot that does not measure it)."""

    steering: float
    speed_mps: float | None


@dataclass(frozen=True, slots=True)
class Closed:
    """Closed-loop figures of one contender in the simulator; see `score.py`."""

    completion: float
    lateral_error_m: float
    guard_share: float
    following: float
    stop: float
    stop_model: float


@dataclass(frozen=True, slots=True)
class Slow:
    """Completion and instructions obeyed when every decision takes as long as on a small computer."""

    completion: float
    following: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured. hashes bind it; None where a thing could not be measured on this robot.

    mean and repeat are the baselines that always answer the mean command, or the last one. distance: mean
    |candidate - driver| over steering and speed/2. difference: mean |candidate - base| in steering.
    unshifted_*: completion on the tracks that the base was made for. reflex, reflex_current: the reflex heads
    against the driver. slow_*: with slow decisions, each with the head that it has; slow_path: the candidate's
    completion then by its model's paths alone.
    """

    candidate_sha256: str
    base_sha256: str
    evaluation_sha256: str
    held_out_steps: int
    candidate: Imitation | None = None
    current: Imitation | None = None
    base: Imitation | None = None
    mean: Imitation | None = None
    repeat: Imitation | None = None
    distance: float | None = None
    difference: float | None = None
    closed_candidate: Closed | None = None
    closed_current: Closed | None = None
    unshifted_candidate: float | None = None
    unshifted_base: float | None = None
    has_reflex: bool = False
    reflex: Imitation | None = None
    reflex_current: Imitation | None = None
    slow_candidate: Slow | None = None
    slow_current: Slow | None = None
    slow_path: float | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """Thresholds, from the config's `promotion` group."""

    avg_action_delta_threshold: float = 0.25
    max_completion_loss: float = 0.0
    min_gain: float = 0.02
    max_following_loss: float = 0.1
    max_forgetting: float = 0.02
    min_stop_obeyed: float = 1.0
    max_guard_share: float = 0.25
    min_held_out_steps: int = 50
    allow_promotion_without_eval: bool = False
    needs_reflex: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One rule applied: value against threshold, and what it means in words."""

    name: str
    value: float | None
    threshold: float
    passed: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """passed only if every check is. reason: the first failed check in words, "" when passed."""

    passed: bool
    reason: str
    checks: tuple[Check, ...]
    evidence: Evidence
    rules: Rules = field(default_factory=Rules)

    def to_json(self) -> dict[str, Any]:
        """`verdict.json`: what the adapter store needs to promote, and all numbers."""
        return {
            "version": VERDICT_VERSION,
            "passed": self.passed,
            "reason": self.reason,
            "candidate_sha256": self.evidence.candidate_sha256,
            "base_sha256": self.evidence.base_sha256,
            "evaluation_sha256": self.evidence.evaluation_sha256,
            "checks": [_plain(asdict(c)) for c in self.checks],
            "evidence": _plain(asdict(self.evidence)),
            "rules": asdict(self.rules),
        }


def _plain(value: Any) -> Any:
    # JSON has no NaN; a number that is none is written as null.
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _broken(value: Any, name: str = "evidence") -> list[str]:
    """Names of the numbers in the evidence that are not finite."""
    if isinstance(value, dict):
        return [
            found
            for k, v in value.items()
            for found in _broken(v, k if name == "evidence" else f"{name}.{k}")
        ]
    return [name] if isinstance(value, float) and not math.isfinite(value) else []


def _at_most(name: str, value: float | None, threshold: float, meaning: str) -> Check:
    # Written so that NaN and a missing number fail.
    passed = value is not None and math.isfinite(value) and value <= threshold
    return Check(name, value, threshold, passed, meaning)


def _at_least(name: str, value: float | None, threshold: float, meaning: str) -> Check:
    passed = value is not None and math.isfinite(value) and value >= threshold
    return Check(name, value, threshold, passed, meaning)


def _gain(e: Evidence) -> float | None:
    """The larger of: share of the held-out steering error that is gone, completion that is won."""
    gains = []
    if e.candidate is not None and e.current is not None and e.current.steering > 0:
        gains.append(1 - e.candidate.steering / e.current.steering)
    if e.closed_candidate is not None and e.closed_current is not None:
        gains.append(e.closed_candidate.completion - e.closed_current.completion)
    return max(gains) if gains else None


def _reflex_checks(e: Evidence, rules: Rules) -> list[Check]:
    """Whether the car is in good hands between slow decisions."""
    checks = []
    if rules.needs_reflex:
        meaning = "comes with a reflex head (training.reflex_steps 0 learns without one)"
        checks.append(_at_least("reflex", float(e.has_reflex), 1.0, meaning))
    if e.reflex is not None:
        rivals = [rules.avg_action_delta_threshold]
        rivals += [] if e.candidate is None else [_REFLEX_TO_MODEL * e.candidate.steering]
        rivals += [] if e.reflex_current is None else [_REFLEX_SLACK * e.reflex_current.steering]
        meaning = "the reflex head steers like the driver, about as well as the model and the head before it"
        checks.append(_at_most("reflex_steering", e.reflex.steering, min(rivals), meaning))
    if e.closed_candidate is not None:
        slow, now = e.slow_candidate, e.slow_current
        floor = max(now.completion if now else math.nan, -1.0 if e.slow_path is None else e.slow_path)
        checks += [
            _at_least(
                "slow_completion",
                slow.completion if slow else None,
                floor - rules.max_completion_loss,
                "with slow decisions drives at least as far as what drives now, and as without the reflex head",
            ),
            _at_least(
                "slow_following",
                slow.following if slow else None,
                (now.following if now else math.nan) - rules.max_following_loss,
                "with slow decisions obeys as many instructions as what drives now",
            ),
        ]
    return checks


def judge(evidence: Evidence, rules: Rules) -> Verdict:
    """Apply the rules to the evidence."""
    checks = [
        _at_least("differs_from_base", evidence.difference, _MIN_DIFFERENCE, "answers differ from the base")
    ]
    e, closed = evidence, evidence.closed_candidate
    broken = _broken(asdict(e))
    checks.append(
        _at_most(
            "measured",
            float(len(broken)),
            0.0,
            f"not finite: {', '.join(broken)}" if broken else "every figure is a finite number",
        )
    )
    if not (rules.allow_promotion_without_eval and e.held_out_steps == 0):
        checks.append(
            _at_least(
                "held_out_steps", float(e.held_out_steps), rules.min_held_out_steps, "enough held-out steps"
            )
        )
        rival = e.current.steering if e.current else None
        checks.append(
            _at_most(
                "imitation_steering",
                e.candidate.steering if e.candidate else None,
                math.nan if rival is None else rival * _IMITATION_SLACK,
                "steers like the driver, no worse than what drives now",
            )
        )
        checks.append(
            _at_most(
                "action_distance",
                e.distance,
                rules.avg_action_delta_threshold,
                "close to the driver's actions",
            )
        )
    if e.held_out_steps > 0 or closed is not None:
        checks.append(
            _at_least(
                "gain", _gain(e), rules.min_gain, "better than what drives now: held-out error or completion"
            )
        )
    if e.held_out_steps > 0 and closed is None and e.closed_current is None:
        # Recordings are all there is: who steers worse than a constant has learned nothing that drives.
        checks.append(
            _at_most(
                "mean_command",
                e.candidate.steering if e.candidate else None,
                e.mean.steering if e.mean else math.nan,
                "steers better than always giving the mean command",
            )
        )
    if closed is None and e.closed_current is not None:
        checks.append(_at_least("completion", None, e.closed_current.completion, "was driven on the course"))
    if closed is not None:
        now = e.closed_current
        # Unknown, not zero: what drives now must have been measured on the same course.
        floor = (now.completion if now else math.nan) - rules.max_completion_loss
        checks += [
            _at_least("completion", closed.completion, floor, "drives at least as far as what drives now"),
            _at_least(
                "following",
                closed.following,
                (now.following if now else math.nan) - rules.max_following_loss,
                "obeys as many instructions as what drives now",
            ),
            _at_least("stop_obeyed", closed.stop, rules.min_stop_obeyed, "obeys stop"),
            _at_most("guard_share", closed.guard_share, rules.max_guard_share, "leaves the guard in peace"),
        ]
        forgotten = None
        if e.unshifted_base is not None and e.unshifted_candidate is not None:
            forgotten = e.unshifted_base - e.unshifted_candidate
        checks.append(
            _at_most("forgetting", forgotten, rules.max_forgetting, "still drives the roads the base knew")
        )
    checks += _reflex_checks(e, rules)
    failed = [c for c in checks if not c.passed]
    reason = (
        ""
        if not failed
        else f"{failed[0].name}: {failed[0].value} against {failed[0].threshold} ({failed[0].meaning})"
    )
    return Verdict(not failed, reason, tuple(checks), evidence, rules)
