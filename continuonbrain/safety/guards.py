"""The guard: the last thing between a proposed command and the actuators.

Rules, in the order in which they are applied:

- Anything that is not two finite real numbers (`steering`, `throttle`) is a violation and gives the safe
  stop: throttle 0 at once, steering moving toward straight inside its slew limit.
- No path, a path older than `chunk_timeout_s`, a teleoperator silent for longer than `deadman_s`, a clock
  that runs backwards or leaps, an emergency stop and the instruction "stop" give the same safe stop.
- What remains is clamped to bounds, then to slew limits per second, then (if it is set) to the jerk limit of steering.
  The safe stop knows no jerk limit: it would only be later.
- Reducing throttle has its own, normally unlimited, rate: a stop is never slowed by slew.

The output is finite, inside bounds and inside slew for every input. No I/O, no numpy: a step takes a few
microseconds, so it fits into any control tick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from continuonbrain.errors import BrainError
from continuonbrain.safety.action_guards import build_simple_action_guards
from continuonbrain.safety.finite import as_finite
from continuonbrain.safety.reasons import CORRECTIONS, STOPS, Reason
from continuonbrain.safety.slew import jerk_limited, throttle_slew, toward

if TYPE_CHECKING:
    from continuonbrain.config import GuardsConfig

# Rounding in a subtraction must not be reported as an intervention.
_ROUNDING = 1e-9

_JERK_RANGE = (0.1, 1e6)
"""1/s^2. Below, a turn takes minutes; above, the limit does nothing and its squares lose their digits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the guard enforces. Steering and throttle in [-1, 1]; positive steering turns left.

    Raises `BrainError` naming the field when a value is not a finite number, bounds do not contain 0
    (0 is straight and standing still, so it must be reachable), or a rate or time is not positive.
    Only `throttle_fall_rate_per_s` may be infinite, which is its default.
    """

    steering_min: float = -1.0
    steering_max: float = 1.0
    throttle_min: float = -1.0
    throttle_max: float = 1.0
    steering_rate_per_s: float = 6.0
    """Largest change of steering, 1/s. 6 is a third of a second from lock to lock: an ordinary servo."""
    steering_jerk_per_s2: float | None = None
    """Largest change of steering's rate, 1/s^2, in [0.1, 1e6]; None does not limit it. The safe stop ignores it."""
    throttle_rate_per_s: float = 4.0
    """Largest growth of |throttle|, 1/s."""
    throttle_fall_rate_per_s: float = inf
    """Largest reduction of |throttle|, 1/s. The safe stop ignores it."""
    deadman_s: float = 0.5
    """A teleoperator whose last message is older than this is gone."""
    chunk_timeout_s: float = 2.5
    """Age of the observation behind the path, s. Three decisions of 0.75 s and some."""
    max_gap_s: float = 0.5
    """Two steps further apart than this mean that the loop hung or the clock leapt."""

    def __post_init__(self) -> None:
        for low_name, high_name in (("steering_min", "steering_max"), ("throttle_min", "throttle_max")):
            low, high = self._number(low_name), self._number(high_name)
            if not -1.0 <= low <= 0.0 <= high <= 1.0:
                raise BrainError(
                    f"Limits: {low_name}={low!r}, {high_name}={high!r} must be -1 <= min <= 0 <= max <= 1",
                    remedy=f"choose {low_name} in [-1, 0] and {high_name} in [0, 1]; 0 must stay reachable",
                )
        rates = ("steering_rate_per_s", "throttle_rate_per_s")
        for name in (*rates, "deadman_s", "chunk_timeout_s", "max_gap_s"):
            self._positive(name, self._number(name))
        if self.steering_jerk_per_s2 is not None:
            jerk = self._number("steering_jerk_per_s2")
            if not _JERK_RANGE[0] <= jerk <= _JERK_RANGE[1]:
                raise BrainError(
                    f"Limits: steering_jerk_per_s2={jerk!r} must be in [{_JERK_RANGE[0]}, {_JERK_RANGE[1]:g}]",
                    remedy="give None (null in config.json) for no limit of steering's jerk",
                )
        # Infinity is allowed here and nowhere else, hence the separate check; NaN fails `> 0`.
        fall: object = self.throttle_fall_rate_per_s
        if fall != inf:
            self._positive("throttle_fall_rate_per_s", self._number("throttle_fall_rate_per_s"))

    @classmethod
    def from_config(cls, guards: GuardsConfig) -> Limits:
        """The limits as the `guards` group of `config.json` sets them."""
        return cls(
            steering_min=guards.steering_bounds[0],
            steering_max=guards.steering_bounds[1],
            throttle_min=guards.throttle_bounds[0],
            throttle_max=guards.throttle_bounds[1],
            steering_rate_per_s=guards.steering_rate_per_s,
            steering_jerk_per_s2=guards.steering_jerk_per_s2,
            throttle_rate_per_s=guards.throttle_rate_per_s,
            deadman_s=guards.deadman_s,
            chunk_timeout_s=guards.chunk_timeout_s,
        )

    def _number(self, name: str) -> float:
        value = as_finite(getattr(self, name))
        if isinstance(value, Reason):
            raise BrainError(
                f"Limits: {name}={getattr(self, name)!r} is not a finite number ({value})",
                remedy=f"give {name} as a plain number",
            )
        return value

    @staticmethod
    def _positive(name: str, value: float) -> None:
        if not value > 0.0:
            raise BrainError(f"Limits: {name}={value!r} must be greater than 0", remedy=f"give {name} > 0")


class Guarded(NamedTuple):
    """What may go to the actuators, and why it differs from what was proposed."""

    steering: float
    """In [steering_min, steering_max]; positive turns left."""
    throttle: float
    """In [throttle_min, throttle_max]; 0 is the safe stop (brake where the robot has one)."""
    reasons: tuple[str, ...]
    """Codes from `Reason`; empty when the command passed unchanged."""
    stopped: bool
    """True when the safe stop replaced the command."""

    def step_metadata(self) -> dict[str, str]:
        """The ecosystem's two keys of a recorded step (strings, as its schema asks)."""
        return {
            "safety_clamped": "true" if self.reasons else "false",
            "safety_violations": ",".join(self.reasons),
        }


class Guard:
    """State machine over (last command, last time). One instance drives one robot; not thread-safe.

    The first step after construction or `reset` has no earlier time to measure slew against, so it
    leaves the actuators where they are (straight, standing still).
    """

    __slots__ = ("_emergency", "_limits", "_rate", "_steering", "_throttle", "_time_s")

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = Limits() if limits is None else limits
        self._emergency = False
        self.reset()

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def emergency_stopped(self) -> bool:
        return self._emergency

    def reset(self) -> None:
        """Forget the last command and time (the robot was put back at rest). Keeps an emergency stop."""
        self._steering = 0.0
        self._rate = 0.0  # of steering, 1/s; only the jerk limit looks at it
        self._throttle = 0.0
        self._time_s: float | None = None

    def emergency_stop(self) -> None:
        """Stop from the next step on, until `release` is called by a person's decision."""
        self._emergency = True

    def release(self) -> None:
        """End an emergency stop; throttle then rises from 0 inside its slew limit."""
        self._emergency = False

    def step(
        self,
        proposed: Mapping[str, object] | tuple[float, float] | None,
        *,
        now_s: float,
        chunk_age_s: float | None,
        teleop_age_s: float | None = None,
        requested_stop: Reason | None = None,
    ) -> Guarded:
        """Return the command that may go to the actuators now.

        Args:
            proposed: `{"steering": s, "throttle": t}` or `(s, t)`, or None when there is nothing to follow.
            now_s: monotonic time of this tick, s.
            chunk_age_s: age of the observation behind the path that `proposed` follows, s; None when
                there is no path. Not looked at while a teleoperator drives.
            teleop_age_s: age of the teleoperator's last message, s; None when nobody teleoperates.
            requested_stop: a stop that the caller asks for, e.g. `Reason.INSTRUCTION_STOP`.

        Raises nothing for any input: a value that makes no sense gives the safe stop with a reason.
        """
        limits = self._limits
        reasons: list[str] = []
        stop = False

        # Time: how far the actuators may move in this step.
        elapsed_s = 0.0
        now = as_finite(now_s)
        if isinstance(now, Reason):
            reasons.append(Reason.CLOCK)
            stop = True
        else:
            last_s = self._time_s
            self._time_s = now
            if last_s is not None:
                elapsed_s = now - last_s
                if elapsed_s < 0.0:
                    elapsed_s = 0.0
                    reasons.append(Reason.CLOCK)
                    stop = True
                elif elapsed_s > limits.max_gap_s:
                    elapsed_s = limits.max_gap_s
                    reasons.append(Reason.CLOCK)
                    stop = True

        if self._emergency:
            reasons.append(Reason.EMERGENCY_STOP)
            stop = True
        if requested_stop is not None:
            # A caller's mistake here must not turn a stop into a drive: any value stops.
            asked: object = requested_stop
            reasons.append(asked if isinstance(asked, Reason) and asked in STOPS else Reason.WRONG_TYPE)
            stop = True

        # Freshness: somebody must stand behind the command.
        if teleop_age_s is not None:
            age = as_finite(teleop_age_s)
            if isinstance(age, Reason) or not 0.0 <= age <= limits.deadman_s:
                reasons.append(Reason.DEADMAN)
                stop = True
        elif chunk_age_s is None:
            reasons.append(Reason.NO_PATH)
            stop = True
        else:
            age = as_finite(chunk_age_s)
            if isinstance(age, Reason) or age < 0.0:
                reasons.append(Reason.CLOCK)
                stop = True
            elif age > limits.chunk_timeout_s:
                reasons.append(Reason.STALE_PATH)
                stop = True

        command = _parse(proposed)
        if isinstance(command, Reason):
            if command not in reasons:
                reasons.append(command)
            stop = True

        if stop or isinstance(command, Reason):
            self._steering = toward(self._steering, 0.0, limits.steering_rate_per_s * elapsed_s)
            self._rate = 0.0  # the jerk limit begins anew after a stop, from rest
            self._throttle = 0.0
            return Guarded(self._steering, 0.0, tuple(dict.fromkeys(reasons)), True)

        wanted_steering, wanted_throttle = command
        steering = min(max(wanted_steering, limits.steering_min), limits.steering_max)
        if steering != wanted_steering:
            reasons.append(Reason.STEERING_BOUND)
        throttle = min(max(wanted_throttle, limits.throttle_min), limits.throttle_max)
        if throttle != wanted_throttle:
            reasons.append(Reason.THROTTLE_BOUND)

        slewed = toward(self._steering, steering, limits.steering_rate_per_s * elapsed_s)
        if abs(slewed - steering) > _ROUNDING:
            reasons.append(Reason.STEERING_SLEW)
        if limits.steering_jerk_per_s2 is not None:
            eased, self._rate = jerk_limited(
                self._steering,
                self._rate,
                steering,
                low=limits.steering_min,
                high=limits.steering_max,
                max_rate=limits.steering_rate_per_s,
                max_jerk=limits.steering_jerk_per_s2,
                elapsed_s=elapsed_s,
            )
            if abs(eased - slewed) > _ROUNDING:
                reasons.append(Reason.STEERING_JERK)
            slewed = eased
        self._steering = slewed

        fall_rate = limits.throttle_fall_rate_per_s
        slewed = throttle_slew(
            self._throttle,
            throttle,
            rise=limits.throttle_rate_per_s * elapsed_s,
            fall=inf if fall_rate == inf else fall_rate * elapsed_s,  # inf * 0 would be NaN
        )
        if abs(slewed - throttle) > _ROUNDING:
            reasons.append(Reason.THROTTLE_SLEW)
        self._throttle = slewed
        return Guarded(self._steering, slewed, tuple(reasons), False)


def _parse(proposed: object) -> tuple[float, float] | Reason:
    """Two finite numbers, or the reason why `proposed` is not a command."""
    if proposed is None:
        return Reason.NO_PATH
    try:
        if isinstance(proposed, tuple):
            if len(proposed) != 2:
                return Reason.WRONG_KEYS
            raw_steering, raw_throttle = proposed
        elif isinstance(proposed, Mapping):
            if len(proposed) != 2 or "steering" not in proposed or "throttle" not in proposed:
                return Reason.WRONG_KEYS
            raw_steering, raw_throttle = proposed["steering"], proposed["throttle"]
        else:
            return Reason.WRONG_TYPE
    except Exception:  # a foreign mapping may raise anything; the robot must still stop
        return Reason.WRONG_TYPE
    steering = as_finite(raw_steering)
    if isinstance(steering, Reason):
        return steering
    throttle = as_finite(raw_throttle)
    if isinstance(throttle, Reason):
        return throttle
    return steering, throttle


__all__ = ["CORRECTIONS", "STOPS", "Guard", "Guarded", "Limits", "Reason", "build_simple_action_guards"]
