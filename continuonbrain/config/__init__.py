"""The brain's settings: `config.json` in the brain root, checked strictly before anything moves.

The flat keys are the ones that the robot's ecosystem already uses, and keep their names; the groups below
them (`robot`, `gates`, `guards`, ...) are this project's own. Three rules hold for every key:

- an unknown key is an error that names the nearest known one, never a silent default;
- a number is finite and inside its range; NaN and infinity are refused;
- a relative path is relative to the brain root.

Presets that show every key ship in `continuonbrain/configs/`.
"""

from __future__ import annotations

from continuonbrain.config.brain import (
    LORA_TARGETS,
    LORA_TARGETS_NOT_IN_SHARED_LAYERS,
    BrainConfig,
    validate_config,
)
from continuonbrain.config.donkey import (
    BatteryGaugeConfig,
    CameraConfig,
    DonkeyConfig,
    GamepadConfig,
    PwmConfig,
    SteeringConfig,
    StopButtonConfig,
    ThrottleConfig,
)
from continuonbrain.config.error import ConfigError
from continuonbrain.config.groups import (
    Bounds,
    CloudConfig,
    GatesConfig,
    GuardsConfig,
    HeadsConfig,
    ManifestConfig,
    PolicyConfig,
    PromotionConfig,
    RecorderConfig,
    RobotConfig,
    SafetyHeadConfig,
    SlowConfig,
    TrainingConfig,
    WorldHeadConfig,
)
from continuonbrain.config.load import edited_config, load_config, load_preset, parse_config

__all__ = [
    "LORA_TARGETS",
    "LORA_TARGETS_NOT_IN_SHARED_LAYERS",
    "BatteryGaugeConfig",
    "Bounds",
    "BrainConfig",
    "CameraConfig",
    "CloudConfig",
    "ConfigError",
    "DonkeyConfig",
    "GamepadConfig",
    "GatesConfig",
    "GuardsConfig",
    "HeadsConfig",
    "ManifestConfig",
    "PolicyConfig",
    "PromotionConfig",
    "PwmConfig",
    "RecorderConfig",
    "RobotConfig",
    "SafetyHeadConfig",
    "SlowConfig",
    "SteeringConfig",
    "StopButtonConfig",
    "ThrottleConfig",
    "TrainingConfig",
    "WorldHeadConfig",
    "edited_config",
    "load_config",
    "load_preset",
    "parse_config",
    "validate_config",
]
