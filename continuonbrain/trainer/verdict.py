"""The verdict: rules that decide from measured evidence whether a candidate may drive. Pure, no I/O.

- The serving engine must take it; it must answer differently from the base: one that does nothing is a broken one.
- No held-out evidence, no pass (unless the owner allows promotion without evaluation, off by default), and too few
  held-out episodes are none.
- A number that is not finite, or a mean that does not follow from its parts: the measurement broke, no pass.
- It must be a gain: closer to the driver on held-out steps, or further round the track, than what drives now; but a
  consolidation need not: it must have forgotten nothing of any lesson, by episodes that nobody trained on, neither
  against what drives now nor against the best that was ever reached on that lesson (`exam.py`).
- It must not imitate the driver worse than what drives now, neither in steering nor in speed, and not be far from the
  driver's actions.
- It must not make the guard, or the safety head, work more than what drives now does.
- Where a reflex head was to be taught there must be one, and it must steer like the driver.
- With slow decisions too it must drive and obey no worse than what drives now.
- Where there is a simulator: it must not drive worse than what drives now, must obey "stop", and must not have
  forgotten the roads that the base knew, neither driving them nor in frozen states of them.

**Harm** is compared with an interval (`bootstrap.py`): the estimate must be within the slack of the rule, and the bad
end of the interval within what may be left unknown (`limit`), so that little evidence of no harm is no evidence. The
limit is wider than the slack: shares of a few tracks move in steps of several per cent, and a rule that asked the
interval's end to be within two would refuse a candidate that is exactly as good. For harm a win counts on each track
only up to the limit: what was won on one road neither makes up for what was lost on another nor makes the interval
wide. **Gain** needs an estimate worth a change (`min_gain`) and an interval that excludes no gain at all; two measures
may show it, each end of whose interval is wrong once in forty, so what is equal seems a gain at most once in twenty,
before all the other rules.

Tracks carry the evidence where there is a course; of recordings alone, episodes must. Where the course carries and
there are fewer episodes than `min_eval_episodes`, blocks of two seconds within them are compared: that may show harm,
and is no gain, because it says nothing about other episodes.

A verdict names every number, threshold, interval and hash. It is bound to the bytes that were judged.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from continuonbrain.storage.content_hash import sha256_of_json
from continuonbrain.storage.promotion_rule import VERDICT_VERSION
from continuonbrain.trainer.bootstrap import LEVEL, RESAMPLES, Interval, paired
from continuonbrain.trainer.checks import (
    Check,
    Court,
    Rules,
    at_least,
    at_most,
    by_track,
    compared,
    guards_reason,
)
from continuonbrain.trainer.evidence import Evidence, contradictions, not_finite
from continuonbrain.trainer.forgetting import LESSONS_HARM, LESSONS_SLACK, remembers

_MIN_DIFFERENCE = 1e-3
_IMITATION_SLACK = 0.02  # of the rival's error, as an estimate
_FOLLOWING_HARM = 0.25  # sixteen trials: one that is lost may be three
_GUARD_SLACK = 0.05
_REFLEX_SLACK = 1.25  # a head is taught anew each time, for seconds
_REFLEX_TO_MODEL = 1.5
_MIN_BLOCKED_EPISODES = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """passed only if every check is. reason: the first failed check in words and the names of the others that failed,
    "" when passed."""

    passed: bool
    reason: str
    checks: tuple[Check, ...]
    evidence: Evidence
    rules: Rules = field(default_factory=Rules)

    def to_json(self) -> dict[str, Any]:
        """`verdict.json`: what the adapter store needs to promote, and all numbers."""
        e, rules = self.evidence, asdict(self.rules)
        told = plain_numbers(asdict(e))
        sources = told.pop("sources")
        versions, engine = sources.pop("versions"), sources.pop("engine")
        hashes = {name.removesuffix("_sha256"): value for name, value in sources.items()}
        replay = told["replay"]
        return {
            "version": VERDICT_VERSION,
            "passed": self.passed,
            "reason": self.reason,
            "candidate_sha256": e.candidate_sha256,
            "base_sha256": e.base_sha256,
            "evaluation_sha256": e.evaluation_sha256,
            "hashes": {
                "candidate": e.candidate_sha256,
                "base": e.base_sha256,
                "evaluation": e.evaluation_sha256,
                **hashes,
                "replay": hashes["replay"] or (replay or {}).get("sha256", ""),
                "rules": sha256_of_json(rules),
            },
            "engine": engine,
            "versions": versions,
            "bootstrap": {
                "level": LEVEL,
                "resamples": RESAMPLES,
                "seed": "evaluation_sha256, name of the check",
            },
            "checks": [plain_numbers(asdict(c)) for c in self.checks],
            "evidence": told,
            "rules": rules,
        }


def plain_numbers(value: Any) -> Any:
    """The same as JSON has it."""
    # JSON has no NaN; a number that is none is written as null.
    if isinstance(value, dict):
        return {k: plain_numbers(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def judge(evidence: Evidence, rules: Rules) -> Verdict:
    """Apply the rules to the evidence."""
    court = Court(evidence, rules)
    if evidence.refused:
        court.checks.append(
            Check("loads", 0.0, 1.0, False, f"the engine that serves takes it: {evidence.refused}")
        )
    else:
        _soundness(court)
        recordings_checks(court)
        if rules.needs_gain:
            _gain(court)
        driving_checks(court)
        remembers(court)
        reflex_checks(court)
    failed = [c for c in court.checks if not c.passed]
    return Verdict(not failed, _why(failed), tuple(court.checks), evidence, rules)


def _why(failed: list[Check]) -> str:
    if not failed:
        return ""
    others = ", ".join(check.name for check in failed[1:])
    return in_words(failed[0]) + (f"; and {others}" if others else "")


def in_words(check: Check) -> str:
    """A check as one line."""
    value = "not measured" if check.value is None else f"{check.value:.4g}"
    if check.low is None or check.high is None:
        return f"{check.name}: {value} against {check.threshold:.4g} ({check.meaning})"
    sure = f"between {check.low:.3g} and {check.high:.3g} by {check.n} {check.unit}"
    return (
        f"{check.name}: {value} against {check.threshold:.4g}, {sure}, against {check.limit or 0.0:.3g} "
        f"({check.meaning})"
    )


def _soundness(court: Court) -> None:
    e, checks = court.e, court.checks
    checks.append(
        at_least("differs_from_base", e.difference, _MIN_DIFFERENCE, "answers differ from the base")
    )
    measured_check(court)


def measured_check(court: Court) -> None:
    """Every figure is a number, and follows from its parts."""
    e, checks = court.e, court.checks
    broken, wrong = not_finite(asdict(e)), contradictions(e)
    meaning = f"not finite: {', '.join(broken)}" if broken else "every figure is a finite number"
    if wrong:
        meaning += f"; does not follow from its parts: {', '.join(wrong)}"
    checks.append(at_most("measured", float(len(broken) + len(wrong)), 0.0, meaning))


def recordings_checks(court: Court) -> None:
    """On held-out steps: as close to the driver, and as quiet, as what drives now."""
    e, rules, checks = court.e, court.rules, court.checks
    if rules.allow_promotion_without_eval and e.held_out_steps == 0:
        return
    checks.append(
        at_least("held_out_steps", float(e.held_out_steps), rules.min_held_out_steps, "enough held-out steps")
    )
    episodes = 0 if e.held is None else e.held.episodes
    # The course carries the evidence where there is one; one drive alone is an anecdote everywhere.
    least = (
        min(_MIN_BLOCKED_EPISODES, rules.min_eval_episodes) if court.on_course else rules.min_eval_episodes
    )
    meaning = f"enough held-out episodes: a quarter of the lessons is held out until {rules.min_eval_episodes} are, so "
    meaning += f"record at least {4 * least} episodes (promotion.min_eval_episodes)"
    checks.append(at_least("held_out_episodes", float(episodes), float(least), meaning))
    held = e.held if e.candidate is not None and e.current is not None else None
    own, now = (held.candidate, held.current) if held else ((), ())
    if rules.needs_gain:
        court.no_rise(
            "imitation_steering",
            own,
            now,
            _IMITATION_SLACK,
            "share by which its held-out steering error exceeds that of what drives now",
            compare=court.over_recordings(share=True),
            limit=rules.max_harm,
            unit=court.recorded_unit,
            share=True,
        )
    else:  # made anew of many lessons, it differs by more of a small error, in any direction; the road is as wide
        court.no_rise(
            "imitation_steering",
            own,
            now,
            LESSONS_SLACK,
            "steering error that it has gained on the newest lessons' held-out steps",
            compare=court.over_recordings(share=False),
            limit=LESSONS_HARM,
            unit=court.recorded_unit,
        )
    court.no_rise(
        "imitation_speed",
        held.speed_candidate if held else (),
        held.speed_current if held else (),
        LESSONS_SLACK,
        "error of its speeds, as a share of full speed, that it has gained on held-out steps",
        compare=court.over_recordings(share=False),
        limit=LESSONS_HARM,
        unit=court.recorded_unit,
    )
    meaning = "close to the driver's actions"
    checks.append(at_most("action_distance", e.distance, rules.avg_action_delta_threshold, meaning))
    if e.held is not None and e.held.guard_candidate:
        for name, own, rival, words in (
            ("recorded_guard", e.held.guard_candidate, e.held.guard_current, "the guard would act"),
            (
                "recorded_head",
                e.held.head_candidate,
                e.held.head_current,
                "the safety head would slow or stop",
            ),
        ):
            if name == "recorded_guard" or e.sources.safety_head_sha256 is not None:
                court.no_rise(
                    name,
                    own,
                    rival,
                    _GUARD_SLACK,
                    f"{words} in no larger share of held-out steps than for what drives now",
                    compare=court.over_recordings(share=False),
                    limit=rules.max_harm,
                    unit=court.recorded_unit,
                )
                if name == "recorded_guard" and not checks[-1].passed:
                    meaning = checks[-1].meaning + guards_reason(e.held.guard_reasons)
                    checks[-1] = replace(checks[-1], meaning=meaning)
    if e.held_out_steps > 0 and not court.on_course:
        # Recordings are all there is: who steers worse than a constant has learned nothing that drives.
        held = e.held if e.mean is not None else None
        court.no_rise(
            "mean_command",
            held.candidate if held else (),
            held.mean if held else (),
            0.0,
            "share by which its held-out steering error exceeds that of always giving the mean command",
            compare=court.over_recordings(share=True),
            limit=0.0,
            unit=court.recorded_unit,
            share=True,
        )


def _gain(court: Court) -> None:
    """Closer to the driver, or further round the track: the measure that shows it, else the one nearest to it."""
    e = court.e
    if e.held_out_steps == 0 and e.closed_candidate is None:
        return
    found: list[tuple[Interval, str, str]] = []
    if court.by_episodes and e.held is not None and e.candidate is not None and e.current is not None:
        compare = court.over_recordings(share=True)
        error = compare(e.held.candidate, e.held.current, court.seed("gain"))
        if error is not None:
            won = Interval(-error.estimate, -error.high, -error.low, error.n, error.level)
            found.append((won, "held-out steering error", "episodes"))
    if e.closed_candidate is not None and e.closed_current is not None:
        laps = paired(e.closed_candidate.completions, e.closed_current.completions, seed=court.seed("gain"))
        if laps is not None:
            found.append((laps, "completion", "tracks"))
    meaning = "better than what drives now, beyond chance"
    least = court.rules.min_gain
    if not found:
        court.checks.append(
            Check("gain", None, least, False, f"{meaning}: nothing could be compared", limit=0.0)
        )
        return
    shown = [f for f in found if f[0].estimate >= least and f[0].low > 0]
    best, measure, unit = max(shown or found, key=lambda f: f[0].low)
    court.checks.append(compared("gain", best, least, bool(shown), f"{meaning}: {measure}", 0.0, unit))


def driving_checks(court: Court) -> None:
    """On the course: as far, as obedient and as quiet as what drives now."""
    e, rules = court.e, court.rules
    own, now = e.closed_candidate, e.closed_current
    if own is None:
        if now is not None:
            court.checks.append(at_least("completion", None, now.completion, "was driven on the course"))
        return
    # Unknown, not zero: what drives now must have been measured on the same course.
    court.no_loss(
        "completion",
        own.completions,
        now.completions if now else (),
        rules.max_completion_loss,
        "share of a lap that it drives further than what drives now",
        limit=rules.max_harm,
    )
    court.no_loss(
        "following",
        own.obeyed,
        now.obeyed if now else (),
        rules.max_following_loss,
        "instructions obeyed beyond those of what drives now",
        limit=_FOLLOWING_HARM,
    )
    court.checks += [
        at_least("stop_obeyed", own.stop, rules.min_stop_obeyed, "obeys stop"),
        at_most("guard_share", own.guard_share, rules.max_guard_share, "leaves the guard in peace"),
    ]
    for name, mine, rival, words in (
        ("guard_rise", own.guard_shares, now.guard_shares if now else (), "the guard acts"),
        ("head_rise", own.head_shares, now.head_shares if now else (), "the safety head slows or stops"),
    ):
        if name == "guard_rise" or e.sources.safety_head_sha256 is not None:
            meaning = f"{words} in no larger share of ticks than for what drives now"
            court.no_rise(name, mine, rival, _GUARD_SLACK, meaning, compare=by_track, limit=rules.max_harm)


def reflex_checks(court: Court) -> None:
    """Whether the car is in good hands between slow decisions."""
    e, rules = court.e, court.rules
    if rules.needs_reflex:
        meaning = "comes with a reflex head (training.reflex_steps 0 learns without one)"
        court.checks.append(at_least("reflex", float(e.has_reflex), 1.0, meaning))
    if e.reflex is not None:
        rivals = [rules.avg_action_delta_threshold]
        rivals += [] if e.candidate is None else [_REFLEX_TO_MODEL * e.candidate.steering]
        rivals += [] if e.reflex_current is None else [_REFLEX_SLACK * e.reflex_current.steering]
        meaning = "the reflex head steers like the driver, about as well as the model and the head before it"
        court.checks.append(at_most("reflex_steering", e.reflex.steering, min(rivals), meaning))
    if e.closed_candidate is None:
        return
    own, now = e.slow_candidate, e.slow_current
    court.no_loss(
        "slow_completion",
        own.completions if own else (),
        now.completions if now else (),
        rules.max_completion_loss,
        "with slow decisions drives at least as far as what drives now",
        limit=rules.max_harm,
    )
    if e.slow_path is not None:
        court.no_loss(
            "slow_reflex",
            own.completions if own else (),
            e.slow_path.completions,
            rules.max_completion_loss,
            "with slow decisions drives at least as far as without the reflex head",
            limit=rules.max_harm,
        )
    court.no_loss(
        "slow_following",
        own.obeyed if own else (),
        now.obeyed if now else (),
        rules.max_following_loss,
        "with slow decisions obeys as many instructions as what drives now",
        limit=_FOLLOWING_HARM,
    )
