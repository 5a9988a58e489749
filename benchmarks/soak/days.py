"""Days, nights and worlds of a soak: when each ends, and what is done to the system then.

A day is a life of the robot: it drives, is taught, learns, drives on what it learned. After every second day comes a
night: somebody parks it on its dock, for long enough that what is done only there can be done (consolidation). In the
morning the world is another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal

from benchmarks.soak.timeline import Timeline
from benchmarks.soak.watch import System
from continuonbrain.loops.drive_session import DriveError, command_control
from continuonbrain.storage.durable import write_json_durably

WORLDS = ("tape", "trim", "colour", "gain", "pitch", "throttle", "wheelbase")
"""Looks and servos."""
_DAYS_A_WORLD = 2
_NIGHT, _LONGEST_NIGHT = 1 / 3, 2.0
"""In days. It goes on while something is consolidated."""


class Days:
    """Call `turn` when the system is well. over: how many days have gone; world: the one of now; night: it is one."""

    def __init__(self, system: System, timeline: Timeline, *, seed: int, day_s: float, now_s: float) -> None:
        self._system, self._timeline, self._length_s = system, timeline, day_s
        self._worlds = list(WORLDS)
        random.Random(seed).shuffle(self._worlds)
        self._began_s = self._night_s = now_s
        self.over, self.night = 0, False
        self.world = self._worlds[0]
        self._set_world()

    def turn(self, now_s: float) -> str:
        """What has changed, in words; "" when nothing has. After "the world ..." control and sidecar come up anew."""
        if self.night:
            self._command("park")  # also a control process that came up meanwhile
            return self._morning(now_s) if self._night_is_over(now_s) else ""
        if not self._day_is_over(now_s):
            return ""
        self.over += 1
        self._began_s = now_s
        self._timeline.new_day()
        if self.over % _DAYS_A_WORLD:
            return f"day {self.over + 1}"
        self.night, self._night_s = True, now_s
        return f"night after day {self.over}"

    def _day_is_over(self, now_s: float) -> bool:
        """When the robot drives on what it learned today; at the latest when it was twice as long as planned."""
        length = now_s - self._began_s
        drives = "drive" in self._system.phases() and self._timeline.promoted_today
        return (length >= self._length_s and drives) or length >= 2 * self._length_s

    def _night_is_over(self, now_s: float) -> bool:
        length = (now_s - self._night_s) / self._length_s
        working = "consolidate" in self._system.phases()
        return length >= (_LONGEST_NIGHT if working else _NIGHT)

    def _morning(self, now_s: float) -> str:
        self.night, self._began_s = False, now_s
        self.world = self._worlds[self.over // _DAYS_A_WORLD % len(self._worlds)]
        self._set_world()
        self._command("teach")  # its life goes on by itself
        for name in ("control", "sidecar"):  # they read the world when they start
            if pid := self._system.pids().get(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        return f"the world is now {self.world!r}; day {self.over + 1}"

    def _command(self, mode: str) -> None:
        if self._system.control().get("held") is (mode == "park"):
            return
        with contextlib.suppress(DriveError):  # it is on its way up: at the next turn
            command_control(self._system.layout, {"type": "mode", "mode": mode}, timeout_s=1.0)

    def _set_world(self) -> None:
        path = self._system.layout.config_path
        settings = json.loads(path.read_bytes())
        settings["robot"]["shift"] = self.world
        write_json_durably(path, settings)
