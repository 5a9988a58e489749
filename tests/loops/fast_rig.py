"""A fast loop on a clock that only moves when told, with a body, paths and a memory made for tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from continuonbrain.loops.fast import FastLoop, LoopTick
from continuonbrain.loops.loop_report import FastReport
from continuonbrain.loops.policy_client import Answer
from continuonbrain.loops.reflex_keeper import ReflexName
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.pilot import Pilot
from continuonbrain.rlds.step import Step
from continuonbrain.robot.protocol import Observation
from continuonbrain.safety.guards import Limits

PERIOD_S = 0.05
FRAME = np.zeros((120, 160, 3), np.uint8)


@dataclass
class Time:
    now_s: float = 100.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class Body:
    """A robot whose look takes `look_s(tick)` seconds. sent: commands; stops: how often it was stopped."""

    time: Time
    look_s: Callable[[int], float] = lambda _tick: 0.002
    broken: Callable[[int], str] = lambda _tick: ""
    speed_mps: float | None = 1.0
    sent: list[tuple[float, float]] = field(default_factory=list)
    looked_at_s: list[float] = field(default_factory=list)
    stops: int = 0

    def observe(self) -> Observation:
        tick = len(self.looked_at_s)
        self.looked_at_s.append(self.time.now_s)
        self.time.now_s += self.look_s(tick)
        fault = self.broken(tick)
        if fault == "old":
            return Observation(FRAME, 1.0, 0.0, self.time.now_s - 1.0)
        if fault == "small":
            return Observation(FRAME[:60], 1.0, 0.0, self.time.now_s)
        if fault and fault not in ("frozen", "frozen at rest"):
            raise OSError(fault)
        frame = FRAME.copy()
        frame[0, 0, 0] = 0 if fault else 1 + tick % 255  # a camera's noise
        return Observation(frame, 0.0 if fault == "frozen at rest" else self.speed_mps, 0.0, self.time.now_s)

    def act(self, steering: float, throttle: float) -> None:
        assert math.isfinite(steering)
        assert math.isfinite(throttle)
        self.sent.append((steering, throttle))

    def stop(self) -> None:
        self.stops += 1

    def close(self) -> None:
        self.stop()


@dataclass
class Paths:
    """Answers every offer one tick later, until `dies_at_s`; adapter and calibration can be changed."""

    time: Time
    adapter_sha256: str = "a" * 64
    calibration: Calibration = field(default_factory=Calibration)
    dies_at_s: float = math.inf
    pending: float | None = None
    offers: int = 0
    kept: list[int] = field(default_factory=list)
    reflex: ReflexName | None = None

    def offer(
        self,
        frame: NDArray[np.uint8],
        instruction: str,
        speed_mps: float | None,
        observed_s: float,
        *,
        keep: bool = False,
    ) -> bool:
        assert frame.shape == (120, 160, 3)
        self.pending = observed_s
        if keep:
            self.kept.append(int(observed_s * 1e9))
        self.offers += 1
        return True

    def poll(self) -> list[Answer]:
        observed_s, self.pending = self.pending, None
        if observed_s is None or self.time.now_s >= self.dies_at_s:
            return []
        intent = () if self.reflex is None else (0.25,) * 10
        chunk = ActionChunk((0.0,) * 8, (1.0, 1.0), observed_s, self.adapter_sha256, 5.0, intent)
        return [Answer(chunk, self.calibration, self.reflex)]


class Memory:
    """A recorder in memory."""

    dropped = 0
    fault = ""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def append(self, step: Step) -> bool:
        self.steps.append(step)
        return True

    def count_dropped(self, steps: int) -> None:
        self.dropped += steps

    def close(self) -> Path:
        return Path("episode")


@dataclass
class Rig:
    """A loop with its surroundings."""

    time: Time
    body: Body
    paths: Paths
    loop: FastLoop
    ticks: list[LoopTick] = field(default_factory=list)
    episodes: list[Memory] = field(default_factory=list)

    def run(self, ticks: int, on_tick: Callable[[LoopTick], None] = lambda _t: None) -> FastReport:
        end = self.loop.ticks + ticks

        def take(tick: LoopTick) -> None:
            self.ticks.append(tick)
            on_tick(tick)

        self.loop.run(lambda: self.loop.ticks >= end, take)
        return self.loop.close()


class Heads:
    """Gives a head that always bends as told, from the second asking on."""

    def __init__(self, bend: float) -> None:
        self.bend = bend
        self.missing: set[ReflexName] = set()
        self.asked: list[ReflexName] = []
        self.intents: list[float] = []

    def get(self, name: ReflexName) -> Any:
        self.asked.append(name)
        return self if len(self.asked) > 1 and name not in self.missing else None

    def curvatures(self, frames: NDArray[np.uint8], intents: NDArray[np.float32]) -> NDArray[np.float32]:
        assert frames.shape == (1, 120, 160, 3)
        self.intents += intents[0].tolist()
        return np.full((1, 8), self.bend, np.float32)


def rig(heads: Heads | None = None, *, pilot: Pilot | None = None, **body: Callable[[int], object]) -> Rig:
    time = Time()
    robot = Body(time, **body)  # type: ignore[arg-type]
    paths = Paths(time)
    episodes: list[Memory] = []

    def open_recorder(_instruction: str, _source: str, _kind: str) -> Memory:
        episodes.append(Memory())
        return episodes[-1]

    loop = FastLoop(
        robot,
        pilot or Pilot(calibration=Calibration(), limits=Limits(chunk_timeout_s=1.0)),
        paths,
        recorder_factory=open_recorder,
        reflexes=heads,
        clock=time.clock,
        sleep=time.sleep,
    )
    return Rig(time, robot, paths, loop, episodes=episodes)
