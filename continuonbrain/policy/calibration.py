"""How commands become motion on this very robot: steering gain and trim, throttle gain, delay.

wheel angle = steering_gain * 0.4 rad * steering(t - delay) + steering_trim_rad. The trainer fits it from what
was commanded and what the wheels and the gyro measured; values outside plausible bounds are refused, so that
a broken sensor cannot turn the servo around. A robot without motion sensors keeps the nominal calibration.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.errors import BrainError
from continuonbrain.storage.plain_json import load_strict

MAX_WHEEL_RAD = 0.4
WHEELBASE_M = 0.26
TICK_S = 0.05
THROTTLE_PER_MPS = 0.4
_GAIN = (0.35, 1.7)
_TRIM_RAD = 0.3
_THROTTLE_GAIN = (0.4, 1.8)
_MIN_SPEED_MPS = 0.25
_MIN_SAMPLES = 200
_MIN_SPREAD = 0.04
_BLOCK = 20
_CALM_SHARE = 0.3


class CalibrationError(BrainError):
    """A calibration is not plausible or cannot be read."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """steering_gain may be negative (a servo mounted the other way round); delay_s is command to motion."""

    steering_gain: float = 1.0
    steering_trim_rad: float = 0.0
    throttle_gain: float = 1.0
    delay_s: float = 0.1

    def __post_init__(self) -> None:
        checks = (
            ("steering_gain", abs(self.steering_gain), *_GAIN),
            ("steering_trim_rad", self.steering_trim_rad, -_TRIM_RAD, _TRIM_RAD),
            ("throttle_gain", self.throttle_gain, *_THROTTLE_GAIN),
            ("delay_s", self.delay_s, 0.0, 0.5),
        )
        for name, value, low, high in checks:
            if not low <= value <= high:
                raise CalibrationError(
                    f"calibration: {name} = {getattr(self, name)} is outside [{low}, {high}]",
                    remedy="check the servo, the wheel sensor and the gyro, then record again",
                )

    def curvature(self, steering: float) -> float:
        """Path curvature (1/m) that a steering command bends the car to."""
        wheel = self.steering_gain * MAX_WHEEL_RAD * steering + self.steering_trim_rad
        return math.tan(wheel) / WHEELBASE_M

    def steering(self, curvature: float) -> float:
        """Steering command in [-1, 1] for a curvature in 1/m."""
        wheel = math.atan(WHEELBASE_M * curvature)
        raw = (wheel - self.steering_trim_rad) / (self.steering_gain * MAX_WHEEL_RAD)
        return max(-1.0, min(1.0, raw))

    def to_json(self) -> bytes:
        """Bytes of `calibration.json`."""
        return (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_file(cls, path: Path) -> Calibration:
        """Read `calibration.json`; a missing file is the nominal calibration."""
        if not path.exists():
            return cls()
        try:
            return cls.from_json(path.read_bytes(), what=str(path))
        except OSError as error:
            raise CalibrationError(
                f"{path} is not a calibration: {error}", remedy="train a new adapter"
            ) from error

    @classmethod
    def from_json(cls, data: bytes, *, what: str = "calibration.json") -> Calibration:
        """What `to_json` gave, or another wrote. Raises CalibrationError, which names `what`."""
        try:
            raw = load_strict(data)
            return cls(**{k: float(v) for k, v in raw.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise CalibrationError(
                f"{what} is not a calibration: {error}", remedy="train a new adapter"
            ) from error


@dataclass(frozen=True, slots=True)
class MotionLog:
    """Consecutive ticks of one episode: commands sent and motion measured, each `[n]`."""

    steering: NDArray[np.float64]
    throttle: NDArray[np.float64]
    speed_mps: NDArray[np.float64]
    yaw_rate_rps: NDArray[np.float64]


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Slope, intercept and residual spread by least trimmed squares over blocks of a second.

    A driver corrects what pushes the car, so command and push are correlated and plain least squares
    underestimates the gain. Only the calmest blocks are kept, and fitted again until they stay the same
    (concentration steps: Rousseeuw and Van Driessen, 2006).
    """
    blocks = len(x) // _BLOCK
    xs, ys = x[: blocks * _BLOCK].reshape(blocks, _BLOCK), y[: blocks * _BLOCK].reshape(blocks, _BLOCK)
    kept = np.arange(blocks)
    slope = intercept = 0.0
    for _ in range(12):
        slope, intercept = (float(v) for v in np.polyfit(xs[kept].ravel(), ys[kept].ravel(), 1))
        disturbed = ((ys - slope * xs - intercept) ** 2).mean(1)
        calmest = np.sort(np.argsort(disturbed, kind="stable")[: max(4, int(blocks * _CALM_SHARE))])
        if np.array_equal(calmest, kept):
            break
        kept = calmest
    return slope, intercept, float(np.sqrt(((ys[kept] - slope * xs[kept] - intercept) ** 2).mean()))


def fit_calibration(logs: Sequence[MotionLog]) -> Calibration:
    """Fit gain, trim, delay and throttle gain; nominal values where the recording does not tell.

    Bicycle model: yaw rate = speed / wheelbase * tan(wheel). The delay is the shift of commands (in ticks)
    that explains the wheel angles best. Raises `CalibrationError` when the fit is clear but not plausible.
    """
    best: tuple[float, int, float, float] | None = None
    for lag in range(5):
        commands, wheels = [], []
        for log in logs:
            n = len(log.steering) - lag
            if n < 10:
                continue
            speed, rate = log.speed_mps[lag:], log.yaw_rate_rps[lag:]
            moving = speed > _MIN_SPEED_MPS
            commands.append(log.steering[:n][moving] * MAX_WHEEL_RAD)
            wheels.append(np.arctan(rate[moving] * WHEELBASE_M / speed[moving]))
        if not commands:
            return Calibration()
        x, y = np.concatenate(commands), np.concatenate(wheels)
        # A driver who never turns tells nothing about the servo.
        if len(x) < _MIN_SAMPLES or x.std() < _MIN_SPREAD * MAX_WHEEL_RAD:
            return Calibration()
        slope, intercept, spread = _line(x, y)
        if best is None or spread < best[0]:
            best = (spread, lag, slope, intercept)
    assert best is not None
    _, lag, gain, trim = best
    return Calibration(gain, trim, _throttle_gain(logs), lag * TICK_S)


def _throttle_gain(logs: Sequence[MotionLog]) -> float:
    # Where the speed is steady, throttle * gain = 0.4 * speed (nominal drag over acceleration).
    ratios = []
    for log in logs:
        if len(log.speed_mps) < 40:
            continue
        smooth = np.convolve(log.speed_mps, np.ones(10) / 10, "same")
        change = np.abs(np.gradient(smooth)) / TICK_S
        steady = (change < 0.1) & (smooth > _MIN_SPEED_MPS) & (log.throttle > 0.05)
        steady[:10] = steady[-10:] = False
        ratios.append(THROTTLE_PER_MPS * smooth[steady] / log.throttle[steady])
    joined = np.concatenate(ratios) if ratios else np.empty(0)
    return float(np.clip(np.median(joined), *_THROTTLE_GAIN)) if len(joined) >= _MIN_SAMPLES else 1.0
