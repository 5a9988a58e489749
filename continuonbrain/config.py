"""The brain's settings: `config.json` in the brain root, checked strictly before anything moves.

The flat keys are the ones that the robot's ecosystem already uses, and keep their names; the groups below
them (`robot`, `gates`, `guards`, ...) are this project's own. Three rules hold for every key:

- an unknown key is an error that names the nearest known one, never a silent default;
- a number is finite and inside its range; NaN and infinity are refused;
- a relative path is relative to the brain root.

Presets that show every key ship in `continuonbrain/configs/`.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from continuonbrain.configs import preset_bytes
from continuonbrain.errors import BrainError

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


class ConfigError(BrainError):
    """A setting is missing, misspelt, of the wrong kind or out of range.

    Attributes:
        source: the file (or preset) it stands in.
        key: dotted name of the setting, "" when the file as a whole is at fault.
        value: what was found there, None when nothing was.
    """

    def __init__(
        self, *, source: str, problem: str, key: str = "", value: object = None, remedy: str = ""
    ) -> None:
        where = f"{source}: {key}" if key else source
        shown = f" = {_shorten(value)}" if value is not None else ""
        super().__init__(f"{where}{shown}: {problem}", remedy=remedy)
        self.source = source
        self.key = key
        self.value = value


class _Group(BaseModel):
    """Strict, closed, immutable: the base of every group of settings."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Bounds = tuple[float, float]


class RobotConfig(_Group):
    """Which body the brain drives, and at which rates."""

    kind: Literal["sim-donkey", "donkey"] = "sim-donkey"
    control_hz: Annotated[float, Field(ge=1, le=200)] = 20.0
    decision_time_s: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Delay imposed on each policy decision, seconds: 0.75 imitates a Raspberry Pi 5."""
    shift: Annotated[str, Field(min_length=1)] = "none"
    """How the simulated robot differs from the one that the base was trained on."""


class GatesConfig(_Group):
    """When learning may run. Every reading must be present, finite and younger than `max_age_s`."""

    min_battery: Annotated[float, Field(ge=0, le=1)] = 0.4
    max_temp_c: Annotated[float, Field(ge=40, le=85)] = 75.0
    idle_s: Annotated[float, Field(ge=0)] = 60.0
    """How long the robot must have been standing still, seconds."""
    max_age_s: Annotated[float, Field(gt=0)] = 5.0
    """A reading older than this closes its gate, seconds."""
    dwell_s: Annotated[float, Field(ge=0, le=3600)] = 5.0
    """A gate that closed opens after all has been well for this long, seconds."""
    thermal_dwell_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """The same for heat, which comes back when work does."""
    max_memory_pressure: Annotated[float, Field(ge=0, le=100)] = 20.0
    """Percent of the time in which some task may wait for memory, where the kernel has PSI."""
    max_io_pressure: Annotated[float, Field(ge=0, le=100)] = 60.0
    """The same for disks."""
    require_docked: bool = False
    """Learn only while the robot is plugged in."""


class GuardsConfig(_Group):
    """Limits between the policy and the actuators, in actuator units ([-1, 1])."""

    steering_bounds: Bounds = (-1.0, 1.0)
    throttle_bounds: Bounds = (0.0, 0.5)
    steering_rate_per_s: Annotated[float, Field(gt=0)] = 8.0
    steering_jerk_per_s2: Annotated[float, Field(ge=0.1, le=1e6)] | None = None
    """Largest change of steering's rate, 1/s^2; null: not limited."""
    throttle_rate_per_s: Annotated[float, Field(gt=0)] = 2.0
    deadman_s: Annotated[float, Field(gt=0, le=10)] = 0.5
    """The robot stops when no command came for this long, seconds."""
    chunk_timeout_s: Annotated[float, Field(gt=0, le=30)] = 2.5
    """The robot stops when its latest action chunk is older than this, seconds."""

    @field_validator("steering_bounds", "throttle_bounds")
    @classmethod
    def _bounds_are_ordered_and_contain_rest(cls, bounds: Bounds) -> Bounds:
        low, high = bounds
        if not (-1.0 <= low <= 0.0 <= high <= 1.0 and low < high):
            raise ValueError("needs -1 <= low <= 0 <= high <= 1 and low < high, so that 0 (rest) is allowed")
        return bounds


class TrainingConfig(_Group):
    """What the ecosystem's flat keys do not say about a training job."""

    rank: Annotated[int, Field(ge=1, le=32)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    """Niceness of the trainer process: the control process must never wait for it."""
    cache_mib: Annotated[int, Field(ge=0, le=65536)] = 256
    """Disk for what the policy computed while a person drove, MiB; 0: the trainer computes all of it again."""
    reflex_steps: Annotated[int, Field(ge=0)] = 150
    """Steps of the reflex head, which carries the car between slow decisions; 0: no head travels with an adapter."""
    max_memory_mib: Annotated[int, Field(ge=256)] | None = None
    """The trainer's resident memory, MiB: no further samples are cached, or steps made, above it."""


class PolicyConfig(_Group):
    """What decides."""

    engine: Literal["auto", "torch", "litert"] = "auto"
    """`litert` needs the base's bundle in `serving/<precision>` of its folder (`continuonbrain model export`), and no
    torch in the policy process; `auto` takes it where both are there, and torch elsewhere."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Of the LiteRT bundle."""
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    """The other cores belong to control and trainer."""


class RecorderConfig(_Group):
    """How episodes are written."""

    sync_interval_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """A power cut loses at most this much, seconds."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    quota_mib: Annotated[int, Field(ge=16)] | None = 4096
    """What episodes may take of the disk; null for no limit. `max_episodes` bounds their number."""
    keep: Literal["promoted", "current", "nothing"] = "promoted"
    """Episodes that stay whatever the limits say: those that a promoted adapter's card names, those of the adapters
    that drive now, drove before or wait, or none."""


class PromotionConfig(_Group):
    """What a candidate must show. The first four keys are the ecosystem's SafetyGateConfig."""

    allow_promotion_without_eval: bool = False
    """Allow a verdict without closed-loop rollouts, where no simulator fits the robot's recordings."""
    avg_action_delta_threshold: Annotated[float, Field(gt=0, le=2)] = 0.25
    """Largest mean |action - recorded action| on held-out episodes."""
    max_eval_steps: Annotated[int, Field(ge=1)] = 1024
    eval_tail_episodes: Annotated[int, Field(ge=1)] = 8
    """At most so many episodes are held out of training and judged on: every eighth, from the newest back."""
    min_eval_episodes: Annotated[int, Field(ge=2, le=64)] = 4
    """With fewer held-out episodes recordings prove nothing: refused where no simulator fits the robot. A quarter of
    the lessons is held out until there are so many: sixteen lessons are enough for four."""
    max_completion_loss: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest drop in completed laps against what drives now."""
    max_forgetting: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Largest drop in completed laps on unshifted tracks."""
    max_harm: Annotated[float, Field(ge=0, le=1)] = 0.1
    """What a loss against what drives now may still be at the bad end of its 95 % interval."""
    min_stop_obeyed: Annotated[float, Field(ge=0, le=1)] = 1.0
    max_guard_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Largest share of steps on which the guard had to change the proposed action."""
    probation_ticks: Annotated[int, Field(ge=0, le=10**9)] = 4000
    """Control ticks that a promoted adapter must have driven before it is confirmed."""
    probation_minutes: Annotated[float, Field(ge=0, le=100_000)] = 5.0
    """Minutes that it must have driven, too, standing still not counted. Both 0: no probation."""
    probation_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """Starts of the policy process on probation; one more takes the adapter back."""
    max_takeovers_per_min: Annotated[float, Field(gt=0, le=60)] = 1.0
    """A person driving on by hand. Each of these limits holds where the adapter before has driven too little to say;
    a quarter of it is accepted always."""
    max_off_road_per_min: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Where the robot knows it: in the simulator."""
    max_stops_per_min: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Seconds in which there was no fresh or no usable path."""
    max_blocks_per_min: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Seconds in which the safety head or the world head stopped the robot."""
    max_warnings_per_min: Annotated[float, Field(gt=0, le=60)] = 20.0
    """Seconds in which the safety head slowed it."""
    max_corrections_per_min: Annotated[float, Field(gt=0, le=60)] = 30.0
    """Seconds in which the guard changed a command."""

    @model_validator(mode="after")
    def _enough_can_be_held_out(self) -> PromotionConfig:
        if self.eval_tail_episodes < self.min_eval_episodes:
            raise ValueError(
                f"eval_tail_episodes ({self.eval_tail_episodes}) must not be below min_eval_episodes "
                f"({self.min_eval_episodes}), or no recording could ever be enough"
            )
        return self


class WorldHeadConfig(_Group):
    """The head that foresees where a new path leads and refuses one that leads off the road. Needs the safety head, and
    an edge build (`continuonbrain model build-world`). Off until it earns its place: see docs/architecture.md."""

    enabled: bool = False


class SafetyHeadConfig(_Group):
    """The head that watches where the car is going. Its thresholds go into the manifest, from where they are read."""

    enabled: bool = True
    warn_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """From this probability of leaving the road on the car goes slower."""
    block_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """From this one on it stops."""

    @model_validator(mode="after")
    def _warns_before_it_blocks(self) -> SafetyHeadConfig:
        if not self.warn_threshold < self.block_threshold:
            raise ValueError(
                f"warn_threshold ({self.warn_threshold}) must be below block_threshold ({self.block_threshold})"
            )
        return self


class HeadsConfig(_Group):
    """Heads beside the policy."""

    safety: SafetyHeadConfig = SafetyHeadConfig()
    world: WorldHeadConfig = WorldHeadConfig()

    @model_validator(mode="after")
    def _the_world_head_has_grids_to_read(self) -> HeadsConfig:
        if self.world.enabled and not self.safety.enabled:
            raise ValueError(
                "heads.world.enabled needs heads.safety.enabled: the world head reads the safety head's grids"
            )
        return self


class CloudConfig(_Group):
    """Nothing leaves the robot unless a person sets `opt_in`."""

    opt_in: bool = False


class ManifestConfig(_Group):
    """What `model/manifest.json` tells an app about the base model and the runtime meant for it."""

    model_name: Annotated[str, Field(min_length=1)] = "continuonbrain-tiny-gemma3n"
    engine: Annotated[str, Field(min_length=1)] = "torch"
    backend: Annotated[str, Field(min_length=1)] = "cpu"
    quantization: Annotated[str, Field(min_length=1)] = "none"


class BrainConfig(_Group):
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
    power: Literal["battery", "mains"] = "battery"
    """`mains` means that there is no battery to read: a configuration, never a missing reading."""
    battery: Literal["gauge", "none"] = "gauge"
    """`none` means that nothing tells the charge of this robot's battery (a power bank): learning then does not wait
    for it, and only the firmware's under-voltage bit shows that it runs low."""
    gates: GatesConfig = GatesConfig()
    guards: GuardsConfig = GuardsConfig()
    policy: PolicyConfig = PolicyConfig()
    training: TrainingConfig = TrainingConfig()
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
                    f"{name!r} is not a LoRA target{_did_you_mean(name, known)}; known: {', '.join(LORA_TARGETS)}"
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


def load_config(path: Path) -> BrainConfig:
    """Read and check a `config.json`.

    Raises:
        ConfigError: missing or unreadable file, invalid JSON (with line and column), unknown key, wrong
            kind of value, value out of range.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(
            source=str(path),
            problem="there is no such file",
            remedy="create a brain root with: continuonbrain init --root DIR",
        ) from error
    except OSError as error:
        raise ConfigError(
            source=str(path), problem=f"cannot be read: {error.strerror}", remedy="check its permissions"
        ) from error
    return parse_config(raw, source=str(path))


def load_preset(name: str) -> BrainConfig:
    """The settings of a preset that ships with the package.

    Raises:
        UnknownPresetError: no preset has this name.
    """
    return parse_config(preset_bytes(name), source=f"preset {name}")


def parse_config(raw: bytes, *, source: str) -> BrainConfig:
    """Check the JSON text of a config. `source` names it in errors. Raises ConfigError."""

    def refuse_repeated_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
        seen: dict[str, object] = {}
        for key, value in pairs:
            if key in seen:
                raise ConfigError(source=source, key=key, problem="is given twice", remedy="keep one of them")
            seen[key] = value
        return seen

    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=refuse_repeated_keys)
    except UnicodeDecodeError as error:
        raise ConfigError(
            source=source, problem=f"is not UTF-8 text (byte {error.start})", remedy="save it as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            source=source,
            problem=f"is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}",
            remedy="mend that line (JSON has no comments and no trailing commas)",
        ) from error
    except RecursionError as error:
        raise ConfigError(source=source, problem="is nested too deeply") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise ConfigError(
            source=source,
            problem=f"holds a number that is too long: {error}",
            remedy="write a shorter number",
        ) from error
    return validate_config(data, source=source)


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
            remedy=_nearest_setting(loc) or f"known here: {', '.join(sorted(_fields_at(loc[:-1])))}",
        )
    problem = message.removeprefix("Value error, ")
    return ConfigError(
        source=source, key=key, value=value, problem=_lower_first(problem), remedy="correct this setting"
    )


def _nearest_setting(loc: tuple[int | str, ...]) -> str:
    """'did you mean X?': this very name in another group first, then one like it in its own group, then anywhere."""
    name = str(loc[-1])
    prefix = "".join(f"{part}." for part in loc[:-1])
    by_leaf = {dotted.rsplit(".", 1)[-1]: dotted for dotted in _all_settings(BrainConfig)}
    if name in by_leaf:
        return f"did you mean {by_leaf[name]}?"
    here = difflib.get_close_matches(name, _fields_at(loc[:-1]), n=1, cutoff=0.6)
    if here:
        return f"did you mean {prefix}{here[0]}?"
    anywhere = difflib.get_close_matches(name, by_leaf, n=1, cutoff=0.6)
    return f"did you mean {by_leaf[anywhere[0]]}?" if anywhere else ""


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = BrainConfig
    for part in loc:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def _all_settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _all_settings(field.annotation, f"{prefix}{name}.")


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


def _did_you_mean(name: str, known: tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _shorten(value: object, limit: int = 80) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python's limit on the digits of an integer
        text = "a number of thousands of digits"
    return text if len(text) <= limit else text[: limit - 3] + "..."
