"""The last stage of a training job: the reflex head learns from the same lessons, after its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from continuonbrain.errors import BrainError
from continuonbrain.policy.intent import Intents
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.job import JobSettings
from continuonbrain.trainer.look import Look
from continuonbrain.trainer.pool import mix
from continuonbrain.trainer.reflex_job import ReflexSettings, teach_reflex
from continuonbrain.trainer.steps import Progress
from continuonbrain.trainer.wall_time import reflex_s

if TYPE_CHECKING:
    from continuonbrain.loops.at_work import Sidecar


_REMEDIES = {
    "wall time": "raise max_wall_time_s in config.json, or set training.reflex_steps to 0 and drive without a head",
    "memory limit": "raise training.max_memory_mib in config.json (torch alone takes some 400 MiB)",
}


def teach_head(
    mid: Sidecar,
    engine: TorchEngine,
    train: Samples,
    replay: Samples | None,
    settings: JobSettings,
) -> tuple[bytes, list[float], dict[str, Any]]:
    """The reflex head for the adapter that the engine's model has just learned: its file (b"" when nothing sound came
    of it: the verdict will say so), its losses and figures of the stage.

    Raises `BrainError` where it had no time or memory for a single step: minutes of judging would end in a refusal."""
    assert engine.reflex is not None
    sampler = np.random.default_rng(settings.seed)
    pool, chances = mix(train, replay, settings, sampler)
    # The candidate's own, although it is not staged yet: its adapter is on the engine's model.
    intents = Intents(engine, reflex=engine.reflex)

    def meant(instructions: Sequence[str], look: Look) -> Any:
        for instruction in instructions:
            look()
            intents.of(instruction)
        return intents.of_all(instructions)

    def progress(p: Progress) -> None:
        mid.say(force=False, phase=p.phase, step=p.step, steps=p.steps, loss=p.loss, detail="the reflex head")

    taught = teach_reflex(
        engine.reflex.data,
        pool,
        chances,
        meant,
        ReflexSettings(
            max_steps=mid.config.training.reflex_steps,
            # A share of its own: pauses and an interruption of the adapter's steps take nothing from it.
            max_wall_time_s=reflex_s(mid.config.max_wall_time_s),
            seed=settings.seed,
            max_memory_mib=settings.max_memory_mib,
        ),
        on_progress=progress,
        wait_until_allowed=mid.wait_until_allowed,
    )
    if not taught.losses and taught.ended in _REMEDIES:
        raise BrainError(
            f"the reflex head's training ended ({taught.ended}) before its first step",
            remedy=_REMEDIES[taught.ended],
        )
    figures: dict[str, Any] = {
        "reflex_s": round(taught.seconds, 2),
        "reflex_steps": len(taught.losses),
        "reflex_max_steps": mid.config.training.reflex_steps,
        "reflex_ended": taught.ended,
    }
    return taught.data, [round(x, 4) for x in taught.losses], figures
