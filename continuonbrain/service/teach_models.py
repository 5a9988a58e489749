"""What the routes of episodes give and take."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from continuonbrain.loops.taught_by import Fate
from continuonbrain.service.drive_models import Instruction

EpisodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""A folder of the memory: no name that leads elsewhere."""
EpisodeKind = Literal["lesson", "simulated lesson", "correction", "drive"]
"""What it was recorded as: a person's driving, the simulator's teacher's, a person's in Assisted, the autopilot's."""
Numbers = list[float | None]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class FindingOut(_Model):
    """What the doctor found. severity: error, warning or info."""

    severity: str
    problem: str
    remedy: str


class EpisodeOut(_Model):
    """One finished episode. role: as in its metadata, a person's begins with "human"; kind: what it was
    recorded as; learned: an adapter that passed
    its verdict was taught by it; fate: what became of it in training (`loops/taught_by.py`); findings: null while the
    doctor has not looked yet."""

    id: str
    instruction: str
    role: str
    kind: EpisodeKind
    steps: int
    seconds: float
    started_unix_ms: int
    bad: bool
    learned: bool
    fate: Fate
    findings: list[FindingOut] | None
    thumbnail: str


class EpisodesOut(_Model):
    """The newest first. taught: of all, those that a person drove and nobody marked; min_episodes: how many a training
    needs."""

    episodes: list[EpisodeOut]
    taught: int
    min_episodes: int


class EpisodeColumns(_Model):
    """An episode's steps, a list for each value; null where it is not known. time_s: since the first step; steering,
    throttle: proposed; guarded_...: sent to the actuators."""

    id: str
    steps: int
    time_s: list[float]
    steering: Numbers
    throttle: Numbers
    guarded_steering: list[float]
    guarded_throttle: list[float]
    speed_mps: Numbers
    reasons: list[list[str]]
    safety_head: Numbers
    surprise: Numbers
    instruction: list[str]
    source: list[str]


class EpisodeChange(_Model):
    """instruction: what all of it was driven to; bad: nobody learns from it. At least one of them."""

    instruction: Instruction | None = None
    bad: bool | None = None


class EpisodeChanged(_Model):
    """The episode as it is now."""

    id: str
    instruction: str
    bad: bool


class RecordingOut(_Model):
    """What is recorded from now on, or is not any more."""

    on: bool
    what: str
    instruction: str | None
