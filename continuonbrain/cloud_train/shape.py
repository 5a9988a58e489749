"""The shape of adapter that a robot takes: which modules, of which rank."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from continuonbrain.cloud_train.errors import FitRefused
from continuonbrain.config import LORA_TARGETS
from continuonbrain.config.brain import BrainConfig
from continuonbrain.config.load import load_config

_LAYER = "layers."


@dataclass(frozen=True, slots=True)
class RobotShape:
    """first_layer: the first KV-shared one; alpha: PEFT's, for the rank."""

    rank: int
    alpha: float
    targets: frozenset[str]
    first_layer: int

    def takes(self, module: str) -> bool:
        """Whether a module (by its full name) is one that this robot adapts."""
        layer = module.partition(_LAYER)[2].partition(".")[0]
        return (
            layer.isdigit() and int(layer) >= self.first_layer and module.rsplit(".", 1)[-1] in self.targets
        )


def shape_of(config: BrainConfig, base: Path) -> RobotShape:
    """Of a robot with these settings, on a base. Raises FitRefused."""
    try:
        text = json.loads((base / "config.json").read_bytes())
        text = text.get("text_config", text)
        first = int(text["num_hidden_layers"]) - int(text["num_kv_shared_layers"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FitRefused(
            f"{base / 'config.json'} does not say which layers are shared ({error!r})",
            remedy="give the folder of the base that the adapter was trained on: --base FOLDER",
        ) from error
    targets = frozenset(t for t in config.lora_layers if t in LORA_TARGETS)
    return RobotShape(config.training.rank, config.training.alpha, targets, first)


def config_of(root_or_config: Path) -> tuple[BrainConfig, Path | None]:
    """The settings of a brain root or a `config.json`; and the root's base, where it is a root. Raises ConfigError."""
    if root_or_config.is_dir():
        config = load_config(root_or_config / "config.json")
        return config, root_or_config / config.base_model_path
    return load_config(root_or_config), None
