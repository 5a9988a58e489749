"""Watches over one car: the safety head's probability for the way ahead, and what it means for the speed.

The road grid of the tick's frame comes from outside (`SafetyHead.grids`, for many cars in one pass); everything here is
per car. A grid that is missing or holds no numbers counts as the worst.
"""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from continuonbrain.errors import BrainError
from continuonbrain.policy.convolution import F32
from continuonbrain.policy.lookahead import Way
from continuonbrain.policy.response import Response
from continuonbrain.policy.safety_head import SafetyHead
from continuonbrain.safety.caution import Caution, Thresholds
from continuonbrain.safety.finite import as_finite
from continuonbrain.safety.reasons import Reason

HEAD_CALIBRATION_FILE = "calibration.json"
MOUNT_BOUND_RAD, SLOPE_BOUNDS, OFFSET_BOUND = 0.7, (0.5, 2.0), 2.0


_MOST_BYTES = 1 << 16


def _read_small(path: Path) -> bytes:
    """A small regular file; the control loop reads it and must not wait for a pipe or a gigabyte. Raises OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a regular file")
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise OSError(f"larger than {_MOST_BYTES} bytes")
    return data


@dataclass(frozen=True, slots=True)
class HeadCalibration:
    """What this robot's own driving told its safety head (`trainer/safety_calibration.py`).

    mount_yaw_rad: the camera looks so far to the left of straight ahead. slope, offset: of the head's logit.
    head_sha256: the head that this was fitted for. Raises `BrainError` for what is not plausible: a head must not be
    talked out of seeing anything.
    """

    mount_yaw_rad: float = 0.0
    slope: float = 1.0
    offset: float = 0.0
    head_sha256: str = ""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("mount_yaw_rad", -MOUNT_BOUND_RAD, MOUNT_BOUND_RAD),
            ("slope", *SLOPE_BOUNDS),
            ("offset", -OFFSET_BOUND, OFFSET_BOUND),
        ):
            value = as_finite(getattr(self, name))
            if isinstance(value, Reason) or not low <= value <= high:
                raise BrainError(
                    f"safety head: {name} = {getattr(self, name)!r} is outside [{low}, {high}]",
                    remedy=f"remove {HEAD_CALIBRATION_FILE} beside the head: it is fitted again",
                )

    def to_json(self) -> bytes:
        """Bytes of `calibration.json`."""
        return (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_folder(cls, folder: Path, head_sha256: str) -> HeadCalibration:
        """As it stands beside the head; without a file, or with one that was fitted for another head, the head is as it
        was made. Raises `BrainError`."""
        path = folder / HEAD_CALIBRATION_FILE
        try:
            data = _read_small(path)
        except FileNotFoundError:
            return cls(head_sha256=head_sha256)
        except OSError as error:
            raise BrainError(
                f"{path} cannot be read: {error.strerror or error}", remedy="remove it"
            ) from error
        try:
            raw = json.loads(data)
            told = cls(**{name: raw[name] for name in ("mount_yaw_rad", "slope", "offset", "head_sha256")})
            return told if told.head_sha256 == head_sha256 else cls(head_sha256=head_sha256)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BrainError(
                f"{path} is not a safety head's calibration: {error!r}",
                remedy="remove it: it is fitted again",
            ) from error


@dataclass(frozen=True, slots=True)
class Risk:
    """probability: that the way ahead leaves the road within the horizon; logit: the head's own, before this robot's
    slope and offset, None when it had none to give."""

    probability: float
    logit: float | None


WORST = Risk(1.0, None)


class Watch:
    """One car's. head, thresholds, calibration: see there. acts: False only tells what it would have done, of the ticks
    that have a grid (a verdict looks at the driver, not at who saves it)."""

    def __init__(
        self,
        head: SafetyHead,
        *,
        thresholds: Thresholds | None = None,
        calibration: HeadCalibration | None = None,
        acts: bool = True,
    ) -> None:
        self.head = head
        self.calibration = HeadCalibration() if calibration is None else calibration
        self.acts = acts
        self.caution = Caution(thresholds)
        self.response = Response()

    def reset(self) -> None:
        """The car was put somewhere else, perhaps by hand: what was measured meanwhile says nothing of its servo."""
        self.caution.reset()
        self.response = Response()

    def risk(self, grid: F32 | None, way: Way, *, speed_mps: float) -> Risk:
        """Of this way. grid `[13, 17]` of the frame of now. Raises nothing."""
        if grid is None:
            return WORST
        ways = np.array([way], np.float32)
        speeds = np.array([speed_mps], np.float32)
        known = self.calibration
        logit = float(self.head.logits(grid[None], ways, speeds, mount_yaw_rad=known.mount_yaw_rad)[0])
        if not math.isfinite(logit):
            return WORST
        bounded = max(-30.0, min(30.0, known.slope * logit + known.offset))
        return Risk(1.0 / (1.0 + math.exp(-bounded)), logit)
