"""What the routes of the machine give."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ProcessOut(_Model):
    """One process of this root. cpu: of one core since the last look, null at the first; restarts: null where nobody
    counts them."""

    name: str
    pid: int | None
    rss_mib: float | None
    cpu: float | None
    alive: bool
    restarts: int | None


class DiskOut(_Model):
    """Of the disk that the root is on."""

    free_mib: float | None
    total_mib: float | None


class BatteryOut(_Model):
    """percent: of full; charging: it is in its dock."""

    percent: float
    charging: bool


class SystemOut(_Model):
    """The machine now. profile: of the control loop's ticks, {} where none runs; temperatures: by name, Celsius."""

    processes: list[ProcessOut]
    profile: dict[str, Any]
    temperatures: dict[str, float | None]
    disk: DiskOut
    battery: BatteryOut | None


class LogOut(_Model):
    """The end of a log, oldest line first."""

    lines: list[str]


class CheckOut(_Model):
    """One check of the doctor. value: what was found; reason: what to do where it is not ok; needed: without it the
    robot is not fit."""

    name: str
    ok: bool
    value: str
    reason: str
    needed: bool


class DoctorOut(_Model):
    """All that `continuonbrain doctor` says."""

    healthy: bool
    checks: list[CheckOut]


class ExplainOut(_Model):
    """text: the last decision in words; tick: what they are made from."""

    text: str
    tick: dict[str, Any]
