"""What the routes of learning give and take."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)


class GateOut(_Model):
    """One gate. value: what it was decided on, null when there was no usable one."""

    name: str
    open: bool
    value: float | None
    reason: str


class SpentOut(_Model):
    """used: today; limit: of a day, null where there is none."""

    used: float
    limit: float | None


class BudgetOut(_Model):
    """What learning costs today; reason: in words."""

    energy_wh: SpentOut
    write_mib: SpentOut
    reason: str


class TrainingOut(_Model):
    """The trainer as it last told, and what it may do. running: a trainer process is alive; paused: by a person;
    wanted: a person asked for a training that has not begun; said: the answer to who asked just now, or what a wish
    waits for; loss_steps: the steps of `losses`; part, parts: of judging, the measurement that runs, of how many;
    seconds_left: of the steps, by how the last went and by max_wall_time_s, null when nothing trains; short: what of
    the newest training had no time, "" where nothing did; holds: the trainer reads the episodes, which can be neither
    relabelled nor deleted meanwhile."""

    kind: str
    phase: str
    detail: str
    step: int
    steps: int
    loss: float | None
    losses: list[float]
    loss_steps: list[int]
    part: int
    parts: int
    candidate: str
    episodes: int
    left_out: list[str]
    running: bool
    paused: bool
    wanted: bool
    said: str
    seconds_left: float | None
    short: str
    holds: bool
    budget: BudgetOut
    gates: list[GateOut]


class TrainingIn(_Model):
    """start: learn now, also when nothing is new; pause: learn no more until resume."""

    action: Literal["start", "pause", "resume"]


class PromoteIn(_Model):
    """again: although it was taken back while on probation: a person's decision."""

    again: bool = False


class DrivesIn(_Model):
    """drives: the adapter that the person saw driving; where another one drives by now nothing is changed. Absent:
    whichever drives."""

    drives: str | None = None


class PromotionOut(_Model):
    """Whether an adapter could be promoted as things stand. reason, remedy: why not, "" when it could; again: it could
    only because a person says so although it was taken back."""

    may: bool
    again: bool
    reason: str
    remedy: str


class ChangedOut(_Model):
    """What drives now: its id, "" for the base alone. running: a policy process is there; noticed: it uses it."""

    id: str
    sha256: str
    noticed: bool
    running: bool
    detail: str


class HistoryEntryOut(_Model):
    """One change of what drives. from, to: ids, "" for the base alone; by: person, probation, or "" where nobody said;
    episodes: what the adapter was taught by; verdict: of a promotion, in short."""

    at_unix_s: float
    event: str
    from_: str = Field(alias="from")
    to: str
    by: str
    reason: str
    episodes: list[str]
    verdict: dict[str, Any] | None


class HistoryOut(_Model):
    """All changes, oldest first. problem: what is wrong with the chain, "" when nothing is."""

    entries: list[HistoryEntryOut]
    problem: str


class RolloutsOut(_Model):
    """A lap before and after, metres; completion: share of the lap."""

    track: list[tuple[float, float]]
    half_m: float
    before: list[tuple[float, float]]
    after: list[tuple[float, float]]
    completion_before: float
    completion_after: float
    before_id: str
    after_id: str
