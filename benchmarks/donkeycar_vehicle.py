"""donkeycar's own vehicle loop with parts that do the work of our control loop; a child of `benchmarks.fast_loop`.

    python -m benchmarks.donkeycar_vehicle --hz 50 --seconds 120 --work FOLDER

Its `Vehicle`, `Memory`, `TubWriter` as they are in the released package, which is put into a folder of its own (it asks
for an older numpy than ours and does not need it). The parts: the simulated car (camera, state, actuators), safety head
and reflex head on every frame, our tracker and guard, and donkeycar's recorder. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from continuonbrain.config import load_preset
from continuonbrain.loops.loop_report import Durations
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.open_watch import open_head
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.reflex import Reflex
from continuonbrain.policy.watch import Watch
from continuonbrain.robot.protocol import Observation
from continuonbrain.robot.sim.robot import SimRobot
from continuonbrain.robot.sim.shifts import world
from continuonbrain.safety.caution import Thresholds
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.layout import shipped_safety_head

PACKAGES = ("donkeycar", "pyfiglet", "prettytable", "wcwidth")
_CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
_PATH_EVERY_S = 0.5


def donkeycar_folder() -> Path:
    """Where the package lies; downloaded the first time. Raises `SystemExit` with what to do."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "continuonbrain" / "donkeycar-5.3.0"
    if not (folder / "donkeycar" / "vehicle.py").is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*command, "-c", str(_CONSTRAINTS), *PACKAGES], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"donkeycar cannot be had: {done.stderr.strip()[-300:]}\n  try: --without-donkeycar")
    return folder


class Clock:
    """The first part: when each turn of the loop begins, against the time at which it was due."""

    def __init__(self, hz: float) -> None:
        self.period_s = 1 / hz
        self.lateness, self.first_s, self.last_s, self.ticks, self.missed = Durations(), 0.0, 0.0, 0, 0

    def run(self) -> None:
        now = time.monotonic()
        if self.ticks:
            # The loop sleeps for what is left of a period after its own beginning: that beginning is the schedule.
            late_s = now - self.last_s - self.period_s
            self.lateness.add(max(0.0, late_s))
            self.missed += int(max(0.0, late_s) / self.period_s)
        else:
            self.first_s = now
        self.last_s = now
        self.ticks += 1

    def drift_s(self) -> float:
        """How far behind the promised rate the loop is."""
        return self.last_s - self.first_s - (self.ticks - 1) * self.period_s


class Car:
    """Camera, state and actuators."""

    def __init__(self, hz: float) -> None:
        self.robot = SimRobot(world("none"), track_seed=9001, seed=0, period_s=1 / hz)

    def run(self) -> Any:
        seen = self.robot.observe()
        return seen, seen.frame


class Heads:
    """The two nets that our loop asks at every tick at most."""

    def __init__(self) -> None:
        self.head = open_head(shipped_safety_head())
        reflex = Reflex.of_folder(tiny_base_folder())
        assert reflex is not None
        self.reflex = reflex
        self._intent = np.zeros((1, 10), np.float32)

    def run(self, frame: Any) -> Any:
        self.reflex.curvatures(frame[None], self._intent)
        return self.head.grids(frame[None])[0]


class Driver:
    """Our tracker and guard along a path that is laid anew now and then."""

    def __init__(self, head: Any) -> None:
        watch = Watch(head, thresholds=Thresholds(0.25, 0.6))
        limits = Limits.from_config(load_preset("sim-donkey").guards)
        self.pilot = Pilot(calibration=Calibration(), limits=limits, watch=watch)
        self._laid_s = 0.0

    def run(self, seen: Observation, grid: Any) -> tuple[float, float]:
        now = time.monotonic()
        self.pilot.observe(now_s=seen.monotonic_s, speed_mps=seen.speed_mps, yaw_rate_rps=seen.yaw_rate_rps)
        if now - self._laid_s > _PATH_EVERY_S:
            self._laid_s = now
            self.pilot.accept(ActionChunk((0.0,) * 8, (0.5, 0.5), seen.monotonic_s))
        sent = self.pilot.tick(now_s=time.monotonic(), grid=grid).guarded
        return sent.steering, sent.throttle


class Act:
    """The command."""

    def __init__(self, car: Car) -> None:
        self._car = car

    def run(self, steering: float, throttle: float) -> None:
        self._car.robot.act(steering, throttle)


def _profiled(vehicle: Any) -> list[tuple[Any, list[float]]]:
    """What its own profiler measured: seconds of every run of each part (the first is set-up)."""
    return [(part, record["times"][1:-1]) for part, record in vehicle.profiler.records.items()]


def _percentiles(times: list[float]) -> dict[str, float]:
    durations = Durations()
    for seconds in times:
        durations.add(seconds)
    return durations.percentiles()


def main() -> None:
    """Run the vehicle and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hz", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    sys.path.append(str(donkeycar_folder()))
    with contextlib.redirect_stdout(io.StringIO()):  # a banner
        from donkeycar.parts.tub_v2 import TubWriter  # type: ignore[import-not-found]
        from donkeycar.vehicle import Vehicle  # type: ignore[import-not-found]

    vehicle, clock, car, heads = Vehicle(), Clock(given.hz), Car(given.hz), Heads()
    vehicle.add(clock)
    vehicle.add(car, outputs=["seen", "cam/image_array"])
    vehicle.add(heads, inputs=["cam/image_array"], outputs=["grid"])
    vehicle.add(Driver(heads.head), inputs=["seen", "grid"], outputs=["steering", "throttle"])
    vehicle.add(Act(car), inputs=["steering", "throttle"])
    inputs = ["cam/image_array", "steering", "throttle"]
    tub = TubWriter(str(given.work), inputs=inputs, types=["image_array", "float", "float"])
    vehicle.add(tub, inputs=inputs, outputs=["tub/num_records"])
    vehicle.start(rate_hz=given.hz, max_loop_count=round(given.seconds * given.hz))
    turns = round(given.seconds * given.hz)
    if clock.ticks != turns:  # it prints what a part raised, and ends as if all were well
        sys.exit(f"donkeycar's loop ended after {clock.ticks} of {turns} turns")
    late = clock.lateness.percentiles()
    figures = {
        "p50_us": late["p50"],
        "p99_us": late["p99"],
        "p999_us": late["p99.9"],
        "max_us": late["max"],
        "missed_ticks": clock.missed,
        "ticks": clock.ticks,
        "drift_s": round(clock.drift_s(), 3),
        "stages_us": {type(part).__name__: _percentiles(times) for part, times in _profiled(vehicle)},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
