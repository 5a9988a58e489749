"""From a head's probability to how fast the car may go: a small state machine, no I/O.

Below `warn` nothing happens. Between `warn` and `block` the speed that is asked for is reduced, the more the surer the
head is. From `block` on the car brakes along its path and stands, until the probability has been below the middle of
the two for half a second, or below `block` for two: then it goes on as slowly as it goes, until all is well. It never
steers. A probability that is no number, and a head that answers nothing where there should be one, count as 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from continuonbrain.errors import BrainError
from continuonbrain.safety.finite import as_finite
from continuonbrain.safety.reasons import Reason

WARN_THRESHOLD = 0.25
BLOCK_THRESHOLD = 0.6
"""The ecosystem's thresholds for a safety head's score, in [0, 1]."""
_SLOWEST = 0.35
"""Of the speed asked for, just below `block`."""
_CALM_S, _PATIENCE_S = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """warn, block: probabilities, 0 < warn < block < 1, for nothing is ever sure. Raises `BrainError` otherwise."""

    warn: float = WARN_THRESHOLD
    block: float = BLOCK_THRESHOLD

    def __post_init__(self) -> None:
        warn, block = as_finite(self.warn), as_finite(self.block)
        if isinstance(warn, Reason) or isinstance(block, Reason) or not 0.0 < warn < block < 1.0:
            raise BrainError(
                f"safety head: warn_threshold={self.warn!r}, block_threshold={self.block!r} must be "
                "0 < warn < block < 1",
                remedy="correct them in heads.safety of config.json; 0.25 and 0.6 are the ecosystem's",
            )

    def flag(self, probability: float) -> str:
        """ "block", "warn" or "": what a probability alone amounts to."""
        return "block" if not probability < self.block else "warn" if probability >= self.warn else ""


@dataclass(frozen=True, slots=True)
class Counsel:
    """share: of the speed asked for that is allowed, in [0, 1]; reason: why, None when all of it is."""

    share: float
    reason: Reason | None


FREE = Counsel(1.0, None)


class Caution:
    """Call `judge` once a tick."""

    __slots__ = ("_blocked", "_calm_since_s", "_careful", "_passed_since_s", "_thresholds")

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        self._thresholds = Thresholds() if thresholds is None else thresholds
        self.reset()

    @property
    def thresholds(self) -> Thresholds:
        return self._thresholds

    @property
    def blocked(self) -> bool:
        return self._blocked

    def reset(self) -> None:
        """The car was put somewhere else."""
        self._blocked = self._careful = False
        self._passed_since_s: float | None = None
        self._calm_since_s: float | None = None

    def judge(self, probability: object, *, now_s: float) -> Counsel:
        """What a probability of leaving the road means now. Raises nothing."""
        number = as_finite(probability)
        p = 1.0 if isinstance(number, Reason) or not 0.0 <= number <= 1.0 else number
        warn, block = self._thresholds.warn, self._thresholds.block
        if p >= block:
            self._blocked = self._careful = True
            self._passed_since_s = self._calm_since_s = None
        elif self._blocked:
            self._passed_since_s = _since(self._passed_since_s, now_s)
            self._calm_since_s = _since(self._calm_since_s, now_s) if p < (warn + block) / 2 else None
            calm = self._calm_since_s is not None and now_s - self._calm_since_s >= _CALM_S
            if calm or now_s - self._passed_since_s >= _PATIENCE_S:
                self._blocked = False
        if self._blocked:
            return Counsel(0.0, Reason.SAFETY_HEAD_BLOCK)
        if p < warn:
            self._careful = False
            return FREE
        share = 1.0 - (1.0 - _SLOWEST) * (p - warn) / (block - warn)
        # After a stop it feels its way until all is well: at full speed it would be stopped again.
        return Counsel(_SLOWEST if self._careful else share, Reason.SAFETY_HEAD_WARN)


def _since(before_s: float | None, now_s: float) -> float:
    """Since when; a clock that runs backwards begins anew."""
    return now_s if before_s is None or now_s < before_s else before_s
