"""The world head over one car: a new path is judged before it is followed, and one that is foreseen to lead off the
road is not taken up.

What a chunk answers was seen a while ago, so the safety head's grids are kept for some seconds by the time of their
frame, with the car's motion then. Where the car would be follows from the tracker's own law (`lookahead.py`). A grid
that is not there, an answer that is no number and a head that fails count as the worst: the earlier path goes on, until
it is too old and the guard stops the car. Nothing here lays a path or turns a wheel.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.convolution import F32
from continuonbrain.policy.lookahead import poses_along_path
from continuonbrain.policy.response import Response
from continuonbrain.policy.tracker import Odometry, PathTracker, Pose
from continuonbrain.policy.world_head import FORESEEN_POINTS, WorldHead
from continuonbrain.safety.caution import BLOCK_THRESHOLD

log = logging.getLogger(__name__)

WORLD_SCORE = "world_head"
"""Key of step_metadata: the probability of the latest chunk that was judged."""
_HISTORY = 128  # ticks of grids kept, as many as odometry keeps poses
_SAME_FRAME_S = 1e-3
_MAX_CURVATURE = 1.8


@dataclass(frozen=True, slots=True)
class Foreseen:
    """probability: that the car leaves the road within `FORESEEN_S` if it follows the chunk; features: the road grid
    a second on, logits `[13, 17]`, None when there was none to give."""

    probability: float
    features: F32 | None


UNFORESEEN = Foreseen(1.0, None)


@dataclass(frozen=True, slots=True)
class _Seen:
    grid: F32
    speed_mps: float
    yaw_rate_rps: float


class Veto:
    """One car's. block: a chunk of this probability or more is not followed."""

    def __init__(self, head: WorldHead, *, block: float = BLOCK_THRESHOLD) -> None:
        self.head = head
        self.block = block
        self.faults = 0
        self._seen: deque[tuple[float, _Seen]] = deque(maxlen=_HISTORY)

    def __len__(self) -> int:
        """Grids that are kept."""
        return len(self._seen)

    def forget(self) -> None:
        """The car was put somewhere else."""
        self._seen.clear()

    def remember(self, observed_s: float, grid: F32, *, speed_mps: float, yaw_rate_rps: float) -> None:
        """Keep the grid of the frame of this time, and how the car moved then."""
        self._seen.append((observed_s, _Seen(grid, speed_mps, yaw_rate_rps)))

    def forbids(self, foreseen: Foreseen) -> bool:
        """Whether a chunk of which this is foreseen is not to be followed."""
        return not foreseen.probability < self.block

    def judge(
        self,
        chunk: ActionChunk,
        *,
        calibration: Calibration,
        response: Response,
        correction: Response | None = None,
        mount_yaw_rad: float = 0.0,
    ) -> Foreseen:
        """What is foreseen of a chunk. correction: the tracker's. Raises nothing."""
        seen = self._at(chunk.observed_s)
        if seen is None:
            return UNFORESEEN
        try:
            return self._foresee(chunk, seen, calibration, response, correction, mount_yaw_rad)
        except Exception as error:  # whatever it is, the loop must go on with what is known to be safe
            self.faults += 1
            if self.faults == 1 or self.faults % 200 == 0:
                log.error("world head fault %d: %s: %s", self.faults, type(error).__name__, error)
            return UNFORESEEN

    def _at(self, observed_s: float) -> _Seen | None:
        for time_s, seen in reversed(self._seen):
            if abs(time_s - observed_s) <= _SAME_FRAME_S:
                return seen
        return None

    def _foresee(
        self,
        chunk: ActionChunk,
        seen: _Seen,
        calibration: Calibration,
        response: Response,
        correction: Response | None,
        mount: float,
    ) -> Foreseen:
        if not np.isfinite(seen.grid).all():
            return UNFORESEEN
        plan = plan_of(
            chunk,
            speed_mps=seen.speed_mps,
            yaw_rate_rps=seen.yaw_rate_rps,
            calibration=calibration,
            response=response,
            correction=correction,
        )
        features, logits = self.head.foresee(
            seen.grid[None],
            np.array([plan], np.float32),
            np.array([[seen.speed_mps, seen.yaw_rate_rps]], np.float32),
            np.array([[*chunk.curvature, *chunk.speed]], np.float32),
            mount_yaw_rad=mount,
        )
        logit = float(logits[0])
        if not math.isfinite(logit) or not np.isfinite(features).all():
            return UNFORESEEN
        return Foreseen(1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, logit)))), features[0])


def plan_of(
    chunk: ActionChunk,
    *,
    speed_mps: float,
    yaw_rate_rps: float,
    calibration: Calibration,
    response: Response,
    correction: Response | None = None,
) -> list[tuple[float, float, float]]:
    """(ahead, left, heading) at `FORESEEN_POINTS` times of a car that follows a chunk from where it was observed."""
    bend = yaw_rate_rps / speed_mps if speed_mps > 0.15 else 0.0
    odometry = Odometry(calibration)
    odometry.speed_mps, odometry.curvature = speed_mps, max(-_MAX_CURVATURE, min(_MAX_CURVATURE, bend))
    tracker = PathTracker(calibration)
    if correction is not None:
        tracker.correction = correction
    tracker.follow(chunk, Pose())
    poses = poses_along_path(
        tracker,
        odometry,
        response,
        now_s=chunk.observed_s,
        speed_limit_mps=None,
        points=FORESEEN_POINTS,
    )
    return [(pose.x, pose.y, pose.heading) for pose in poses]
