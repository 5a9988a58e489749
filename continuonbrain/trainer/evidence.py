"""What a verdict is founded on: figures of candidate, what drives now and base, with what each figure is a mean of.

Intervals are computed from the values by cluster (`bootstrap.py`), so these stand here and in `verdict.json`: whoever
has the file can judge again. A tuple that is empty was not measured. Pure, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Figures = tuple[float, ...]
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Imitation:
    """Error against the driver on held-out steps: mean absolute steering (of [-1, 1]) and speed (m/s; None on a
    robot that does not measure it)."""

    steering: float
    speed_mps: float | None


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out steps in blocks of about two seconds, in order of time, `[blocks]` each.

    episode: number of the block's episode; steps: how many; candidate, current, mean: their mean absolute steering
    error there (mean: of always giving the mean command); guard_*: share of the steps on which the guard changed what
    that contender proposed; head_*: on which the safety head slowed or stopped it; speed_*: mean speed error
    (`recorded.speed_error`, a share of full speed). guard_reasons: of all held-out steps the share on which the guard
    had each of its reasons with the candidate, the most frequent first.
    """

    episode: tuple[int, ...]
    steps: Figures
    candidate: Figures
    current: Figures
    mean: Figures
    guard_candidate: Figures = ()
    guard_current: Figures = ()
    head_candidate: Figures = ()
    head_current: Figures = ()
    speed_candidate: Figures = ()
    speed_current: Figures = ()
    guard_reasons: Mapping[str, float] = field(default_factory=dict)

    @property
    def episodes(self) -> int:
        """How many episodes these are."""
        return len(set(self.episode))


@dataclass(frozen=True, slots=True)
class Replay:
    """Frozen states of the base's own family with ideal answers, by track, `[tracks]` each: how many states, the mean
    absolute steering error (nominal servo) of candidate and base against the ideal path, and the mean error of their
    speeds (`recorded.speed_error`)."""

    sha256: str
    states: Figures
    candidate: Figures
    base: Figures
    speed_candidate: Figures = ()
    speed_base: Figures = ()


@dataclass(frozen=True, slots=True)
class Exam:
    """Episodes of all that the robot has lived through that nobody trained on, `[episodes]` each: the lesson that each
    came from, how many states, the mean absolute steering error (nominal servo) of candidate and what drives now
    against the driver's path, and the mean error of their speeds (`recorded.speed_error`).

    trained: of a lesson that has no other episode, one that is trained on as well; names: of what is asked of each;
    best, speed_best: errors of who was the best before (`exam.py`), None where nobody was asked this; unread: lessons
    that could not be looked at, because none of their episodes can be read.
    """

    sha256: str
    lesson: tuple[int, ...]
    states: Figures
    candidate: Figures
    current: Figures
    speed_candidate: Figures
    speed_current: Figures
    trained: tuple[bool, ...]
    names: tuple[str, ...]
    best: tuple[float | None, ...] = ()
    speed_best: tuple[float | None, ...] = ()
    unread: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Closed:
    """Closed-loop figures of one contender in the simulator; see `score.py`.

    By track: completions, guard_shares (ticks in which the guard acted for a reason of its own), head_shares (in which
    the safety or the world head slowed or stopped), all of laps; obeyed: instructions, by track. reasons: share of the
    laps' ticks by reason.
    """

    completion: float
    lateral_error_m: float
    guard_share: float
    following: float
    stop: float
    stop_model: float
    completions: Figures = ()
    guard_shares: Figures = ()
    head_shares: Figures = ()
    obeyed: Figures = ()
    reasons: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slow:
    """Completion and instructions obeyed when decisions take as long as on a small computer; both by track too."""

    completion: float
    following: float
    completions: Figures = ()
    obeyed: Figures = ()


@dataclass(frozen=True, slots=True)
class Laps:
    """Completion alone, and by track."""

    completion: float
    completions: Figures = ()


@dataclass(frozen=True, slots=True)
class Sources:
    """What was measured with what, by sha256 ("" where there is none): current, the candidate's reflex head, the safety
    head (None: no head is installed), the held-out episodes' samples, the course, the replay set, the serving bundle,
    the settings. engine: "torch" or "litert", with its precision; versions: of what computed."""

    current_sha256: str = ""
    reflex_sha256: str = ""
    safety_head_sha256: str | None = None
    held_out_sha256: str = ""
    course_sha256: str = ""
    replay_sha256: str = ""
    engine: str = ""
    bundle_sha256: str = ""
    config_sha256: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured. hashes bind it; None where a thing could not be measured on this robot.

    refused: why the serving engine does not take the candidate at all, "" when it does; nothing else is measured then.
    evaluation_sha256: over the held-out samples, the course and the replay set. mean and repeat are the baselines that
    always answer the mean command, or the last one. distance: mean |candidate - driver| over steering and speed/2.
    difference: mean |candidate - base| in steering. unshifted_*: laps on the tracks that the base was made for.
    reflex, reflex_current: the reflex heads against the driver. slow_*: with slow decisions, each with the head that
    it has; slow_path: the candidate's laps then by its model's paths alone.
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
    held: HeldOut | None = None
    closed_candidate: Closed | None = None
    closed_current: Closed | None = None
    unshifted_candidate: Laps | None = None
    unshifted_base: Laps | None = None
    replay: Replay | None = None
    exam: Exam | None = None
    has_reflex: bool = False
    reflex: Imitation | None = None
    reflex_current: Imitation | None = None
    slow_candidate: Slow | None = None
    slow_current: Slow | None = None
    slow_path: Laps | None = None
    refused: str = ""
    sources: Sources = field(default_factory=Sources)


def not_finite(value: Any, name: str = "") -> list[str]:
    """Names of the numbers in evidence (as `asdict` gives it) that are not finite."""
    if isinstance(value, Mapping):
        return [found for k, v in value.items() for found in not_finite(v, f"{name}.{k}" if name else str(k))]
    if isinstance(value, list | tuple):
        return [name] if any(not_finite(v, name) for v in value) else []
    return [name] if isinstance(value, float) and not math.isfinite(value) else []


def contradictions(e: Evidence) -> list[str]:
    """Names of the means that do not follow from their values by cluster: such evidence was put together wrongly."""
    pairs: list[tuple[str, float, Figures, Figures]] = []
    for label, closed in (("closed_candidate", e.closed_candidate), ("closed_current", e.closed_current)):
        if closed is not None:
            pairs += [
                (f"{label}.completion", closed.completion, closed.completions, ()),
                (f"{label}.guard_share", closed.guard_share, closed.guard_shares, ()),
            ]
    for label, laps in (
        ("unshifted_candidate", e.unshifted_candidate),
        ("unshifted_base", e.unshifted_base),
        ("slow_candidate", e.slow_candidate),
        ("slow_current", e.slow_current),
        ("slow_path", e.slow_path),
    ):
        if laps is not None:
            pairs.append((f"{label}.completion", laps.completion, laps.completions, ()))
    if e.held is not None:
        for label, of, values in (
            ("candidate", e.candidate, e.held.candidate),
            ("current", e.current, e.held.current),
        ):
            if of is not None:
                pairs.append((f"{label}.steering", of.steering, values, e.held.steps))
    return [name for name, mean, values, weights in pairs if values and not _follows(mean, values, weights)]


def _follows(mean: float, values: Figures, weights: Figures) -> bool:
    share = weights or (1.0,) * len(values)
    if len(share) != len(values) or sum(share) <= 0:
        return False
    return abs(sum(w * v for w, v in zip(share, values, strict=True)) / sum(share) - mean) <= _SAME
