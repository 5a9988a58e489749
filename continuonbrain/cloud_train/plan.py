"""What the parts of one training run tell each other: a plan that workers read, and the places of their files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continuonbrain.cloud_train.recipe import Recipe
from continuonbrain.storage.durable import write_json_durably


@dataclass(frozen=True)
class Plan:
    """One run. out: its folder; base: absolute, of that sha256; samples_sha256: names what is learned from; robot_of:
    the robot's number by the episode's; cpu: no accelerator even where there is one; sharded: the base's weights are
    spread over the workers; save_every, eval_every: steps; cache_mib: of a worker, for the frozen part."""

    out: Path
    base: Path
    base_sha256: str
    samples_sha256: str
    recipe: Recipe
    robots: tuple[str, ...]
    robot_of: tuple[int, ...]
    cpu: bool = True
    sharded: bool = False
    save_every: int = 50
    eval_every: int = 50
    cache_mib: int = 2048

    @property
    def unfinished(self) -> Path:
        """Of what is not needed when the run is done."""
        return self.out / "unfinished"

    @property
    def path(self) -> Path:
        """This plan's file."""
        return self.unfinished / "plan.json"

    @property
    def state_path(self) -> Path:
        """Where the steps stand."""
        return self.unfinished / "job.state"

    @property
    def adapter_dir(self) -> Path:
        """What the workers made."""
        return self.unfinished / "adapter"

    @property
    def result_path(self) -> Path:
        """Their figures; written last."""
        return self.unfinished / "result.json"

    @property
    def error_path(self) -> Path:
        """Why they ended, where they can say it."""
        return self.unfinished / "error.json"

    @property
    def board_dir(self) -> Path:
        """TensorBoard's files."""
        return self.out / "tensorboard"

    def write(self) -> None:
        """Put it where workers look. Raises OSError."""
        value = {
            **vars(self),
            "out": str(self.out),
            "base": str(self.base),
            "recipe": self.recipe.to_json(),
        }
        write_json_durably(self.path, value)

    @staticmethod
    def read(path: Path) -> Plan:
        """Raises OSError, ValueError, KeyError, TypeError."""
        value: dict[str, Any] = json.loads(path.read_bytes())
        return Plan(
            **{
                **value,
                "out": Path(value["out"]),
                "base": Path(value["base"]),
                "recipe": Recipe.from_json(value["recipe"]),
                "robots": tuple(value["robots"]),
                "robot_of": tuple(value["robot_of"]),
            }
        )
