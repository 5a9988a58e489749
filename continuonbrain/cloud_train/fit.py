"""An adapter in the robot's shape: the nearest of its rank, on the layers that it adapts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save

from continuonbrain.cloud_train.errors import FitRefused
from continuonbrain.cloud_train.projection import ModuleError, Projected, projected
from continuonbrain.cloud_train.shape import RobotShape

Elsewhere = Literal["refuse", "drop"]
_MERGE = "continuonbrain model merge BASE GROWN --adapter ADAPTER"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Fitted:
    """files: the adapter's; how: "as it is" or "projected"; from_rank: before."""

    files: dict[str, bytes]
    how: str
    from_rank: int
    to_rank: int
    dropped: tuple[str, ...]
    errors: Mapping[str, ModuleError]
    relative: float

    def told(self) -> dict[str, Any]:
        """For `training.json`: errors are relative Frobenius norms of what the adapter adds to a weight."""
        return {
            "how": self.how,
            "rank_before": self.from_rank,
            "rank": self.to_rank,
            "dropped": list(self.dropped),
            "relative_error": self.relative,
            "relative_error_by_module": {n: e.relative for n, e in self.errors.items()},
            "norm_by_module": {n: e.norm for n, e in self.errors.items()},
        }


def is_of_shape(folder: Path, shape: RobotShape) -> bool:
    """Whether the robot takes an adapter as it is. Raises LoraError."""
    from continuonbrain.model.plain_lora import read_plain

    lora = read_plain(folder)
    return lora.rank <= shape.rank and all(map(shape.takes, lora.pairs))


def fit(folder: Path, shape: RobotShape, *, elsewhere: Elsewhere = "refuse") -> Fitted:
    """Bring the adapter in `folder` (PEFT) into a robot's shape.

    Args:
        elsewhere: what becomes of modules that the robot does not adapt.

    Raises:
        LoraError: it cannot be read, or is more than LoRA of one rank.
        FitRefused: it lies on modules that the robot does not adapt, and they are not to be dropped; or on none that
            it does; or its numbers are too large to reckon with.
    """
    from continuonbrain.model.plain_lora import read_plain

    lora = read_plain(folder)
    modules = frozenset(m for m in lora.pairs if shape.takes(m))
    foreign = sorted(set(lora.pairs) - modules)
    if not modules:
        raise FitRefused(
            f"{folder}: none of its {len(lora.pairs)} modules is one that the robot adapts",
            remedy=f"merge it into a base of its own: {_MERGE}",
        )
    if foreign and elsewhere == "refuse":
        raise FitRefused(
            f"{folder}: {len(foreign)} of its {len(lora.pairs)} modules are none that the robot adapts "
            f"(layers from {shape.first_layer} on: {', '.join(sorted(shape.targets))}), for example {foreign[0]}",
            remedy=f"merge it into a base of its own, for the exporter ({_MERGE}), or drop them and look at the error: "
            "--elsewhere drop",
        )
    pairs = {name: (a.numpy(), b.numpy()) for name, (a, b) in lora.pairs.items()}
    too_large = FitRefused(
        f"{folder}: its numbers, or lora_alpha, are too large to reckon with",
        remedy="train it again with a smaller learning rate, or give another adapter",
    )
    if not all(np.isfinite(matrix).all() for pair in pairs.values() for matrix in pair):
        raise too_large  # with its scale in it, B is none of finite numbers any more
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            found: Projected = projected(pairs, modules, min(shape.rank, lora.rank))
    except np.linalg.LinAlgError as error:
        raise too_large from error
    if not all(math.isfinite(e.norm) for e in found.errors.values()):
        raise too_large
    if not foreign and lora.rank <= shape.rank:
        files = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
        nothing = {n: ModuleError(e.norm, 0.0) for n, e in found.errors.items()}
        return Fitted(files, "as it is", lora.rank, lora.rank, (), nothing, 0.0)
    alpha = shape.alpha * found.rank / shape.rank
    scale = alpha / found.rank
    tensors = {}
    for name, (a, b) in found.pairs.items():
        # safetensors writes the memory as it lies, whatever order numpy has it in.
        tensors[f"base_model.model.{name}.lora_A.weight"] = np.ascontiguousarray(a)
        tensors[f"base_model.model.{name}.lora_B.weight"] = np.ascontiguousarray((b / scale).astype(b.dtype))
    if not all(np.isfinite(array).all() for array in tensors.values()):
        raise too_large
    settings = json.loads((folder / CONFIG).read_bytes())
    settings |= {
        "r": found.rank,
        "lora_alpha": alpha,
        "use_rslora": False,
        "target_modules": sorted(found.pairs),
    }
    files = {
        WEIGHTS: save(tensors, metadata={"format": "pt"}),
        CONFIG: (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode(),
    }
    return Fitted(files, "projected", lora.rank, found.rank, found.dropped, found.errors, found.relative)
