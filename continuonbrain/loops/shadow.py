"""What the policy would have done while a person drives, and how far from it the person's command was.

The shadow follows the policy's paths with a tracker and a guard of its own, on the car's odometry. It only reads the
pilot: nothing of it reaches the actuators or the guard before them. It is asked after the command was sent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import hypot, inf

from continuonbrain.loops.policy_client import Answer
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.tracker import PathTracker
from continuonbrain.safety.guards import Guard, Guarded
from continuonbrain.safety.reasons import Reason

log = logging.getLogger(__name__)

THROTTLE_WEIGHT = 0.5
"""A throttle that differs by all of its range is seen less of than a steering that does: the car is slow to answer."""
_SLEW = frozenset({Reason.STEERING_SLEW, Reason.STEERING_JERK, Reason.THROTTLE_SLEW})


def action_surprise(policy: tuple[float, float], person: tuple[float, float]) -> float:
    """Distance of two commands (steering, throttle), each in [-1, 1]: hypot(steering, throttle / 2) of the difference.

    Its unit is the steering from straight to full lock; 0 where they are the same, sqrt(5) at most.
    """
    return hypot(policy[0] - person[0], THROTTLE_WEIGHT * (policy[1] - person[1]))


class Shadow:
    """The policy beside a person. pilot: whose odometry, limits and instruction it reads."""

    def __init__(self, pilot: Pilot) -> None:
        self._pilot = pilot
        self._tracker = PathTracker(pilot.tracker.calibration)
        self._guard = Guard(pilot.guard.limits)
        self._since_s = -inf
        self._at_rest = True
        self.faults = 0

    def forget(self, *, now_s: float) -> None:
        """Drop the path, and every decision about what was seen before now: the instruction is another one, somebody
        else drives, or the robot may have been moved."""
        self._since_s = now_s
        self._drop()

    def surprise(self, answers: Sequence[Answer], sent: Guarded, *, now_s: float) -> float | None:
        """How far the person's command that was sent is from the policy's (`action_surprise`), or None: no fresh path,
        its end, a person's command that the guard stopped, or a shadow that has not yet slewed up from rest.

        answers: what the policy decided since it was asked last. Raises nothing: it is no part of driving.
        """
        try:
            self._follow(answers)
            return self._distance(sent, now_s)
        except Exception as error:  # whatever it is, a person drives on
            self.faults += 1
            if self.faults == 1 or self.faults % 200 == 0:
                log.error("shadow fault %d: %s: %s", self.faults, type(error).__name__, error)
            self._drop()
            return None

    def _follow(self, answers: Sequence[Answer]) -> None:
        newest = None
        for answer in answers:
            if newest is None or answer.chunk.observed_s > newest.chunk.observed_s:
                newest = answer
        if newest is None or newest.chunk.observed_s <= self._since_s:
            return
        start = self._pilot.odometry.at(newest.chunk.observed_s)
        if start is None:
            return
        self._since_s = newest.chunk.observed_s
        self._tracker.calibration = newest.calibration
        self._tracker.correction = self._pilot.tracker.correction
        self._tracker.follow(newest.chunk, start)

    def _distance(self, sent: Guarded, now_s: float) -> float | None:
        path = self._tracker.path
        if path is None:
            return None
        command = self._tracker.command(
            now_s=now_s,
            odometry=self._pilot.odometry,
            speed_limit_mps=0.0 if self._pilot.stopping else None,
        )
        guarded = self._guard.step(command, now_s=now_s, chunk_age_s=now_s - path.chunk.observed_s)
        if guarded.stopped:
            self._at_rest = True
            return None
        # The car was driving when the shadow began: until its guard has caught up, the difference is the guard's.
        self._at_rest = self._at_rest and not _SLEW.isdisjoint(guarded.reasons)
        if self._at_rest or sent.stopped:
            return None
        return action_surprise((guarded.steering, guarded.throttle), (sent.steering, sent.throttle))

    def _drop(self) -> None:
        self._tracker.path = None
        self._guard.reset()
        self._at_rest = True
