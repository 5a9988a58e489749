"""The groups of settings below `BrainConfig`: this project's own keys, each with its range and its default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Group(BaseModel):
    """Strict, closed, immutable: the base of every group of settings."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Bounds = tuple[float, float]


class RobotConfig(Group):
    """Which body the brain drives, and at which rates."""

    kind: Literal["sim-donkey", "donkey"] = "sim-donkey"
    control_hz: Annotated[float, Field(ge=1, le=200)] = 20.0
    realtime_priority: Annotated[int, Field(ge=1, le=99)] | None = None
    """Of the control loop's thread under SCHED_FIFO; null: an ordinary thread with a high niceness."""
    cpu: Annotated[int, Field(ge=0, le=1023)] | None = None
    """The core that the control loop's thread stays on; null: any."""
    decision_time_s: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Delay imposed on each policy decision, seconds: 0.75 imitates a Raspberry Pi 5."""
    shift: Annotated[str, Field(min_length=1)] = "none"
    """How the simulated robot differs from the one that the base was trained on."""


class GatesConfig(Group):
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


class GuardsConfig(Group):
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


class TrainingConfig(Group):
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
    daily_energy_wh: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """What learning may take of the battery in a day, watt hours; null: no limit."""
    daily_write_mib: Annotated[float, Field(gt=0, le=10_000_000)] | None = None
    """What the trainer may write in a day, MiB, as an SD card wears out; null: no limit."""
    watts: Annotated[float, Field(gt=0, le=1000)] = 6.0
    """What the machine draws more while it trains, assumed: nothing measures it."""


class SlowConfig(Group):
    """The slow loop: what is done while the robot is docked."""

    enabled: bool = True
    reservoir_episodes: Annotated[int, Field(ge=8, le=4096)] = 64
    """Episodes that stand for all that there were, and are not forgotten: at most half of `max_episodes`. A quarter of
    them is never trained on."""
    after_promotions: Annotated[int, Field(ge=1, le=1000)] = 3
    """The fast adapter is consolidated when so many have been promoted since the last time."""
    every_h: Annotated[float, Field(gt=0, le=10_000)] = 20.0
    """Or when it has driven for so long, hours; the database check and the backup come as often."""
    backup_dir: Annotated[str, Field(min_length=1)] = "backups"
    """From the root, or a folder on another disk."""
    backups: Annotated[int, Field(ge=1, le=1000)] = 3


class PolicyConfig(Group):
    """What decides."""

    engine: Literal["auto", "torch", "litert"] = "auto"
    """`litert` needs the base's bundle in `serving/<precision>` of its folder (`continuonbrain model export`), and no
    torch in the policy process; `auto` takes it where both are there, and torch elsewhere."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Of the LiteRT bundle."""
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    """The other cores belong to control and trainer."""


class RecorderConfig(Group):
    """How episodes are written."""

    sync_interval_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """A power cut loses at most this much, seconds."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    quota_mib: Annotated[int, Field(ge=16)] | None = 4096
    """What episodes may take of the disk; null for no limit. `max_episodes` bounds their number."""
    keep: Literal["promoted", "current", "nothing"] = "promoted"
    """Episodes that stay whatever the limits say: those that a promoted adapter's card names, those of the adapters
    that drive now, drove before or wait, or none."""


class PromotionConfig(Group):
    """What a candidate must show. The first four keys are the ecosystem's SafetyGateConfig."""

    allow_promotion_without_eval: bool = False
    """Allow a verdict without closed-loop rollouts, where no simulator fits the robot's recordings."""
    avg_action_delta_threshold: Annotated[float, Field(gt=0, le=2)] = 0.25
    """Largest mean |action - recorded action| on held-out episodes."""
    max_eval_steps: Annotated[int, Field(ge=1)] = 1024
    eval_tail_episodes: Annotated[int, Field(ge=1)] = 8
    """At most so many episodes are held out of training and judged on: one of eight, from the newest back, of
    every instruction in its turn."""
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
    """Starts of the policy process on probation; each has the adapter driven for those ticks and minutes once more, and
    one more takes it back."""
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


class WorldHeadConfig(Group):
    """The head that foresees where a new path leads and refuses one that leads off the road. Needs the safety head, and
    an edge build (`continuonbrain model build-world`). Off until it earns its place: see docs/architecture.md."""

    enabled: bool = False


class SafetyHeadConfig(Group):
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


class HeadsConfig(Group):
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


class CloudConfig(Group):
    """Nothing leaves the robot unless a person sets `opt_in`. Nothing is sent even then: bundles are written."""

    opt_in: bool = False
    share_unmarked: bool = False
    """Whether an episode leaves whose `share` says nothing; false: only those that say yes
    (`continuonbrain episodes share`)."""
    frames: Literal["keep", "half", "none"] = "keep"
    """Of the camera, in the bundles of the outbox: as they are, at half the size, or none."""
    key: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")] | None = None
    """Which of this root's keys signs; null: the only one."""
    outbox_bundles: Annotated[int, Field(ge=1, le=1000)] = 3
    """So many may wait; then none is made until somebody has taken them away."""
    outbox_mib: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """At most so much of the memory goes into one of them, MiB; the next one takes the rest."""


class ManifestConfig(Group):
    """What `model/manifest.json` tells an app about the base model and the runtime meant for it."""

    model_name: Annotated[str, Field(min_length=1)] = "continuonbrain-tiny-gemma3n"
    engine: Annotated[str, Field(min_length=1)] = "torch"
    backend: Annotated[str, Field(min_length=1)] = "cpu"
    quantization: Annotated[str, Field(min_length=1)] = "none"
