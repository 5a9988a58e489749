"""All settings of one brain, and their check."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from continuonbrain.config.donkey import DonkeyConfig
from continuonbrain.config.error import ConfigError
from continuonbrain.config.groups import (
    CloudConfig,
    GatesConfig,
    Group,
    GuardsConfig,
    HeadsConfig,
    ManifestConfig,
    PolicyConfig,
    PromotionConfig,
    RecorderConfig,
    RobotConfig,
    SlowConfig,
    TrainingConfig,
)
from continuonbrain.config.suggest import did_you_mean, fields_at, nearest_setting

LORA_TARGETS: tuple[str, ...] = (
    "q_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "per_layer_input_gate",
    "per_layer_projection",
    "linear_left",
    "linear_right",
    "modality_router",
)
"""What LoRA may sit on in Gemma 3n's KV-shared layers (PEFT target names)."""

LORA_TARGETS_NOT_IN_SHARED_LAYERS: tuple[str, ...] = ("k_proj", "v_proj")
"""Accepted because the ecosystem's configs name them; `continuonbrain train` says that they are left out."""

_MAX_INTEGER = 2**63


class BrainConfig(Group):
    """All settings of one brain. Immutable; `with_overrides` gives a checked copy."""

    rlds_dir: Annotated[str, Field(min_length=1)] = "rlds/episodes"
    min_episodes: Annotated[int, Field(ge=1)] = 16
    max_episodes: Annotated[int, Field(ge=1)] = 256
    max_steps: Annotated[int, Field(ge=1)] = 300
    max_wall_time_s: Annotated[float, Field(gt=0)] = 300.0
    batch_size: Annotated[int, Field(ge=1)] = 8
    lora_layers: tuple[str, ...] = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    adapters_out_dir: Annotated[str, Field(min_length=1)] = "model/adapters/candidate"
    adapter_filename: Annotated[str, Field(min_length=1)] = "lora_adapters.pt"
    log_dir: Annotated[str, Field(min_length=1)] = "trainer/logs"
    base_model_path: Annotated[str, Field(min_length=1)] = "model/base_model"
    shuffle_buffer_multiplier: Annotated[int, Field(ge=1)] = 2
    """One of the ecosystem's keys, without effect: batches are drawn from all samples, there is no buffer."""
    log_every_steps: Annotated[int, Field(ge=1)] = 10

    robot: RobotConfig = RobotConfig()
    donkey: DonkeyConfig = DonkeyConfig()
    power: Literal["battery", "mains"] = "battery"
    """`mains` means that there is no battery to read: a configuration, never a missing reading."""
    battery: Literal["gauge", "none"] = "gauge"
    """`none` means that nothing tells the charge of this robot's battery (a power bank): learning then does not wait
    for it, and only the firmware's under-voltage bit shows that it runs low."""
    gates: GatesConfig = GatesConfig()
    guards: GuardsConfig = GuardsConfig()
    policy: PolicyConfig = PolicyConfig()
    training: TrainingConfig = TrainingConfig()
    slow: SlowConfig = SlowConfig()
    recorder: RecorderConfig = RecorderConfig()
    promotion: PromotionConfig = PromotionConfig()
    heads: HeadsConfig = HeadsConfig()
    cloud: CloudConfig = CloudConfig()
    manifest: ManifestConfig = ManifestConfig()

    @field_validator("lora_layers")
    @classmethod
    def _lora_layers_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = LORA_TARGETS + LORA_TARGETS_NOT_IN_SHARED_LAYERS
        if not names:
            raise ValueError("names no layer, so there is nothing to train")
        if len(set(names)) != len(names):
            raise ValueError("names a layer twice")
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{name!r} is not a LoRA target{did_you_mean(name, known)}; known: {', '.join(LORA_TARGETS)}"
                )
        return names

    @field_validator("adapter_filename")
    @classmethod
    def _adapter_filename_is_a_plain_name(cls, name: str) -> str:
        if PurePosixPath(name).name != name or name.startswith("."):
            raise ValueError("must be a file name without a folder")
        return name

    @field_validator("adapters_out_dir")
    @classmethod
    def _adapters_out_dir_is_the_candidate_slot(cls, value: str) -> str:
        # The ecosystem points this key at the candidate slot; the store is the folder above it.
        if PurePosixPath(value).name != "candidate":
            raise ValueError("must end in /candidate: new adapters are staged there and promoted from there")
        return value

    @model_validator(mode="after")
    def _counts_and_times_fit_together(self) -> BrainConfig:
        if self.max_episodes < self.min_episodes:
            raise ValueError(
                f"max_episodes ({self.max_episodes}) must not be below min_episodes ({self.min_episodes})"
            )
        if self.guards.chunk_timeout_s <= self.robot.decision_time_s:
            raise ValueError(
                f"guards.chunk_timeout_s ({self.guards.chunk_timeout_s}) must exceed robot.decision_time_s "
                f"({self.robot.decision_time_s}), or every action chunk arrives too old to be driven"
            )
        return self

    def with_overrides(self, overrides: Mapping[str, object]) -> BrainConfig:
        """A copy with dotted keys replaced, checked as a file would be.

        Example: `config.with_overrides({"robot.decision_time_s": 0.75, "max_steps": 50})`.

        Raises:
            ConfigError: an unknown key or a value out of range.
        """
        data = self.model_dump(mode="json")
        for dotted, value in overrides.items():
            *groups, leaf = dotted.split(".")
            target: Any = data
            for group in groups:
                # An unknown group is created here and refused by the check below, which names it.
                target = target.setdefault(group, {})
                if not isinstance(target, dict):
                    raise ConfigError(
                        source="override", key=dotted, problem=f"is not a setting: {group} is not a group"
                    )
            target[leaf] = value
        return validate_config(data, source="override")


def validate_config(data: object, *, source: str) -> BrainConfig:
    """Check already parsed settings. Raises ConfigError for the first fault found."""
    if not isinstance(data, dict):
        raise ConfigError(source=source, problem=f"must be a JSON object, not {type(data).__name__}")
    for key, value in _unusable_numbers(data):
        raise ConfigError(
            source=source,
            key=key,
            value=value,
            problem="is not a finite number" if isinstance(value, float) else "is beyond 64 bits",
            remedy="give a plain number",
        )
    try:
        # Through JSON again, so that strict mode takes lists for tuples but still refuses "20" for 20.
        return BrainConfig.model_validate_json(json.dumps(data))
    except ValidationError as error:
        # An unknown key first: it is usually the cause of whatever else is wrong.
        faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        raise _config_error(faults[0]["loc"], faults[0]["type"], faults[0]["msg"], data, source) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(source=source, problem=f"holds something that is not JSON: {error}") from error


def _config_error(
    loc: tuple[int | str, ...], kind: str, message: str, data: dict[str, Any], source: str
) -> ConfigError:
    key = ".".join(str(part) for part in loc)
    value: Any = data
    for part in loc:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None
    if not loc:
        value = None
    if kind == "extra_forbidden":
        return ConfigError(
            source=source,
            key=key,
            problem="is not a known setting",
            remedy=nearest_setting(BrainConfig, loc)
            or f"known here: {', '.join(sorted(fields_at(BrainConfig, loc[:-1])))}",
        )
    problem = message.removeprefix("Value error, ")
    return ConfigError(
        source=source, key=key, value=value, problem=_lower_first(problem), remedy="correct this setting"
    )


def _unusable_numbers(data: object, prefix: str = "") -> Iterator[tuple[str, float | int]]:
    unusable_float = isinstance(data, float) and not math.isfinite(data)
    if unusable_float or (isinstance(data, int) and abs(data) > _MAX_INTEGER):
        assert isinstance(data, float | int)
        yield prefix, data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _unusable_numbers(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from _unusable_numbers(value, f"{prefix}.{index}")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
