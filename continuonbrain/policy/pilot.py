"""One car's driver: odometry, path tracker and guard in the order in which every tick needs them.

The same object drives in the fast loop, in rollouts and in the demo: what a verdict measures is what drives.
"Stop" works without the model: an instruction that says so brakes along the path that is still known.
"""

from __future__ import annotations

from dataclasses import dataclass

from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.tracker import Odometry, PathTracker
from continuonbrain.safety.guards import Guard, Guarded, Limits
from continuonbrain.safety.reasons import Reason

_STOP_WORDS = frozenset({"stop", "halt", "freeze", "whoa", "stand"})
_STANDING_MPS = 0.05


def means_stop(instruction: str) -> bool:
    """True when an instruction asks for a stop in so many words; wins over anything else that it says."""
    words = "".join(c if c.isalpha() else " " for c in instruction.lower()).split()
    return not _STOP_WORDS.isdisjoint(words)


@dataclass(frozen=True, slots=True)
class Tick:
    """What a tick decided: what the tracker proposed (None: nothing to follow) and what may be sent."""

    proposed: tuple[float, float] | None
    guarded: Guarded
    chunk: ActionChunk | None


class Pilot:
    """Call `tick` at the control rate, `accept` whenever a decision arrives, `instruct` when told something."""

    def __init__(self, *, calibration: Calibration, limits: Limits, stop_without_model: bool = True) -> None:
        self.odometry = Odometry(calibration)
        self.tracker = PathTracker(calibration)
        self.guard = Guard(limits)
        self._sent = (0.0, 0.0)
        self._stop_without_model = stop_without_model
        self._stopping = False

    def instruct(self, instruction: str) -> None:
        """Take a new instruction: only whether it means "stop" matters here."""
        self._stopping = self._stop_without_model and means_stop(instruction)

    def recalibrate(self, calibration: Calibration) -> None:
        """Use another calibration from the next tick on (it travels with the adapter)."""
        self.odometry.calibration = calibration
        self.tracker.calibration = calibration

    def accept(self, chunk: ActionChunk) -> bool:
        """Follow a fresh chunk; False when it is older than the one followed or older than known poses."""
        path = self.tracker.path
        if path is not None and chunk.observed_s <= path.chunk.observed_s:
            return False
        start = self.odometry.at(chunk.observed_s)
        if start is None:
            return False
        self.tracker.follow(chunk, start)
        return True

    def observe(self, *, now_s: float, speed_mps: float | None, yaw_rate_rps: float | None) -> None:
        """Measured motion of this tick; None where the robot has no sensor."""
        self.odometry.update(
            now_s=now_s, speed_mps=speed_mps, yaw_rate_rps=yaw_rate_rps, commanded=self._sent
        )

    def tick(self, *, now_s: float) -> Tick:
        """The command for now. Call after `observe`."""
        path = self.tracker.path
        limit = 0.0 if self._stopping else None
        proposed = self.tracker.command(now_s=now_s, odometry=self.odometry, speed_limit_mps=limit)
        standing = self.odometry.speed_mps < _STANDING_MPS
        stop = Reason.INSTRUCTION_STOP if self._stopping and (standing or proposed is None) else None
        guarded = self.guard.step(
            proposed,
            now_s=now_s,
            chunk_age_s=None if path is None else now_s - path.chunk.observed_s,
            requested_stop=stop,
        )
        self._sent = (guarded.steering, guarded.throttle)
        return Tick(proposed, guarded, None if path is None else path.chunk)

    def teleoperate(self, command: tuple[float, float], *, now_s: float, age_s: float) -> Tick:
        """The same for a human's command of the given age."""
        guarded = self.guard.step(command, now_s=now_s, chunk_age_s=None, teleop_age_s=age_s)
        self._sent = (guarded.steering, guarded.throttle)
        return Tick(command, guarded, None)
