"""Assisted driving: the policy drives under a person's eyes, the person takes the wheel, the policy goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from continuonbrain.loops.fast import FastLoop
from continuonbrain.loops.loop_tick import LoopTick
from continuonbrain.loops.policy_client import Answer
from continuonbrain.loops.remote import RemoteControl
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.pilot import Pilot
from continuonbrain.rlds.step import SOURCE_AUTOPILOT, SOURCE_HUMAN, Step
from continuonbrain.robot.protocol import Observation
from continuonbrain.safety.guards import Limits


@dataclass
class World:
    """A clock, a car that goes straight, a policy that always answers, and what was recorded."""

    now_s: float = 100.0
    looks: int = 0
    sent: list[tuple[float, float]] = field(default_factory=list)
    asked: list[bool] = field(default_factory=list)
    episodes: list[tuple[str, list[Step]]] = field(default_factory=list)
    observed_s: float | None = None

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def observe(self) -> Observation:
        self.looks += 1
        frame = np.full((120, 160, 3), self.looks % 255, np.uint8)
        return Observation(frame, 1.0, 0.0, self.now_s)

    def act(self, steering: float, throttle: float) -> None:
        self.sent.append((steering, throttle))

    def stop(self) -> None: ...

    def close(self) -> None: ...

    def offer(
        self,
        _frame: object,
        _instruction: str,
        _speed: float | None,
        observed_s: float,
        *,
        keep: bool = False,
    ) -> bool:
        self.asked.append(keep)
        self.observed_s = observed_s
        return True

    def poll(self) -> list[Answer]:
        if self.observed_s is None:
            return []
        chunk = ActionChunk(
            curvature=(0.0,) * 8,
            speed=(1.0, 1.0),
            observed_s=self.observed_s,
            adapter_sha256="",
            decision_ms=1.0,
        )
        self.observed_s = None
        return [Answer(chunk, Calibration())]

    def open(self, _instruction: str, source: str, _kind: str) -> Recorder:
        self.episodes.append((source, []))
        return Recorder(self.episodes[-1][1])


@dataclass
class Recorder:
    steps: list[Step]
    dropped: int = 0
    fault: str = ""
    path: Path = Path("episode")

    def append(self, step: Step) -> bool:
        self.steps.append(step)
        return True

    def count_dropped(self, steps: int) -> None: ...

    def close(self) -> Path:
        return self.path


def drive(script: dict[int, dict[str, object]], ticks: int) -> tuple[World, list[LoopTick]]:
    """Messages from the first tick of each key on, at every tick; {} is silence."""
    world = World()
    remote = RemoteControl(clock=world.clock)
    loop = FastLoop(
        world,
        Pilot(calibration=Calibration(), limits=Limits()),
        world,
        recorder_factory=world.open,
        mode="assisted",
        teleop=remote,
        hand=remote.hand,
        clock=world.clock,
        sleep=world.sleep,
    )
    seen: list[LoopTick] = []
    saying: list[dict[str, object]] = [{}]

    def over() -> bool:
        saying[0] = script.get(loop.ticks, saying[0])
        if saying[0]:
            assert remote.take({"for_s": 0.2, **saying[0]}) == ""
        return loop.ticks >= ticks

    loop.run(over, seen.append)
    loop.close()
    return world, seen


WATCHES = {"steering": 0.0, "throttle": 0.0, "active": False}
DRIVES = {"steering": 0.5, "throttle": 0.25, "active": True}


def test_the_person_overrides_while_they_hold_the_wheel_and_the_policy_goes_on() -> None:
    world, ticks = drive({0: WATCHES, 40: DRIVES, 80: WATCHES}, 120)
    assert [t.mode for t in ticks] == ["autopilot"] * 40 + ["teleop"] * 40 + ["autopilot"] * 40
    assert ticks[39].guarded.steering == pytest.approx(0.0, abs=0.05)
    assert ticks[60].guarded[:2] == pytest.approx((0.5, 0.25))
    assert not any(t.guarded.stopped for t in ticks[5:])
    after = ticks[80]  # at once, on a path that was seen while the person drove
    assert after.chunk is not None
    assert after.now_s - after.chunk.observed_s < 0.15
    assert max(abs(t.guarded.steering) for t in ticks[90:]) < 0.1
    assert max(abs(b[0] - a[0]) for a, b in zip(world.sent, world.sent[1:], strict=False)) < 0.31  # 6/s


def test_an_override_is_an_episode_of_its_own_that_a_person_drove() -> None:
    world, _ = drive({0: WATCHES, 40: DRIVES, 80: WATCHES}, 120)
    assert [(source, len(steps)) for source, steps in world.episodes][1] == (SOURCE_HUMAN, 40)
    assert [source for source, _ in world.episodes] == [SOURCE_AUTOPILOT, SOURCE_HUMAN, SOURCE_AUTOPILOT]
    assert {s.source for s in world.episodes[1][1]} == {SOURCE_HUMAN}
    assert any(world.asked)
    assert not all(world.asked)


@pytest.mark.parametrize("before", [WATCHES, DRIVES])
def test_nobody_there_is_a_stop_and_not_an_autopilot_alone(before: dict[str, object]) -> None:
    _, ticks = drive({0: before, 40: {}, 60: WATCHES}, 80)
    gone = ticks[45:60]
    assert all(t.guarded.throttle == 0.0 and "deadman" in t.guarded.reasons for t in gone)
    first = next(t for t in ticks[40:] if "deadman" in t.guarded.reasons)
    assert first.now_s - ticks[39].now_s <= 0.25 + 1e-9
    assert not ticks[-1].guarded.stopped


def test_nobody_ever_there_is_a_stop_from_the_first_tick() -> None:
    world, ticks = drive({}, 20)
    assert all("deadman" in t.guarded.reasons for t in ticks)
    assert all(throttle == 0.0 for _, throttle in world.sent)
