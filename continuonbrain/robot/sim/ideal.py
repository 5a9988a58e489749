"""Labels without driving: the path that an undelayed, exact driver would take from a state.

From a pose, pure pursuit of the instructed lane is followed on paper in 5 cm steps for 3 m; the curvatures at
the action chunk's distances are the answer that a policy should give there. Speeds come from the driver's
speed law alone. One state is one label: no episode has to be driven, and off-course states are as cheap as any.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.robot.sim.fleet import (
    ACCELERATION,
    DRAG,
    MAX_WHEEL_RAD,
    NOMINAL_WHEELBASE_M,
    Fleet,
    speed_command,
)
from continuonbrain.robot.sim.track import POINTS

_STEP_M = 0.05
_MAX_CURVATURE = float(np.tan(MAX_WHEEL_RAD) / NOMINAL_WHEELBASE_M)
Array = NDArray[np.float64]


def ideal_curvature(fleet: Fleet, knots_m: Sequence[float]) -> Array:
    """Curvatures `[cars, knots]` (1/m) along the ideal path from where each car stands."""
    tracks, x, y, heading, index = fleet.tracks, fleet.x, fleet.y, fleet.heading, fleet.index
    wanted = {round(k / _STEP_M): column for column, k in enumerate(knots_m)}
    out = np.empty((fleet.cars, len(knots_m)))
    window = np.arange(-3, 6)
    for step in range(max(wanted) + 1):
        curvature = fleet.pursuit_curvature(x, y, heading, index).clip(-_MAX_CURVATURE, _MAX_CURVATURE)
        if step in wanted:
            out[:, wanted[step]] = curvature
        middle = heading + curvature * (_STEP_M / 2)
        x, y = x + np.cos(middle) * _STEP_M, y + np.sin(middle) * _STEP_M
        heading = heading + curvature * _STEP_M
        near = (index[:, None] + window) % POINTS
        points = tracks.points[fleet.track[:, None], near]
        squared = (points[..., 0] - x[:, None]) ** 2 + (points[..., 1] - y[:, None]) ** 2
        index = (index + squared.argmin(1) + window[0]) % POINTS
    return out


def ideal_speed(target_mps: Array, speed_mps: Array, times_s: Sequence[float]) -> Array:
    """Speeds `[cars, times]` (m/s) that the driver's speed law reaches from a speed."""
    wanted = {round(t / CONTROL_DT_S): column for column, t in enumerate(times_s)}
    out = np.empty((len(speed_mps), len(times_s)))
    speed = speed_mps
    for step in range(max(wanted) + 1):
        if step in wanted:
            out[:, wanted[step]] = speed
        throttle = speed_command(target_mps, speed)
        speed = (speed + (ACCELERATION * throttle - DRAG * speed) * CONTROL_DT_S).clip(0, 3)
    return out
