"""What the tracker's own correction of the servo gives, and what a broken gyro can make of it.

    python -m benchmarks.servo [--tracks 6] [--json]

The shipped base drives its own world with the nominal calibration, on a car whose steering answers otherwise than that
says (as after a knock, before anything was trained), or whose gyro lies. Once the tracker commands by the calibration
alone, once it learns from the car's motion how the wheels answer (`policy/response.py`, within bounds).

Keys: tracks; rows, each with car, completion and lateral_m without, and completion_learned, lateral_learned_m with it.
Takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from continuonbrain.config import load_preset
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy import pilot, tracker
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.policy.response import Response, slow_response
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.shifts import BASE, World, world
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.score import drive_score

_TRACKS = 73_000
Measured = tuple[Any, Any]
CARS: tuple[tuple[str, World, Callable[[Measured], Measured]], ...] = (
    ("as it should be", BASE, lambda m: m),
    ("wheels 11 degrees off", world("trim"), lambda m: m),
    ("half of the steering", world("gain"), lambda m: m),
    ("a longer wheelbase", world("wheelbase"), lambda m: m),
    ("the servo turned around", world("reverse"), lambda m: m),
    ("a floor that pushes", replace(BASE, disturbance=0.25), lambda m: m),
    ("a gyro that says 0", BASE, lambda m: (m[0], np.zeros_like(m[1]))),
    ("a gyro that says double", BASE, lambda m: (m[0], 2 * m[1])),
    ("a gyro that is 0.3 rad/s off", BASE, lambda m: (m[0], m[1] + 0.3)),
    ("a gyro turned around", BASE, lambda m: (m[0], -m[1])),
)


def _by_the_calibration_alone() -> Response:
    return Response(most_gain=(1.0, 1.0), most_offset_rad=0.0)


@contextmanager
def _with(correction: Callable[[], Response], measured: Callable[[Measured], Measured]) -> Iterator[None]:
    before, rooms = Fleet.measured, (tracker, pilot)
    try:
        for room in rooms:
            room.slow_response = correction  # type: ignore[attr-defined]
        Fleet.measured = lambda self: measured(before(self))  # type: ignore[method-assign]
        yield
    finally:
        Fleet.measured = before  # type: ignore[method-assign]
        for room in rooms:
            room.slow_response = slow_response  # type: ignore[attr-defined]


def measure(tracks: int) -> list[dict[str, Any]]:
    """A row for each car."""
    config = load_preset("sim-donkey")
    engine, limits = open_engine(tiny_base_folder(), config.policy), Limits.from_config(config.guards)
    rows = []
    for name, where, measured in CARS:
        row: dict[str, Any] = {"car": name}
        for correction, keys in (
            (_by_the_calibration_alone, ("completion", "lateral_m")),
            (slow_response, ("completion_learned", "lateral_learned_m")),
        ):
            with _with(correction, measured):
                score = drive_score(
                    engine, where, range(_TRACKS, _TRACKS + tracks), calibration=Calibration(), limits=limits
                )
            row |= dict(zip(keys, (round(score.completion, 3), round(score.lateral_error_m, 4)), strict=True))
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.servo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tracks", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = measure(given.tracks)
    if given.json:
        print(json.dumps({"tracks": given.tracks, "rows": rows}))
        return
    table = Table("car", "by the calibration", "and by how it answers")
    for row in rows:
        told = [
            f"{100 * row[f'completion{s}']:.0f} %, {100 * row[f'lateral{s}_m']:.1f} cm"
            for s in ("", "_learned")
        ]
        table.add_row(row["car"], *told)
    Console().print(table)


if __name__ == "__main__":
    main()
