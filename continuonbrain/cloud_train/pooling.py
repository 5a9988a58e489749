"""The pool of a run: lessons of all robots, their mirror images and replay, with the chance of drawing each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from continuonbrain.cloud_train.balance import balanced
from continuonbrain.cloud_train.errors import TrainRefused
from continuonbrain.cloud_train.plan import Plan
from continuonbrain.cloud_train.prepare import REPLAY, TRAIN
from continuonbrain.cloud_train.sample_store import read_samples
from continuonbrain.trainer.pool import Pool, mix


def pool_of(plan: Plan) -> tuple[Pool, NDArray[np.float64]]:
    """As the robot mixes its lessons (`trainer.pool.mix`), balanced by robot, too. Raises TrainRefused, OSError."""
    samples = read_samples(plan.unfinished / TRAIN)
    if samples is None:
        raise TrainRefused(
            f"{plan.unfinished / TRAIN} holds no samples", remedy="give the same command again"
        )
    robots = [plan.robots[plan.robot_of[e]] for e in samples.episode.tolist()]

    def weigh(instructions: Sequence[str]) -> NDArray[np.float64]:
        images = len(instructions) // len(robots)
        return balanced(robots * images, instructions)

    replay = read_samples(plan.unfinished / REPLAY)
    return mix(samples, replay, plan.recipe, np.random.default_rng(plan.recipe.seed), weigh)
