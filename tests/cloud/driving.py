"""Robots that people drove, and their bundles: what a trainer takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud_train.recipe import Recipe, recipe_of
from continuonbrain.cloud_train.train import Asked, train
from continuonbrain.config.brain import BrainConfig
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.rlds.step import SOURCE_HUMAN, Step

from .conftest import export, new_root, public_key, record_episode

BASE = tiny_base_folder()
STEPS, BATCH = 6, 12


def drive(
    brain: BrainRoot,
    name: str,
    *,
    seed: int,
    steps: int = 60,
    said: str = "keep left",
    every: int = 1,
    broken: Callable[[Step], Step] = lambda step: step,
    **fields: Any,
) -> Path:
    """An episode of a person who drives bends over a picture that shows them; of it each `every`-th row and column.
    broken: what a defect makes of a step; fields: of its metadata."""
    random = np.random.default_rng(seed)
    bend = 0.4 * np.sin(np.arange(steps) / 9 + random.uniform(0, 6))
    rows, columns = np.mgrid[:120, :160]

    def change(tick: int, step: Step) -> Step:
        road = np.abs(columns - 80 - 60 * bend[tick] * (120 - rows) / 120) < 20
        frame = np.where(road[..., None], 90, 200).astype(np.uint8).repeat(3, -1)
        frame += random.integers(0, 20, frame.shape, dtype=np.uint8)
        return broken(
            Step(
                frame=frame[::every, ::every],
                command=(float(bend[tick]), 0.4),
                source=SOURCE_HUMAN,
                instruction=said,
                speed_mps=0.9,
                yaw_rate_rps=float(0.9 * np.tan(0.4 * bend[max(0, tick - 2)]) / 0.26),
                tick=tick,
                monotonic_ns=step.monotonic_ns,
            )
        )

    return record_episode(brain, name, steps, change=change, **fields)


def config_for(root: Path, **changes: Any) -> None:
    """Change settings of a root, dotted names with `__`."""
    path = root / "config.json"
    value = json.loads(path.read_text())
    for name, new in changes.items():
        *groups, leaf = name.split("__")
        target = value
        for group in groups:
            target = target[group]
        target[leaf] = new
    path.write_text(json.dumps(value))


@dataclass(frozen=True)
class Given:
    """A bundle and the robot that it is of."""

    bundle: Path
    brain: BrainRoot


def robot_of(folder: Path, name: str = "one", *, first: int = 0, episodes: int = 6) -> Given:
    """A robot with episodes of two instructions, exported. first: the seed of the first episode."""
    brain = new_root(folder / name)
    for i in range(episodes):
        said = ("keep left", "keep right")[i % 2]
        drive(brain, f"2026010{i + 1}T080000Z-aaaa", seed=first + i, said=said)
    return Given(export(brain, folder / f"{name}.zip").path, brain)


def asked(given: Given, out: Path, **how: Any) -> Asked:
    """A short run on one bundle."""
    wanted = {"steps": STEPS, "batch": BATCH, "reflex_steps": 0, **how.pop("recipe", {})}

    def recipe(config: BrainConfig, measured: bool) -> Recipe:
        return recipe_of(config, mirror=measured, **wanted)

    defaults: dict[str, Any] = {
        "bundles": (given.bundle,),
        "keys": (public_key(given.brain),),
        "cpu": True,
        "save_every": 2,
        "eval_every": 3,
    }
    return Asked(out=out, recipe=recipe, **{"base": BASE, **defaults, **how})


def trained(given: Given, out: Path, **how: Any) -> dict[str, Any]:
    """What `training.json` says of a short run."""
    return train(asked(given, out, **how))
