"""What follows the steps: the robot's shape, the reflex head, figures on what was held out. One process, whatever the
number of workers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from continuonbrain.cloud_train.fit import Elsewhere, Fitted, fit
from continuonbrain.cloud_train.plan import Plan
from continuonbrain.cloud_train.pooling import pool_of
from continuonbrain.cloud_train.prepare import HELD, Prepared
from continuonbrain.cloud_train.sample_store import read_samples
from continuonbrain.cloud_train.shape import RobotShape
from continuonbrain.policy.intent import Intents
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.storage.adapter_version import REFLEX_FILE
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.evaluate import answers, imitation, reflex_imitation
from continuonbrain.trainer.reflex_job import ReflexSettings, TaughtReflex, teach_reflex

CALIBRATION = "calibration.json"


def in_shape(plan: Plan, shape: RobotShape, elsewhere: Elsewhere) -> Fitted:
    """The workers' adapter as the robot takes it. Raises FitRefused, LoraError."""
    return fit(plan.adapter_dir, shape, elsewhere=elsewhere)


def reflex_for(
    plan: Plan, files: dict[str, bytes], say: Callable[[str], None]
) -> tuple[bytes, dict[str, Any]]:
    """The reflex head that belongs to an adapter, taught the same lessons; b"" where the robot's recipe makes none, and
    its figures."""
    engine = TorchEngine(plan.base)
    start = engine.reflex
    if start is None or plan.recipe.reflex_steps == 0:
        return b"", {}
    say("teaching the reflex head")
    with _as_folder(files) as folder:
        engine.use_adapter(Path(folder))
    intents = Intents(engine, reflex=start)
    pool, chances = pool_of(plan)

    def meant(instructions: Sequence[str], _look: Callable[[], None]) -> Any:
        return intents.of_all(instructions)

    settings = ReflexSettings(
        max_steps=plan.recipe.reflex_steps, seed=plan.recipe.seed, max_wall_time_s=1e9, max_memory_mib=None
    )
    taught: TaughtReflex = teach_reflex(start.data, pool, chances, meant, settings)
    figures = {
        "reflex_steps": len(taught.losses),
        "reflex_ended": taught.ended,
        "reflex_s": round(taught.seconds, 2),
        "reflex_losses": [round(x, 4) for x in taught.losses],
    }
    return taught.data, figures


def figures_on_held_out(plan: Plan, prepared: Prepared, files: dict[str, bytes]) -> dict[str, Any]:
    """Mean absolute errors against the drivers on what nobody trained on, by robot: of the base alone, and with the
    adapter. Steering is a share of full lock, speed in m/s."""
    samples = read_samples(plan.unfinished / HELD)
    if samples is None:
        return {}
    engine = TorchEngine(plan.base)
    out: dict[str, Any] = {}
    parts = {r: samples.select(np.flatnonzero(samples.episode == i)) for i, r in enumerate(prepared.robots)}
    parts = {r: s for r, s in parts.items() if len(s)}
    for name in ("base", "adapter"):
        if name == "adapter":
            with _as_folder(files) as folder:
                engine.use_adapter(Path(folder))
        for robot, own in parts.items():
            out.setdefault(robot, {"steps": len(own)})[name] = _errors(engine, own, prepared, robot)
    return out


def _errors(engine: TorchEngine, samples: Samples, prepared: Prepared, robot: str) -> dict[str, Any]:
    calibration = prepared.calibrations[robot]
    found: dict[str, Any] = asdict(imitation(answers(engine, samples), samples, calibration))
    if engine.reflex is not None:
        found["reflex_steering"] = reflex_imitation(engine, engine.reflex, samples, calibration).steering
    return found


class _as_folder:
    """Files of an adapter as a folder, for a moment."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files
        self._scratch = tempfile.TemporaryDirectory()

    def __enter__(self) -> str:
        for name, data in self._files.items():
            (Path(self._scratch.name) / name).write_bytes(data)
        return self._scratch.name

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()


def adapter_folder_files(
    fitted: Fitted, reflex: bytes, prepared: Prepared, robot: str | None
) -> dict[str, bytes]:
    """Everything that decides how an adapter behaves. robot: whose calibration travels with it; None: nobody's, where
    there are several."""
    files = dict(fitted.files)
    if reflex:
        files[REFLEX_FILE] = reflex
    if robot is not None:
        files[CALIBRATION] = prepared.calibrations[robot].to_json()
    return files


def paper(value: dict[str, Any]) -> bytes:
    """JSON for people and programs."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
