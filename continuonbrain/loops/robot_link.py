"""A body as a control loop meets it: looks are examined and believed, commands sent; what it raises is a fault."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from continuonbrain.loops.loop_tick import PARKED
from continuonbrain.loops.senses import Senses
from continuonbrain.loops.tally import Tally
from continuonbrain.policy.pilot import Pilot
from continuonbrain.robot.protocol import Observation, Robot
from continuonbrain.safety.guards import Guarded

_DEAD_RECKONING_S = 0.5  # a longer gap between observations is more than odometry bridges


class RobotLink:
    """Between one robot and its pilot.

    Args:
        robot, pilot: body and driver.
        tally: counts the faults.
        forget: called where a gap between two observations is more than odometry bridges.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        robot: Robot,
        pilot: Pilot,
        tally: Tally,
        *,
        forget: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._robot = robot
        self._pilot = pilot
        self._tally = tally
        self._forget = forget
        self._clock = clock
        self._senses = Senses()
        self._looked_s: float | None = None
        self._throttle = 0.0

    def look(self) -> tuple[Observation | None, str]:
        """The observation, taken into odometry; or None and what is wrong with it."""
        try:
            observation = self._robot.observe()
            fault = self._senses.fault_of(observation, now_s=self._clock(), throttle=self._throttle)
            if not fault:
                self._believe(observation)
        except Exception as error:  # whatever a body raises, the robot must still be stopped in this tick
            fault = f"{type(error).__name__}: {error}"
        if fault:
            self._tally.fault("sensor", fault)
            return None, fault
        return observation, ""

    def send(self, guarded: Guarded) -> str:
        """Why the body refused, "" when it took it. `PARKED` stops it."""
        self._throttle = guarded.throttle
        try:
            if guarded is PARKED:
                self._robot.stop()
            else:
                self._robot.act(guarded.steering, guarded.throttle)
        except Exception as error:  # the loop must live on: only it can stop the robot in the next tick
            self._tally.fault("actuator", f"{type(error).__name__}: {error}")
            with contextlib.suppress(Exception):
                self._robot.stop()
            # It stands, whatever was asked of it: what comes next slews up from rest.
            self._pilot.guard.reset()
            self._pilot.sent(PARKED)
            return f"{type(error).__name__}: {error}"
        return ""

    def _believe(self, observation: Observation) -> None:
        """Take it into odometry. Raises whatever a reading of a wrong type does."""
        taken_s = observation.monotonic_s
        if self._looked_s is not None and taken_s - self._looked_s > _DEAD_RECKONING_S:
            self._forget()
        self._looked_s = taken_s
        self._pilot.observe(
            now_s=taken_s, speed_mps=observation.speed_mps, yaw_rate_rps=observation.yaw_rate_rps
        )
