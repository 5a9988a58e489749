"""How far labels from a driven lesson are from the ideal path: from commands, from the path taken, and as used.

A driver on an unsteady floor answers pushes that a camera cannot foresee.

Prints the mean absolute error in curvature (1/m) at each knot against the ideal path from the same pose, which only a
simulator knows.

    python benchmarks/bench_labels.py
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from continuonbrain.loops.teach import DISTURBANCE, lessons
from continuonbrain.policy.codec import CURVATURE_KNOTS_M
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.ideal import ideal_curvature
from continuonbrain.robot.sim.instructions import BY_PHRASING
from continuonbrain.robot.sim.shifts import BASE
from continuonbrain.robot.sim.track import TrackSet
from continuonbrain.trainer import dataset
from continuonbrain.trainer.dataset import Drive, calibrate

CARS, TICKS = 16, 300


def main() -> None:
    fleet = Fleet(
        TrackSet(range(61_000, 61_000 + CARS), replace(BASE, disturbance=DISTURBANCE)), range(CARS), seed=0
    )
    fleet.place(instruction=[BY_PHRASING[i].name for i in lessons(CARS)], speed_mps=0.6)
    rows, ideal = [], []
    for _ in range(TICKS):
        steering, throttle = fleet.expert()
        rows.append(np.stack([steering, throttle, *fleet.measured()]))
        ideal.append(ideal_curvature(fleet, CURVATURE_KNOTS_M))
        fleet.step(steering, throttle)
    logs, wanted = np.array(rows).transpose(2, 1, 0), np.array(ideal).transpose(1, 0, 2)
    no_episode: Any = None
    yes, end = np.ones(TICKS, bool), np.full(TICKS, TICKS - 1)
    drives = [Drive(no_episode, *log, True, yes, ["drive"] * TICKS, end) for log in logs]
    calibration = calibrate(drives)
    used = dataset._TAKEN_FROM_M
    print(f"{'metres ahead':>16}", *(f"{k:6.1f}" for k in CURVATURE_KNOTS_M))
    for name, first in (("commanded", np.inf), ("path taken", 0.0), (f"taken from {used}", used)):
        dataset._TAKEN_FROM_M = first
        errors = []
        for drive, want in zip(drives, wanted, strict=True):
            curvature, _, weights = dataset._labels(drive, calibration)
            errors.append(np.where(weights[:, :8] > 0, np.abs(curvature - want), np.nan))
        print(f"{name:>16}", *(f"{e:6.3f}" for e in np.nanmean(np.concatenate(errors), 0)))


if __name__ == "__main__":
    main()
