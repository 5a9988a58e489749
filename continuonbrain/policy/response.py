"""How the car answers its steering now: fitted tick by tick from what was commanded and what was measured.

The calibration travels with the adapter and was fitted from recordings. A servo that was turned around or bent since
then answers otherwise, and who predicts where the car will be has to know it at once. Recursive least squares with
forgetting (e.g. Ljung, System Identification, ch. 11) on the front wheels' angle:

    measured = gain * expected by the calibration + offset

starting from gain 1 and offset 0, which are also what is gone back to while nothing is learned (standing, no sensors).

Two of them run: a quick one, within wide bounds, by which the heads foresee where the car will be (`lookahead.py`); and
a slow one, within narrow bounds, which the tracker corrects its commands by (`slow_response`): a servo that was bent by
some degrees since the last training, or a load that slips, is driven out within seconds. What lies beyond those bounds
(a servo mounted the other way round) is the calibration's business, which is fitted and judged.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from continuonbrain.policy.calibration import WHEELBASE_M, Calibration

_FORGET = 0.97
"""By tick: what counts is the last second or two."""
_PRIOR_GAIN, _PRIOR_OFFSET_RAD = 0.5, 0.12
_NOISE_RAD = 0.05
_MIN_SPEED_MPS = 0.3
_MOST_WHEEL_RAD = 0.75
"""No servo turns wheels further: who measures more is being turned by hand, or skids."""
_GAIN = (-1.7, 1.7)
_OFFSET_RAD = (-0.35, 0.35)
_SLOW_FORGET = 0.995
"""Ten seconds: a push of the floor is over by then."""
_SLOW_GAIN, _SLOW_OFFSET_RAD = (0.7, 1.4), 0.12
_LATEST = 16


@dataclass(slots=True)
class Response:
    """gain, offset_rad: of the wheels' angle beside what the calibration says. Call `update` once a tick.

    forget: what a tick of before counts in the next one; most_gain, most_offset_rad: bounds of what is believed.
    """

    gain: float = 1.0
    offset_rad: float = 0.0
    forget: float = _FORGET
    most_gain: tuple[float, float] = _GAIN
    most_offset_rad: float = _OFFSET_RAD[1]
    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)
    _commands: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_LATEST))

    def update(
        self,
        *,
        now_s: float,
        steering: float,
        speed_mps: float | None,
        yaw_rate_rps: float | None,
        calibration: Calibration,
    ) -> None:
        """steering: the command in force since the last tick; speed and yaw rate as measured at `now_s`, None without
        sensors."""
        self._commands.append((now_s, steering))
        if speed_mps is None or yaw_rate_rps is None or not _MIN_SPEED_MPS <= speed_mps <= 10.0:
            self._forget_some()
            return
        then = None
        for time_s, command in reversed(self._commands):
            if time_s <= now_s - calibration.delay_s + 1e-6:
                then = command
                break
        if then is None or not abs(yaw_rate_rps) <= 35.0:
            self._forget_some()
            return
        expected = math.atan(WHEELBASE_M * calibration.curvature(then))
        measured = math.atan(WHEELBASE_M * yaw_rate_rps / speed_mps)
        if abs(measured) > _MOST_WHEEL_RAD:
            self._forget_some()
            return
        n, x, y, xx, xy = (self.forget * v for v in self._sums)
        # What differs from the expectation is regressed, so that the prior is "as expected".
        error = measured - expected
        self._sums = [n + 1, x + expected, y + error, xx + expected * expected, xy + expected * error]
        self._solve()

    def _forget_some(self) -> None:
        """Nothing is learned in this tick. What was learned fades: a car that stands must not stand for ever because of
        what it believes of its wheels."""
        self._sums = [self.forget * v for v in self._sums]
        self._solve()

    def _solve(self) -> None:
        n, x, y, xx, xy = self._sums
        a = xx + (_NOISE_RAD / _PRIOR_GAIN) ** 2
        d = n + (_NOISE_RAD / _PRIOR_OFFSET_RAD) ** 2
        det = a * d - x * x  # positive: both priors are
        gain, offset = 1.0 + (xy * d - x * y) / det, (a * y - x * xy) / det
        self.gain = min(self.most_gain[1], max(self.most_gain[0], gain))
        self.offset_rad = min(self.most_offset_rad, max(-self.most_offset_rad, offset))

    def curvature(self, expected: float) -> float:
        """What a curvature (1/m) that the calibration expects becomes on this car now."""
        wheel = self.gain * math.atan(WHEELBASE_M * expected) + self.offset_rad
        return math.tan(max(-0.9, min(0.9, wheel))) / WHEELBASE_M

    def expected_for(self, curvature: float) -> float:
        """What the calibration has to be asked for (1/m), so that the car bends its path by `curvature`. Gain must not
        be 0."""
        wheel = (math.atan(WHEELBASE_M * curvature) - self.offset_rad) / self.gain
        return math.tan(max(-0.9, min(0.9, wheel))) / WHEELBASE_M


def slow_response() -> Response:
    """The tracker's."""
    return Response(forget=_SLOW_FORGET, most_gain=_SLOW_GAIN, most_offset_rad=_SLOW_OFFSET_RAD)
