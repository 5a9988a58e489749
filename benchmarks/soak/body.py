"""The soak's simulated body: its camera, speed and machine can be broken, and it keeps a flight recorder.

Which parts are broken stands in a file that the benchmark replaces (`Broken`); the product knows nothing of it. The
flight recorder is a line a tick, written by the body itself outside of the brain root: what really reached the motors,
also where the disk is full and up to the last tick before a kill.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.loop_tick import LoopTick
from continuonbrain.loops.sim_body import SimBody
from continuonbrain.loops.sim_machine import SimulatedMachine
from continuonbrain.robot.host import HostReadings, Reading
from continuonbrain.robot.protocol import Observation, RobotFault
from continuonbrain.robot.sim.robot import SimRobot
from continuonbrain.robot.sim.shifts import world

WORK_VARIABLE = "CONTINUONBRAIN_SOAK"
BROKEN_FILE, FLIGHT_FILE = "broken.json", "flight.jsonl"
_SLOW_S = 0.4
_NONSENSE_MPS = {"nan": float("nan"), "absurd": 1e6, "zero": 0.0}


@dataclass(frozen=True, slots=True)
class Broken:
    """What is broken now; "" and 0 are whole.

    camera: raise, stale, stuck, slow. speed: nan, absurd, stuck, zero. host: see `_told`. clock_s: by how much the wall
    clock is off.
    """

    camera: str = ""
    speed: str = ""
    host: str = ""
    clock_s: float = 0.0


class BrokenFile:
    """Reads `Broken` again when the file was replaced; cheap enough for every tick."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._value = Broken()

    def now(self) -> Broken:
        """As it is now; the file is written by `write_broken` only."""
        try:
            stat = os.stat(self._path)
            if (stat.st_mtime_ns, stat.st_ino) != self._seen:
                self._value = Broken(**json.loads(self._path.read_bytes()))
                self._seen = (stat.st_mtime_ns, stat.st_ino)
        except FileNotFoundError:
            self._value, self._seen = Broken(), None
        return self._value


def write_broken(path: Path, broken: Broken) -> None:
    """Break parts, or mend them, in one step."""
    told = {name: getattr(broken, name) for name in ("camera", "speed", "host", "clock_s")}
    staging = path.with_suffix(".new")
    staging.write_text(json.dumps(told))
    os.replace(staging, path)


class FlightRecorder:
    """Appends lines; each is one write, so that a kill tears none."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def note(self, **line: Any) -> None:
        """One line. Numbers that are none become null."""
        os.write(self._file, (json.dumps(line) + "\n").encode())


class BreakableRobot(SimRobot):
    """A simulated car whose camera and speed sensor can be broken. sent: the last command that reached the motors."""

    broken: BrokenFile
    sent: tuple[float, float] = (0.0, 0.0)
    stopped_by: Callable[[], None] | None = None
    _kept: Observation | None = None

    def observe(self) -> Observation:
        now = self.broken.now()
        if now.camera == "raise":
            raise RobotFault("the camera gives no frame", remedy="broken by the soak")
        if now.camera == "slow":
            time.sleep(_SLOW_S)
            # The car does not wait: it goes on with the last command, as one with wheels would.
            for _ in range(round(_SLOW_S / self.fleet.period_s)):
                super().act(*self.sent)
        seen = super().observe()
        if now.camera not in ("stale", "stuck") and now.speed != "stuck":
            self._kept = seen
        kept = self._kept or seen
        if now.camera == "stale":
            return kept
        if now.camera == "stuck":  # the driver hands out its last buffer for ever, stamped anew
            seen = replace(seen, frame=kept.frame)
        if now.speed == "stuck":
            seen = replace(seen, speed_mps=kept.speed_mps)
        if now.speed in _NONSENSE_MPS:
            seen = replace(seen, speed_mps=_NONSENSE_MPS[now.speed])
        return seen

    def act(self, steering: float, throttle: float) -> None:
        self.sent = (steering, throttle)
        super().act(steering, throttle)

    def stop(self) -> None:
        self.sent = (0.0, 0.0)
        super().stop()
        if self.stopped_by is not None:
            self.stopped_by()


class BreakableMachine:
    """A simulated machine whose sensors can be broken."""

    def __init__(self, machine: SimulatedMachine, broken: BrokenFile) -> None:
        self._machine, self._broken = machine, broken
        self._kept: HostReadings | None = None

    def alive(self, *, driving: bool, teleop: bool = False) -> None:
        """See `SimulatedMachine`."""
        self._machine.alive(driving=driving, teleop=teleop)

    def read(self) -> HostReadings:
        """The readings as a broken sensor gives them."""
        told, how = self._machine.read(), self._broken.now().host
        if how != "stuck":
            self._kept = told
        return _told(told, how, self._kept or told)


def _told(told: HostReadings, how: str, kept: HostReadings) -> HostReadings:
    now = time.monotonic()
    if how == "heat absurd":
        return replace(told, cpu_temp_c=replace(told.cpu_temp_c, value=-240.0))
    if how == "heat missing":
        return replace(told, cpu_temp_c=Reading.missing("soak", "no answer", monotonic_s=now))
    if how == "battery absurd":
        return replace(told, battery_fraction=replace(told.battery_fraction, value=7.3))
    if how == "stuck":  # values and pulses of before, stamped anew
        return replace(
            told,
            **{
                name: replace(getattr(kept, name), monotonic_s=now)
                for name in ("battery_fraction", "cpu_temp_c", "idle_s", "teleop_active", "docked")
            },
        )
    return told


class SoakBody(SimBody):
    """A simulated car that can be broken, and writes down what it did."""

    def __init__(self, brain: BrainRoot, *, shift: str, track: int, seed: int, instruction: str) -> None:
        hz = brain.config.robot.control_hz
        super().__init__(
            world(shift),
            shift=shift,
            track=track,
            seed=seed,
            instruction=instruction,
            hz=hz,
            disk_path=brain.layout.root,
        )
        work = Path(os.environ[WORK_VARIABLE])
        broken = BrokenFile(work / BROKEN_FILE)
        self._flight = FlightRecorder(work / FLIGHT_FILE)
        self.car = BreakableRobot(world(shift), track_seed=track, seed=seed, period_s=1 / hz)
        self.car.broken = broken
        self.car.instruct(instruction)
        self.robot = self.car
        self.machine = BreakableMachine(self.machine, broken)  # type: ignore[assignment]
        self._pid = os.getpid()
        self._flight.note(t=time.monotonic(), pid=self._pid, what="open")
        self.car.stopped_by = self._note_stop
        self._mode = "park"

    def _note_stop(self) -> None:
        if self._mode != "park":  # a parked car is stopped at every tick
            self._mode = "park"
            self._flight.note(t=time.monotonic(), pid=self._pid, what="stop")

    def ticked(self, tick: LoopTick) -> None:
        """Write down what reached the motors."""
        super().ticked(tick)
        self._mode = tick.mode
        if tick.mode == "park" and tick.number % 20:
            return
        chunk, broken = tick.chunk, self.car.broken.now()
        self._flight.note(
            t=round(tick.now_s, 4),
            pid=self._pid,
            what="tick",
            mode=tick.mode,
            path_age=None if chunk is None else round(tick.now_s - chunk.observed_s, 4),
            seen=tick.observation is not None,
            throttle=round(float(np.nan_to_num(self.car.sent[1], nan=9.0)), 4),
            reasons=[str(r) for r in tick.guarded.reasons],
            speed=round(float(self.car.fleet.speed[0]), 4),
            laps=round(self.car.laps, 3),
            off=self.car.off_road,
            adapter=None if chunk is None else chunk.adapter_sha256[:8],
            camera=broken.camera,
            speed_sensor=broken.speed,
        )


def soak_body(brain: BrainRoot, *, simulated_life: bool, **options: Any) -> SoakBody:
    """What `open_body.body_of` is asked for."""
    return SoakBody(brain, **options)
