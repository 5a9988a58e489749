"""Steps per second of the simulator, rendering included: the gymnasium environment and a fleet of 24 cars.

    python benchmarks/bench_simulator.py [--json]

Keys: environment_steps_per_s, fleet_steps_per_s (medians of five).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from continuonbrain.robot.sim.env import DonkeyTrackEnv
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.shifts import BASE
from continuonbrain.robot.sim.track import TrackSet


def environment_steps_per_s(steps: int = 500) -> float:
    env = DonkeyTrackEnv()
    env.reset(seed=1)
    started = time.perf_counter()
    for _ in range(steps):
        env.step(env.expert_action())
    return steps / (time.perf_counter() - started)


def fleet_steps_per_s(cars: int = 24, ticks: int = 40) -> float:
    fleet = Fleet(TrackSet(range(cars), BASE), np.arange(cars), seed=1)
    started = time.perf_counter()
    for _ in range(ticks):
        fleet.render()
        fleet.step(*fleet.expert())
    return cars * ticks / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    figures = {
        "environment_steps_per_s": statistics.median(environment_steps_per_s() for _ in range(5)),
        "fleet_steps_per_s": statistics.median(fleet_steps_per_s() for _ in range(5)),
    }
    figures = {k: round(v) for k, v in figures.items()}
    print(json.dumps(figures) if as_json else "\n".join(f"{k}: {v}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
