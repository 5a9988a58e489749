"""How a robot trains, and what a bigger machine may do otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from continuonbrain.cloud_train.errors import TrainRefused
from continuonbrain.config import LORA_TARGETS, LORA_TARGETS_NOT_IN_SHARED_LAYERS
from continuonbrain.config.brain import BrainConfig

Layers = Literal["top", "all"]
MixedPrecision = Literal["no", "bf16", "fp16"]
LARGEST_RANK = 256


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is trained. The robot's own, but for what was asked otherwise.

    alpha: grows with the rank, so that the scale of an update is the robot's; layers: "top" the KV-shared ones, as on
    the robot, "all" every one; batch_size: samples of one pass over all workers; accumulate: passes that make a step;
    mirror: lessons are learned mirrored, too (where every robot measured its motion).
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    learning_rate: float
    weight_decay: float
    batch_size: int
    max_steps: int
    seed: int
    reflex_steps: int
    layers: Layers = "top"
    accumulate: int = 1
    mixed_precision: MixedPrecision = "no"
    mirror: bool = True
    balance: bool = True
    replay_share: float = 0.34
    max_memory_mib: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("rank", 1, LARGEST_RANK),
            ("batch_size", 1, 1 << 20),
            ("accumulate", 1, 1 << 16),
            ("max_steps", 1, 10_000_000),
            ("seed", 0, 2**63 - 1),
        ):
            if not least <= getattr(self, name) <= most:
                raise TrainRefused(
                    f"{name} is {getattr(self, name)}",
                    remedy=f"set it to a whole number from {least} to {most}",
                )

    def to_json(self) -> dict[str, Any]:
        """As a plan holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Recipe:
        """What `to_json` gave."""
        known = {f.name: value[f.name] for f in fields(cls)}
        return cls(**{**known, "targets": tuple(known["targets"])})


def recipe_of(
    config: BrainConfig,
    *,
    rank: int | None = None,
    layers: Layers = "top",
    steps: int | None = None,
    batch: int | None = None,
    accumulate: int = 1,
    mixed_precision: MixedPrecision = "no",
    seed: int | None = None,
    reflex_steps: int | None = None,
    mirror: bool = True,
) -> Recipe:
    """The recipe of a robot with these settings; None leaves what it does itself. Raises TrainRefused."""
    training = config.training
    wanted = rank or training.rank
    known = LORA_TARGETS if layers == "top" else (*LORA_TARGETS, *LORA_TARGETS_NOT_IN_SHARED_LAYERS)
    return Recipe(
        rank=wanted,
        alpha=training.alpha * wanted / training.rank,
        targets=tuple(t for t in config.lora_layers if t in known),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        batch_size=batch or config.batch_size,
        max_steps=steps or config.max_steps,
        seed=training.seed if seed is None else seed,
        reflex_steps=training.reflex_steps if reflex_steps is None else reflex_steps,
        layers=layers,
        accumulate=accumulate,
        mixed_precision=mixed_precision,
        mirror=mirror,
    )


def common(configs: Sequence[BrainConfig]) -> BrainConfig:
    """The settings of the robots, where all of them train and hold out alike. Raises TrainRefused."""
    told = [_training_of(config) for config in configs]
    for name, value in told[0].items():
        if other := next((t[name] for t in told if t[name] != value), None):
            raise TrainRefused(
                f"the robots do not train alike: {name} is {value} and {other}",
                remedy="say which recipe holds: --config CONFIG.json, the settings of the robot that it is for",
            )
    return configs[0]


def _training_of(config: BrainConfig) -> dict[str, str]:
    t, p = config.training, config.promotion
    values = {
        "lora_layers": config.lora_layers,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "batch_size": config.batch_size,
        "max_steps": config.max_steps,
        "training.rank": t.rank,
        "training.alpha": t.alpha,
        "training.reflex_steps": t.reflex_steps,
        # Who says what is held out must not be whoever's bundle comes first.
        "promotion.eval_tail_episodes": p.eval_tail_episodes,
        "promotion.min_eval_episodes": p.min_eval_episodes,
        "promotion.max_eval_steps": p.max_eval_steps,
    }
    return {name: json.dumps(value) for name, value in values.items()}
