"""One rule applied to evidence: a value against a threshold, or a comparison with its interval. Pure, no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from continuonbrain.safety.reasons import Reason
from continuonbrain.trainer.bootstrap import Interval, paired, relative, seed_of
from continuonbrain.trainer.evidence import Evidence, Figures, HeldOut


@dataclass(frozen=True, slots=True)
class Rules:
    """Thresholds, from the config's `promotion` group. max_harm: what a loss may still be at the bad end of its
    interval (share of a lap, of ticks, of the error)."""

    avg_action_delta_threshold: float = 0.25
    max_completion_loss: float = 0.0
    min_gain: float = 0.02
    max_following_loss: float = 0.1
    max_forgetting: float = 0.02
    max_harm: float = 0.1
    min_stop_obeyed: float = 1.0
    max_guard_share: float = 0.25
    min_held_out_steps: int = 50
    min_eval_episodes: int = 4
    allow_promotion_without_eval: bool = False
    needs_reflex: bool = False
    needs_gain: bool = True
    """False for a consolidation, which is to be as good and to have forgotten nothing."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule applied: value against threshold, and what it means in words. Of a comparison: value is candidate minus
    rival, low and high its interval at `level` from n clusters (`unit`), limit what the bad end must keep within."""

    name: str
    value: float | None
    threshold: float
    passed: bool
    meaning: str
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    n: int | None = None
    unit: str = ""
    level: float | None = None


def at_most(name: str, value: float | None, threshold: float, meaning: str) -> Check:
    # Written so that NaN and a missing number fail.
    passed = value is not None and math.isfinite(value) and value <= threshold
    return Check(name, value, threshold, passed, meaning)


def at_least(name: str, value: float | None, threshold: float, meaning: str) -> Check:
    passed = value is not None and math.isfinite(value) and value >= threshold
    return Check(name, value, threshold, passed, meaning)


Compare = Callable[[Figures, Figures, list[int]], Interval | None]
"""Candidate's and rival's figures, and a seed, to an interval of their difference."""


def by_track(own: Figures, rival: Figures, seed: list[int]) -> Interval | None:
    """`paired`, as a `Compare`."""
    return paired(own, rival, seed=seed)


class Court:
    """The rules at work on one evidence."""

    def __init__(self, evidence: Evidence, rules: Rules) -> None:
        self.e, self.rules = evidence, rules
        self.checks: list[Check] = []

    def seed(self, name: str) -> list[int]:
        return seed_of(self.e.evaluation_sha256, name)

    def no_loss(
        self,
        name: str,
        own: Figures,
        rival: Figures,
        slack: float,
        meaning: str,
        *,
        limit: float,
        unit: str = "tracks",
    ) -> None:
        """The candidate's share, better when larger, may be `slack` smaller, and surely not `limit`.

        For what is sure a win counts on each track up to `limit` only: what was won on one road neither makes up for
        what was lost on another nor makes the interval wide.
        """
        limit = max(limit, slack)
        found = paired(own, rival, seed=self.seed(name))
        counted = tuple(min(o, r + limit) for o, r in zip(own, rival, strict=False))
        sure = paired(counted, rival, seed=self.seed(name))
        passed = found is not None and sure is not None and found.estimate >= -slack and sure.low >= -limit
        if found is not None and sure is not None and (sure.low >= -limit) != (found.low >= -limit):
            found = replace(found, low=sure.low)  # the end that decided is the one that is shown
        self.checks.append(compared(name, found, 0.0 - slack, passed, meaning, 0.0 - limit, unit))

    def no_rise(
        self,
        name: str,
        own: Figures,
        rival: Figures,
        slack: float,
        meaning: str,
        *,
        compare: Compare,
        limit: float,
        unit: str = "tracks",
        share: bool = False,
    ) -> None:
        """What was measured of the candidate, better when smaller, may be `slack` larger, and surely not `limit`;
        share: both of the rival's. As in `no_loss` a win counts up to `limit` for what is sure, but for a limit of 0:
        then it is a gain that is asked for."""
        limit = max(limit, slack)
        found = compare(own, rival, self.seed(name))
        sure = found
        if limit > 0:
            least = tuple(r * (1 - limit) if share else r - limit for r in rival)
            counted = tuple(max(o, m) for o, m in zip(own, least, strict=False))
            sure = compare(counted, rival, self.seed(name))
        passed = found is not None and sure is not None and found.estimate <= slack and sure.high <= limit
        if found is not None and sure is not None and (sure.high <= limit) != (found.high <= limit):
            found = replace(found, high=sure.high)
        self.checks.append(compared(name, found, slack, passed, meaning, limit, unit))

    @property
    def on_course(self) -> bool:
        return self.e.closed_candidate is not None or self.e.closed_current is not None

    @property
    def by_episodes(self) -> bool:
        """Whether there are enough held-out episodes to stand for others."""
        return self.e.held is not None and self.e.held.episodes >= self.rules.min_eval_episodes

    def over_recordings(self, *, share: bool) -> Compare:
        """Compares figures by block, over episodes where there are enough, else over blocks within them; share: as a
        share of the rival's."""
        held, by_episodes = self.e.held, self.by_episodes

        def compare(own: Figures, rival: Figures, seed: list[int]) -> Interval | None:
            if held is None or not len(own) == len(rival) == len(held.steps) == len(held.episode):
                return None
            measure = relative if share else paired
            if not by_episodes:
                return measure(own, rival, seed=seed, weights=held.steps, groups=held.episode)
            steps = _by_episode(held, None)
            return measure(_by_episode(held, own), _by_episode(held, rival), seed=seed, weights=steps)

        return compare

    @property
    def recorded_unit(self) -> str:
        return "episodes" if self.by_episodes else "2 s blocks"


def _by_episode(held: HeldOut, values: Figures | None) -> Figures:
    """Means of block values by episode, in the order of the episodes; None: their steps."""
    sums: dict[int, float] = {}
    steps: dict[int, float] = {}
    for i, (episode, count) in enumerate(zip(held.episode, held.steps, strict=True)):
        steps[episode] = steps.get(episode, 0.0) + count
        sums[episode] = sums.get(episode, 0.0) + count * (0.0 if values is None else values[i])
    if values is None:
        return tuple(steps.values())
    return tuple(total / steps[episode] for episode, total in sums.items())


def compared(
    name: str, found: Interval | None, threshold: float, passed: bool, meaning: str, limit: float, unit: str
) -> Check:
    if found is None:
        return Check(name, None, threshold, False, meaning, limit=limit, unit=unit)
    return Check(
        name,
        found.estimate,
        threshold,
        passed,
        meaning,
        found.low,
        found.high,
        limit,
        found.n,
        unit,
        found.level,
    )


_BOUND_BY = {
    Reason.STEERING_BOUND: ("steers further than", "steering_bounds"),
    Reason.THROTTLE_BOUND: ("drives faster than", "throttle_bounds"),
    Reason.STEERING_SLEW: ("steers quicker than", "steering_rate_per_s"),
    Reason.STEERING_JERK: ("steers more abruptly than", "steering_jerk_per_s2"),
    Reason.THROTTLE_SLEW: ("changes speed quicker than", "throttle_rate_per_s"),
}
"""Reason -> what a candidate does that `guards` of config.json does not allow."""


def guards_reason(shares: Mapping[str, float]) -> str:
    """The guard's most frequent reason in words, and which setting it comes from; "" where there was none. shares: of
    all steps, by reason."""
    if not shares:
        return ""
    name = max(shares, key=lambda n: shares[n])
    told = f"; most often {name}, on {shares[name]:.0%} of the steps"
    bound = next((words for reason, words in _BOUND_BY.items() if reason.value == name), None)
    if bound is None:
        return told
    return f"{told}: it {bound[0]} guards.{bound[1]} of config.json allows"
