"""A simulated car behind the dashboard's contract, in one thread: what the page is tried on without a brain.

The track, the car, the guard and the expert are the project's own; processes, trainer and adapter store are played.
"""

from __future__ import annotations

import copy
import io
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.robot.sim.robot import SimRobot
from continuonbrain.robot.sim.shifts import BASE
from continuonbrain.safety.guards import Guard, Limits
from continuonbrain.safety.reasons import Reason

DEADMAN_S = 0.2
LIMITS = Limits(throttle_min=-0.5, steering_rate_per_s=10.0, throttle_rate_per_s=5.0)


@dataclass
class Recorded:
    """An episode in memory; columns as `/v1/episodes/ID` gives them."""

    id: str
    instruction: str
    role: str
    started_unix_ms: int
    frames: list[bytes] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    bad: bool = False
    learned: bool = False

    @property
    def kind(self) -> str:
        return "lesson" if self.role.startswith("human") else "drive"

    @property
    def steps(self) -> int:
        return len(self.frames)


class FakeRobot:
    """Ticks 20 times a second. What a person does is set from outside under `lock`."""

    def __init__(self, seed: int = 7) -> None:
        self.lock = threading.RLock()
        self.car = SimRobot(BASE, track_seed=seed, seed=1)
        self.guard = Guard(LIMITS)
        self.mode, self.instruction = "park", "drive"
        self.hand = (0.0, 0.0, False)
        self.hand_at_s = -1e9
        self.tick = 0
        self.stopped_since_s: float | None = None
        self.frame: tuple[int, float, bytes] = (0, 0.0, b"")
        self.trail: list[tuple[float, float]] = []
        self.shot: dict[str, Any] = {}
        self.recording: Recorded | None = None
        self.episodes: list[Recorded] = []
        self._kept: list[Recorded] = []
        self._count = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join(2)

    def keep(self) -> None:
        """What is recorded now is what `reset` goes back to."""
        self._kept = copy.deepcopy(self.episodes)

    def reset(self) -> None:
        with self.lock:
            self.mode, self.instruction, self.recording = "park", "drive", None
            self.hand, self.hand_at_s = (0.0, 0.0, False), -1e9
            self.episodes = copy.deepcopy(self._kept)
            self.guard.release()
            self.car.fleet.place(instruction=["drive"])

    def let_go(self) -> None:
        """The hand is off: what a lost connection does at once."""
        with self.lock:
            self.hand_at_s = -1e9

    def record(self, on: bool, instruction: str = "drive") -> None:
        with self.lock:
            if on:
                self.instruction = instruction
                self.car.instruct(instruction)
                self.recording = self._new(instruction)
            elif self.recording is not None:
                if self.recording.steps:
                    self.episodes.insert(0, self.recording)
                self.recording = None

    def drive_ahead(self, instruction: str, steps: int = 120) -> None:
        """Record an expert's episode at once, before the thread begins."""
        self.mode = "teach"
        self.record(True, instruction)
        for _ in range(steps):
            self._one(time.monotonic() if self.tick == 0 else self._at_s + CONTROL_DT_S)
        self.record(False)
        self.mode = "park"
        self.guard.reset()

    def _new(self, instruction: str) -> Recorded:
        self._count += 1
        role = "autonomous" if self.mode == "autopilot" else "human_teleop"
        return Recorded(f"episode-{self._count:03d}", instruction, role, int(time.time() * 1000))

    def _kind(self, by_hand: bool) -> str:
        return "drive" if not by_hand else "correction" if self.mode == "assisted" else "lesson"

    def _run(self) -> None:
        due = time.monotonic()
        while not self._done.is_set():
            with self.lock:
                self._one(time.monotonic())
            due = max(due + CONTROL_DT_S, time.monotonic())
            self._done.wait(due - time.monotonic())

    def _one(self, now_s: float) -> None:
        self._at_s, exposed = now_s, time.time() * 1000
        seen = self.car.observe()
        out = io.BytesIO()
        Image.fromarray(np.asarray(seen.frame)).save(out, "JPEG", quality=80)
        steering, throttle, active = self.hand
        held = active and now_s - self.hand_at_s < DEADMAN_S
        by_hand = self.mode == "teleop" or (self.mode == "assisted" and held)
        if self.mode == "park":
            proposed: tuple[float, float] | None = (0.0, 0.0)
        elif by_hand:
            proposed = (steering, throttle)
        else:
            proposed = self.car.expert()
        guarded = self.guard.step(
            proposed,
            now_s=now_s,
            chunk_age_s=None,
            teleop_age_s=(0.0 if held or not by_hand else 1e9),
            requested_stop=Reason.INSTRUCTION_STOP if self.instruction == "stop" else None,
        )
        self.car.act(guarded.steering, guarded.throttle)
        self.tick += 1
        self.stopped_since_s = (self.stopped_since_s or now_s) if guarded.stopped else None
        risk = float(min(1.0, (self.car.lane_error_m / 0.4) ** 2))
        self.frame = (self.tick, exposed, out.getvalue())
        fleet = self.car.fleet
        self.trail = [*self.trail[-900:], (float(fleet.x[0]), float(fleet.y[0]))]
        reasons = [str(r) for r in guarded.reasons]
        self.shot = {
            "type": "tick", "mode": self.mode, "phase": "drive", "held": self.mode == "park",
            "by": "person" if by_hand else "policy", "tick": self.tick, "missed_ticks": 0,
            "speed_mps": round(float(seen.speed_mps or 0.0), 3), "instruction": self.instruction,
            "proposed": None if proposed is None else [round(v, 4) for v in proposed],
            "guarded": [round(guarded.steering, 4), round(guarded.throttle, 4)],
            "stopped": guarded.stopped, "emergency_stop": self.guard.emergency_stopped, "reasons": reasons,
            "safety_head": round(risk, 4), "fault": "", "adapter_sha256": "", "decision_ms": 31.0,
            "latency_ms": 84.0, "off_road": bool(fleet.off_road[0]),
            "recording": {
                "on": self.recording is not None and self.mode != "park",
                "as": "" if self.recording is None or self.mode == "park" else self._kind(by_hand),
                "episode": self.recording.id if self.recording else "",
                "steps": self.recording.steps if self.recording else 0,
                "able": True, "lessons": self.recording is not None, "drives": True,
            },
        }  # fmt: skip
        if self.recording is not None and proposed is not None and self.mode != "park":
            row = {
                "time_s": round(self.recording.steps * CONTROL_DT_S, 3), "steering": proposed[0],
                "throttle": proposed[1], "guarded_steering": guarded.steering,
                "guarded_throttle": guarded.throttle, "speed_mps": self.shot["speed_mps"], "reasons": reasons,
                "safety_head": risk, "surprise": abs(proposed[0]) * 0.3, "instruction": self.instruction,
                "source": "human_teleop_xr" if self.mode != "autopilot" else "autopilot",
            }  # fmt: skip
            for name, value in row.items():
                self.recording.columns.setdefault(name, []).append(value)
            self.recording.frames.append(out.getvalue())
