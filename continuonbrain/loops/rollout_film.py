"""How an adapter drives beside the one before it, for people to look at: one lap each on one track of the simulator.

    python -m continuonbrain.loops.rollout_film --root R --version ID

prints JSON: `{"track": [[x, y], ...], "half_m", "before": [[x, y], ...], "after": [...], "completion_before",
"completion_after", "before_id", "after_id"}`, metres. A process of its own: it loads an engine, and is gone after it.
"Before" is what would drive without it: what drives now for one that waits, what drove before for what drives.
The track is the first of the verdict's course; nobody chooses it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops.child_process import exit_code
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.robot.sim.shifts import world
from continuonbrain.robot.sim.track import TrackSet
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion
from continuonbrain.trainer.course import Course
from continuonbrain.trainer.rollout import rollout

_SEED = 5
_NICE = 10
_CENTIMETRES = 2
Points = list[list[float]]


def before_of(store: AdapterStore, version: AdapterVersion) -> AdapterVersion | None:
    """What would drive without this version; None is the base alone. Raises `AdapterError`."""
    current = store.current()
    if current is not None and current.version_id == version.version_id:
        return store.previous()
    return current


def film(brain: BrainRoot, version: AdapterVersion) -> dict[str, Any]:
    """Drive both. Raises `BrainError`: no simulator stands in for this robot, or an adapter cannot be used."""
    if brain.config.robot.kind != "sim-donkey":
        raise BrainError("no simulator stands in for this robot", remedy="look at how it drives")
    course = Course(world(brain.config.robot.shift))
    store, seed = AdapterStore(brain.layout), course.tracks[0]
    before = before_of(store, version)
    engine = open_engine(brain.layout.base_model_dir, brain.config.policy)
    tracks = TrackSet([seed], course.world)
    way_before, done_before = _driven(brain, engine, course, before)
    way_after, done_after = _driven(brain, engine, course, version)
    return {
        "track": _points(tracks.points[0]),
        "half_m": float(tracks.half_m[0]),
        "before": way_before,
        "after": way_after,
        "completion_before": done_before,
        "completion_after": done_after,
        "before_id": "" if before is None else before.version_id,
        "after_id": version.version_id,
    }


def _driven(
    brain: BrainRoot, engine: Engine, course: Course, version: AdapterVersion | None
) -> tuple[Points, float]:
    calibration = Calibration()
    if version is not None:
        calibration = Calibration.from_file(version.path / "calibration.json")
    engine.use_adapter(None if version is None else version.path)
    result = rollout(
        engine,
        course.world,
        course.tracks[:1],
        ["drive"],
        calibration=calibration,
        limits=Limits.from_config(brain.config.guards),
        seed=_SEED,
        decision_time_s=brain.config.robot.decision_time_s,
    )
    way = result.trajectory[:, 0]
    return _points(way[~np.isnan(way).any(axis=1)]), round(float(result.completion[0]), 4)


def _points(xy: Any) -> Points:
    return [[round(float(x), _CENTIMETRES), round(float(y), _CENTIMETRES)] for x, y in xy]


def main() -> int:
    """Command line; exit 2 when a person must put something right."""
    parser = argparse.ArgumentParser(prog="python -m continuonbrain.loops.rollout_film", description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--version", required=True)
    given = parser.parse_args()
    os.nice(_NICE)

    def show() -> None:
        brain = open_brain(given.root)
        print(json.dumps(film(brain, AdapterStore(brain.layout).find(given.version))))

    return exit_code(show)


if __name__ == "__main__":
    sys.exit(main())
