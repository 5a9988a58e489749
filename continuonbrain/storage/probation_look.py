"""Does the new adapter drive worse than the one before? Two records in, confirm, revert or go on out. No I/O.

Rates of incidents are compared, and few ticks say little about a rate:

- What the adapter before may have had at worst is the exact (Garwood) upper bound of its Poisson rate, times what is
  tolerated. Where it kept the limit of the settings that is no more than this limit, and never less than a quarter of
  it; where it did not, no more than twice what was seen of it or three times the limit; without a record that says
  anything it is the limit itself.
- Against that rate the new adapter's incidents are held once a second, for as long as the probation lasts. Ordinary
  tests are wrong when they are asked again and again, so this is a test martingale: likelihood ratios of several worse
  rates, averaged. Ville's inequality bounds the chance that an adapter within the limit is *ever* taken back, over all
  looks, by `alpha` for each kind of incident. One that leaves the road three times in its first seconds is over the
  bound at once; one incident more than the other had is not.
- At the end an adapter that is still suspicious is watched longer, and taken back when that does not clear it.
- Each start of the policy process has it driven for its whole terms once more: what ends the process more often than
  once in that time is never confirmed, and is taken back when the starts that are forgiven are used up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import exp, lgamma, log, sqrt
from statistics import NormalDist
from typing import Literal

from continuonbrain.storage.driving_record import INCIDENTS, DrivingRecord
from continuonbrain.storage.probation_rule import Terms

_WORSE = (2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
"""The rates, in multiples of the limit, that the test is on the look-out for."""
_MANY = 1000
_TIMES_SEEN, _TIMES_LIMIT = 2.0, 3.0
_LATENCY_DECISIONS = 30
_LATENCY_SIGMAS = 4.0


def _limits_per_min() -> dict[str, float]:
    return {
        "correction": 30.0,
        "warning": 20.0,
        "block": 2.0,
        "stop": 2.0,
        "takeover": 1.0,
        "off_road": 1.0,
    }


@dataclass(frozen=True, slots=True)
class Rules:
    """limits_per_min: incidents a minute of driving that are accepted where the adapter before says nothing; a quarter
    of it is accepted always. alpha: the chance, for each kind, of taking a good one back. tolerance: how many times the
    rate of before. enough_ticks: a shorter record of before says nothing. max_restarts: of the policy process, one more
    takes it back. slower, slower_ms: a mean decision beyond both (times, milliseconds) of before's is worse. longer:
    how many times the terms a suspicious adapter is watched.
    """

    limits_per_min: dict[str, float] = field(default_factory=_limits_per_min)
    alpha: float = 0.01
    suspicious: float = 0.1
    tolerance: float = 1.25
    enough_ticks: int = 400
    max_restarts: int = 3
    slower: float = 2.0
    slower_ms: float = 100.0
    longer: float = 3.0


@dataclass(frozen=True, slots=True)
class Look:
    """do: what to do now. reason: a code: "" while it goes on, else "drove_well", an incident's name, "latency",
    "restarts" or "doubt". words: for people, with figures."""

    do: Literal["confirm", "revert", "go_on"]
    reason: str = ""
    words: str = ""


def look(
    new: DrivingRecord, before: DrivingRecord, terms: Terms, *, restarts: int = 0, rules: Rules | None = None
) -> Look:
    """Judge an adapter on probation.

    Args:
        new: its record since the promotion.
        before: the record of what drove before.
        terms: how long it is watched, where the policy process is never started anew.
        restarts: of the policy process since the promotion.
        rules: what is accepted.
    """
    rules = rules or Rules()
    if restarts > rules.max_restarts:
        return Look("revert", "restarts", f"the policy process was started anew {restarts} times")
    worst, worst_name = 0.0, ""
    for name in INCIDENTS:
        evidence = log_evidence(new.incidents.get(name, 0), new.seconds, limit_per_s(name, before, rules))
        if evidence > worst:
            worst, worst_name = evidence, name
    if worst >= -log(rules.alpha):
        return Look("revert", worst_name, _in_words(worst_name, new, before, rules))
    if _slower(new, before, rules):
        told = f"a decision takes {_mean(new):.0f} ms, it took {_mean(before):.0f} ms"
        return Look("revert", "latency", told)
    minutes, asked = new.seconds / 60.0, asked_of(terms, restarts)
    if new.ticks < max(1, asked.ticks) or minutes < asked.minutes:
        return Look("go_on")
    if worst >= -log(rules.suspicious):
        longer = rules.longer * terms.ticks <= new.ticks and rules.longer * terms.minutes <= minutes
        said = _in_words(worst_name, new, before, rules)
        return Look("revert", "doubt", f"still in doubt: {said}") if longer else Look("go_on", "", said)
    return Look("confirm", "drove_well", f"{new.ticks} ticks, nothing worse than before")


def asked_of(terms: Terms, restarts: int) -> Terms:
    """What has to be driven by now: the terms, and as much again for each start of the policy process."""
    return replace(terms, ticks=terms.ticks * (1 + restarts), minutes=terms.minutes * (1 + restarts))


def limit_per_s(name: str, before: DrivingRecord, rules: Rules) -> float:
    """The rate of an incident, per second, up to which an adapter is as good as the one before."""
    absolute = rules.limits_per_min[name] / 60.0
    if before.ticks < rules.enough_ticks or before.seconds <= 0.0:
        return absolute
    count = before.incidents.get(name, 0)
    at_worst = rules.tolerance * poisson_upper(count, rules.alpha) / before.seconds
    seen = count / before.seconds
    if seen > absolute:
        # Few seconds leave room for a rate that nobody has seen: what one incident in twenty may mean excuses no
        # adapter that has one every second.
        return max(absolute, min(at_worst, max(_TIMES_SEEN * seen, _TIMES_LIMIT * absolute)))
    # It kept the limit. That it may have been worse, for all that a short record says, is no reason to accept more.
    return min(absolute, max(absolute / 4.0, at_worst))


def log_evidence(count: int, seconds: float, limit: float) -> float:
    """Natural logarithm of the test martingale against "the rate is at most `limit`" after `count` in `seconds`."""
    terms = [count * log(times) - (times - 1.0) * limit * seconds for times in _WORSE]
    top = max(terms)
    return top + log(sum(exp(t - top) for t in terms) / len(terms))


def poisson_upper(count: int, alpha: float) -> float:
    """The mean m for which `count` or fewer have probability `alpha`: an exact upper confidence bound.

    Above 1,000 by the cube-root normal approximation of the chi-squared quantile (Wilson and Hilferty, PNAS 17, 1931),
    which is then within two millionths of it, and as quick for a count of any size.
    """
    if count > _MANY:
        share = 1.0 / (9.0 * (count + 1.0))
        return (count + 1.0) * (1.0 - share + NormalDist().inv_cdf(1.0 - alpha) * sqrt(share)) ** 3
    low, high = float(count), count + 10.0 * sqrt(count + 1.0) + 20.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if _poisson_cdf(count, middle) > alpha:
            low = middle
        else:
            high = middle
    return high


def _poisson_cdf(count: int, mean: float) -> float:
    # Downwards from the largest term, which carries nearly all of it; the rest no longer counts.
    term = total = 1.0
    for k in range(count, 0, -1):
        term *= k / mean
        total += term
        if term < 1e-12 * total:
            break
    return total * exp(count * log(mean) - mean - lgamma(count + 1.0)) if mean > 0.0 else 1.0


def _slower(new: DrivingRecord, before: DrivingRecord, rules: Rules) -> bool:
    if min(new.decisions, before.decisions) < _LATENCY_DECISIONS:
        return False
    error = sqrt(_variance(new) / new.decisions + _variance(before) / before.decisions)
    now, then = _mean(new) - _LATENCY_SIGMAS * error, _mean(before)
    return now > rules.slower * then and now > then + rules.slower_ms


def _mean(record: DrivingRecord) -> float:
    return record.decision_ms / max(1, record.decisions)


def _variance(record: DrivingRecord) -> float:
    return max(0.0, record.decision_ms2 / max(1, record.decisions) - _mean(record) ** 2)


def _in_words(name: str, new: DrivingRecord, before: DrivingRecord, rules: Rules) -> str:
    limit = 60.0 * limit_per_s(name, before, rules)
    return (
        f"{name}: {new.incidents.get(name, 0)} in {new.seconds:.1f} s of driving, before it "
        f"{before.incidents.get(name, 0)} in {before.seconds:.1f} s (at most {limit:.2g} a minute)"
    )
