"""Which faults there are, when they may come, and in which order: pure, from a seed."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

ANY = "any"
PATH_LIMIT_S, DEADMAN_S = 2.5, 0.5
"""The preset's `guards.chunk_timeout_s` and `deadman_s`."""
_MOST_MPS = 1.5
"""A broken speed sensor is not believed, and the car goes on by its commands; "drive" asks for 1 m/s."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    kind: kill (SIGKILL), end (SIGTERM), hang (SIGSTOP), camera, speed, host, disk, clock, disk and kill.
    target: a process, or how it is broken. when: the phase in which it may come. lasts_s: until it is mended.
    stops_s: within how many seconds a car that drives must have been commanded to stop; None where it may go on.
    killed: a hang does not end by itself, the supervisor has to see it. most_mps: what a car that may
    go on must not exceed.
    """

    kind: str
    target: str
    when: str = ANY
    lasts_s: float = 0.0
    stops_s: float | None = None
    killed: bool = False
    most_mps: float | None = None

    @property
    def name(self) -> str:
        """For people and for the report."""
        return f"{self.kind} {self.target}"


HANGS_S = {"control": 10.0, "policy": 15.0, "sidecar": 30.0}
"""The supervisor's patience in the soak, shorter than its own: a hang must not take up the day."""
_WATCHED_S = 5.0
CATALOGUE = (
    Fault("kill", "control"),
    Fault("kill", "control", "drive"),
    Fault("kill", "control", "teach"),
    Fault("kill", "policy", "drive"),
    Fault("kill", "policy", "probation"),
    Fault("kill", "policy", "train"),
    Fault("kill", "sidecar"),
    Fault("kill", "sidecar", "cache"),
    Fault("kill", "sidecar", "train"),
    Fault("kill", "sidecar", "judge"),
    Fault("kill", "sidecar", "promote"),
    Fault("kill", "sidecar", "consolidate"),
    Fault("kill", "service"),
    Fault("kill", "supervisor"),
    Fault("kill", "supervisor", "train"),
    Fault("kill", "supervisor", "probation"),
    Fault("end", "supervisor"),
    Fault("hang", "policy", "drive", 8.0, PATH_LIMIT_S + DEADMAN_S),
    Fault("hang", "policy", "drive", HANGS_S["policy"] + _WATCHED_S, PATH_LIMIT_S + DEADMAN_S, killed=True),
    Fault("hang", "sidecar", "train", 8.0),
    Fault("hang", "sidecar", "judge", HANGS_S["sidecar"] + _WATCHED_S, killed=True),
    Fault("hang", "control", ANY, 8.0),
    Fault("hang", "service", ANY, 5.0),
    Fault("camera", "raise", "drive", 6.0, DEADMAN_S),
    Fault("camera", "stale", "drive", 6.0, DEADMAN_S),
    Fault("camera", "stuck", "drive", 6.0, 2 * DEADMAN_S),
    Fault("camera", "slow", "drive", 6.0, 4 * DEADMAN_S),
    Fault("speed", "nan", "drive", 5.0, most_mps=_MOST_MPS),
    Fault("speed", "absurd", "drive", 5.0, most_mps=_MOST_MPS),
    Fault("speed", "stuck", "drive", 5.0, most_mps=_MOST_MPS),
    Fault("speed", "zero", "drive", 6.0, most_mps=_MOST_MPS),
    Fault("host", "heat absurd", "train", 9.0),
    Fault("host", "heat missing", "train", 9.0),
    Fault("host", "battery absurd", "train", 9.0),
    Fault("host", "stuck", "train", 14.0),
    Fault("disk", "full", ANY, 10.0),
    Fault("disk", "full", "teach", 10.0),
    Fault("disk", "full", "train", 10.0),
    Fault("disk", "full", "judge", 10.0),
    Fault("disk", "full", "consolidate", 10.0),
    Fault("disk and kill", "control", ANY, 10.0),
    Fault("disk and kill", "sidecar", ANY, 10.0),
    Fault("clock", "a day ahead", ANY, 15.0),
    Fault("clock", "a day back", ANY, 15.0),
)
_IMPATIENT_S = 20.0


class Plan:
    """Faults in the order of a seed. Each of the catalogue comes once before any comes again, but for those whose
    moment does not come: they wait, and the others begin anew."""

    def __init__(self, seed: int, *, mean_gap_s: float, without: Collection[str] = ()) -> None:
        self._chance = random.Random(seed)
        self._mean_gap_s = mean_gap_s
        self._catalogue = [fault for fault in CATALOGUE if fault.kind not in without]
        self._waiting: list[Fault] = []
        self._due_s: float | None = None

    def ready(self, now_s: float) -> None:
        """The system is well; the next fault is so many seconds away."""
        self._due_s = now_s + self._mean_gap_s * self._chance.uniform(0.5, 1.5)

    def next(self, now_s: float, phases: Collection[str]) -> Fault | None:
        """The fault of now. phases: of robot and sidecar."""
        if self._due_s is None or now_s < self._due_s:
            return None
        if not self._waiting:
            self._deal()
        fault = self._first(phases)
        if fault is None and now_s - self._due_s > _IMPATIENT_S:
            self._deal()
            fault = self._first(phases)
        if fault is not None:
            self._due_s = None
        return fault

    def _first(self, phases: Collection[str]) -> Fault | None:
        for index, fault in enumerate(self._waiting):
            if fault.when == ANY or fault.when in phases:
                return self._waiting.pop(index)
        return None

    def _deal(self) -> None:
        deck = [fault for fault in self._catalogue if fault not in self._waiting]
        self._chance.shuffle(deck)
        self._waiting += deck
