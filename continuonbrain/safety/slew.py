"""How far a command may move in one step: rate limits of steering and throttle, and the jerk limit. Pure functions."""

from __future__ import annotations

from math import sqrt


def toward(current: float, target: float, step: float) -> float:
    """Move `current` toward `target` by at most `step` >= 0."""
    if target > current:
        return min(target, current + step)
    return max(target, current - step)


def throttle_slew(current: float, target: float, *, rise: float, fall: float) -> float:
    """Move throttle toward `target`: |throttle| grows by at most `rise`, shrinks by at most `fall`.

    Going from forward to reverse first has to shrink to 0, then grows on the other side.
    """
    if current == 0.0 or target == 0.0 or (current < 0.0) == (target < 0.0):
        now, wanted = abs(current), abs(target)
        size = min(wanted, now + rise) if wanted > now else max(wanted, now - fall)
        return -size if (target or current) < 0.0 else size
    rest = abs(current) - fall
    if rest > 0.0:
        return rest if current > 0.0 else -rest
    size = min(abs(target), rise)
    return size if target > 0.0 else -size


def jerk_limited(
    current: float,
    rate: float,
    target: float,
    *,
    low: float,
    high: float,
    max_rate: float,
    max_jerk: float,
    elapsed_s: float,
) -> tuple[float, float]:
    """Move `current` toward `target` so that its rate changes by at most `max_jerk * elapsed_s`.

    Args:
        current, rate: where the command is and how fast it moves, 1/s. What this function returned last, or any
            `current` in [low, high] at rate 0.
        target: in [low, high].
        max_rate, max_jerk: 1/s and 1/s^2, > 0.
        elapsed_s: since the last step, >= 0.

    Returns:
        The new command and its rate. The command is in [low, high], the rate in [-max_rate, max_rate].

    The rate chosen is always one from which the command can still come to rest before `target`, and before the
    bound ahead: what is left after the step, d - v*dt, is at least the braking distance v^2 / (2*jerk). From there
    v - jerk*dt is such a rate again, for any dt, so the bounds, the rate and the jerk never contradict each other,
    however unsteady the clock is. A target that moves behind the command is overshot inside the bounds: the rate
    cannot turn at once, which is what the limit asks for.
    """
    if elapsed_s <= 0.0:
        return current, rate
    change = max_jerk * elapsed_s
    away = target - current
    wanted = _brakeable(abs(away), change, max_jerk)
    wanted = min(max(wanted if away >= 0.0 else -wanted, rate - change), rate + change)
    # Only rounding makes these two bite beyond the jerk limit; bounds and slew come before it.
    wanted = min(max(wanted, -_brakeable(current - low, change, max_jerk)), max_rate)
    wanted = max(min(wanted, _brakeable(high - current, change, max_jerk)), -max_rate)
    return min(max(current + wanted * elapsed_s, low), high), wanted


def _brakeable(distance: float, change: float, max_jerk: float) -> float:
    """The largest rate v >= 0 with v*dt + v^2 / (2*jerk) <= distance, where change = jerk*dt.

    The root is written with its sum in the denominator: the difference loses all digits near the target.
    """
    if distance <= 0.0:
        return 0.0
    room = 2.0 * max_jerk * distance
    return room / (change + sqrt(change * change + room))
