"""Whether an observation may be driven by: fresh, of the right shape, and of a camera that sees."""

from __future__ import annotations

import zlib
from math import isfinite

import numpy as np

from continuonbrain.loops.tick_step import measured_s
from continuonbrain.robot.protocol import FRAME_SHAPE, Observation
from continuonbrain.safety.frozen_view import FrozenView

OLDEST_OBSERVATION_S = 0.25
_MOVES_MPS = 0.05


class Senses:
    """What is wrong with one observation after the other."""

    def __init__(self) -> None:
        self._view = FrozenView()

    def fault_of(self, observation: Observation, *, now_s: float, throttle: float) -> str:
        """In words, "" when nothing is. throttle: in force. Raises whatever a reading of a wrong type does."""
        return _unusable(observation, now_s) or self._frozen(observation, throttle)

    def _frozen(self, observation: Observation, throttle: float) -> str:
        """A picture that does not change while the robot moves; where nothing measures its speed, while it is told to
        drive."""
        speed = observation.speed_mps
        # A speed that is no number is none that was measured.
        moving = throttle > 0.0 if speed is None or not isfinite(speed) else abs(speed) > _MOVES_MPS
        checksum = zlib.crc32(np.ascontiguousarray(observation.frame).data)
        frozen = self._view.look(checksum, now_s=observation.monotonic_s, moving=moving)
        return "the camera shows the same picture for ever" if frozen else ""


def _unusable(observation: Observation, now_s: float) -> str:
    for what, taken_s in (("observation", observation.monotonic_s), ("state", measured_s(observation))):
        age_s = now_s - taken_s
        # Written so that NaN is unusable too.
        if not -OLDEST_OBSERVATION_S <= age_s <= OLDEST_OBSERVATION_S:
            return f"the {what} is {age_s:.3f} s old; at most {OLDEST_OBSERVATION_S} s"
    if observation.frame.shape != FRAME_SHAPE or observation.frame.dtype != np.uint8:
        return f"the frame is {observation.frame.dtype} {list(observation.frame.shape)}; uint8 {list(FRAME_SHAPE)}"
    return ""
