"""A simulated robot's life: it is taught, stands still until something was learned, drives by itself, and again.

What it has learned in an earlier run drives first; every lesson is on tracks that no lesson of this root was on. Once a
person has taken part it does what they say instead, until they hand it back (`in_hand.py`).
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from typing import Any, Protocol

from continuonbrain.errors import BrainError, told_from
from continuonbrain.loops.teach import lessons, record_expert
from continuonbrain.rlds.marking import TRACK_TAG
from continuonbrain.rlds.reader import list_episodes, read_metadata
from continuonbrain.rlds.writer import METADATA_FILE
from continuonbrain.robot.sim.shifts import World
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.layout import BrainLayout

log = logging.getLogger("continuonbrain.control")

_TEACH_TRACKS = 30_000
_TRACKS_OF_A_SEED = 1000
_LESSONS = 16
_PARK_S = 150.0
_LONGEST_PARK_S = 900.0
_DRIVE_S = 60.0
_RETRY_S = 15.0
_TEACH_BYTES = 32 * 2**20
"""More than the sixteen episodes of a lesson take."""


class Interrupted(Exception):
    """A signal came while something longer than a tick was going on."""


class _PutDown(Exception):
    """A person took part during a lesson; what was driven of it is kept."""


class Driven(Protocol):
    """What a life needs of the process that drives: its ticks, and what a person asked of it."""

    @property
    def stopping(self) -> bool:
        """Whether a signal came."""
        ...

    @property
    def taken(self) -> bool:
        """Whether a person has taken part, and has not handed it back."""
        ...

    def enter(self, *, driving: bool) -> None:
        """Drive from the next tick on, or stand; where a person has said which, that."""
        ...

    def tick_until(self, over: Callable[[], bool]) -> None:
        """Tick until told to stop or `over`, which is asked at every tick."""
        ...

    def taught(self) -> None:
        """A step of a lesson was driven."""
        ...


class SimulatedLife:
    """The phases of a life: "teach", "park", "drive", which is also that a person says what it does. Public attributes
    are read by the status thread.

    Args:
        seed: other lessons; tracks of different seeds do not meet before a thousand lessons.
        put_back: puts the car onto its lane, as its owner would before it is to drive by itself.
    """

    def __init__(
        self,
        layout: BrainLayout,
        world: World,
        *,
        shift: str,
        seed: int,
        limits: Limits,
        driven: Driven,
        put_back: Callable[[], None] = lambda: None,
    ) -> None:
        self._layout, self._world, self._shift = layout, world, shift
        self._first_track = _TEACH_TRACKS + _TRACKS_OF_A_SEED * seed
        self._limits, self._driven, self._put_back = limits, driven, put_back
        self.phase = "park"
        self.lesson = (0, 0)
        """Steps of the newest lesson that were driven, and how many it has."""
        self.rounds = 0
        self.fault = ""
        self._anew = False

    def live(self, until: float | None) -> None:
        """Until a signal or `until` (monotonic seconds). Raises `Interrupted` out of a lesson."""

        def over() -> bool:
            return self._driven.stopping or (until is not None and time.monotonic() >= until)

        def ends() -> bool:
            return over() or self._driven.taken or self._anew

        # Lessons that were being learned when the last run ended come first: others would have it start over.
        first = "park" if self._layout.training_state_path.exists() else "teach"
        if first == "teach" and self._current_link():
            first = "drive"
        while not over():
            if self._anew:
                self._anew, first = False, "teach"
            if self._driven.taken:
                self.fault = ""
                self._enter("drive")
                self._driven.tick_until(lambda: over() or self._anew or not self._driven.taken)
                continue
            try:
                if first == "teach":
                    self._enter("teach")
                    self._teach(over)
            except _PutDown:
                continue
            except OSError as error:
                # Parked with its reason shown, the robot can be mended; dying would only be repeated.
                why = told_from(error) or error
                self.fault = f"teaching failed, parked and trying again in {_RETRY_S:g} s: {why}"
                log.error("%s", self.fault)
                self._enter("park")
                failed = time.monotonic()
                self._driven.tick_until(lambda: ends() or time.monotonic() - failed >= _RETRY_S)  # noqa: B023
                continue
            self.fault = ""
            if first != "drive":
                self._enter("park")
                learned, enough = self._something_learned(), self._parked_enough()
                self._driven.tick_until(lambda: ends() or learned() or enough())  # noqa: B023
                if ends():
                    continue
            first = "teach"
            self._enter("drive")
            began = time.monotonic()
            self._driven.tick_until(lambda: ends() or time.monotonic() - began >= _DRIVE_S)  # noqa: B023
            self.rounds += not ends()

    def teach_again(self) -> None:
        """Go on with being taught; from `Driven.taught` or a tick."""
        self._anew = self.phase != "teach"

    def _enter(self, phase: str) -> None:
        self.phase = phase
        if phase == "drive" and not self._driven.taken:
            self._put_back()  # what stands off the road since before it learned says nothing of what was learned
        self._driven.enter(driving=phase == "drive")

    def _teach(self, over: Callable[[], bool]) -> None:
        def progress(done: int, total: int) -> None:
            self.lesson = (done, total)
            self._driven.taught()
            if over():
                raise Interrupted
            if self._driven.taken:
                raise _PutDown

        free = shutil.disk_usage(self._layout.root).free
        if free < _TEACH_BYTES:  # sixteen torn episodes at every attempt would only fill it further
            told = f"the disk of {self._layout.root} is full: {free / 2**20:.1f} MiB free, a lesson needs "
            raise OSError(errno.ENOSPC, f"{told}{_TEACH_BYTES / 2**20:.0f} MiB")
        record_expert(
            self._layout.episodes_dir,
            self._world,
            instructions=lessons(_LESSONS),
            seed=self._next_tracks(),
            limits=self._limits,
            environment=f"sim/{self._shift}",
            on_progress=progress,
        )

    def _next_tracks(self) -> int:
        """The first track after those of the lessons on disk: a second run must not teach the same again."""
        first, taken = self._first_track, self._first_track
        for path in list_episodes(self._layout.episodes_dir):
            try:
                tags = read_metadata(path / METADATA_FILE).tags
            except (BrainError, OSError):
                continue  # damaged: others name it
            for tag in tags:
                number = tag.removeprefix(TRACK_TAG)
                if number != tag and number.isdecimal() and first <= int(number) < first + _TRACKS_OF_A_SEED:
                    taken = max(taken, int(number) + 1)
        return taken

    def _parked_enough(self) -> Callable[[], bool]:
        """A question for every tick: does the robot drive on although nothing was learned?"""
        parked = asked_s = time.monotonic()

        def enough() -> bool:
            nonlocal asked_s
            now = time.monotonic()
            if now - parked < _PARK_S or now - asked_s < 1.0:
                return False
            asked_s = now
            return drives_on(now - parked, str(self._sidecar_status().get("phase")))

        return enough

    def _something_learned(self) -> Callable[[], bool]:
        """A question for every tick: was an adapter promoted, or a candidate refused, since now?"""
        current, candidate = self._current_link(), self._sidecar_status().get("candidate")
        asked_s = time.monotonic()

        def learned() -> bool:
            nonlocal asked_s
            if time.monotonic() - asked_s < 1.0:
                return False
            asked_s = time.monotonic()
            if self._current_link() != current:
                return True
            status = self._sidecar_status()
            verdict = status.get("verdict")
            refused = isinstance(verdict, dict) and verdict.get("passed") is False
            return refused and status.get("candidate") != candidate

        return learned

    def _current_link(self) -> str:
        try:
            return os.readlink(self._layout.current)
        except OSError:
            return ""

    def _sidecar_status(self) -> dict[str, Any]:
        try:
            value = json.loads(self._layout.status_path.read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}


def drives_on(parked_s: float, phase: str) -> bool:
    """Whether a simulated robot that has been parked for so long drives on while the sidecar is in `phase`. Not while
    something is learned: leaving then would only close the gate, and the road is not known yet."""
    working = phase in ("read", "cache", "train", "reflex", "judge")
    return parked_s >= (_LONGEST_PARK_S if working else _PARK_S)
