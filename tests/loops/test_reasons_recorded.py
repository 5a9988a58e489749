"""Why the guard came in is in the recorded step: through the real fast loop, recorder and reader."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.loops.fast import FastLoop
from continuonbrain.loops.policy_client import Answer
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.pilot import Pilot
from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.robot.protocol import Observation
from continuonbrain.safety.guards import Limits

FRAME = np.zeros((120, 160, 3), np.uint8)
TICKS = 40


class Body:
    """A robot that stands still; its camera fails at looks 30 to 32."""

    looks = 0

    def observe(self) -> Observation:
        self.looks += 1
        if 30 <= self.looks <= 32:
            raise OSError("the camera is gone")
        return Observation(FRAME, 0.0, 0.0, time.monotonic())

    def act(self, steering: float, throttle: float) -> None:
        pass

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


class Nobody:
    """A policy that never answers: a person drives."""

    def offer(
        self,
        frame: NDArray[np.uint8],
        instruction: str,
        speed_mps: float | None,
        observed_s: float,
        *,
        keep: bool = False,
    ) -> bool:
        return True

    def poll(self) -> list[Answer]:
        return []


@dataclass
class Person:
    """Full lock from the start, more than full from the tenth command on, silent from the twentieth."""

    commands: int = 0

    def __call__(self) -> tuple[tuple[float, float], float]:
        self.commands += 1
        age_s = 9.0 if 20 <= self.commands < 25 else 0.0
        return (1.0 if self.commands < 10 else 7.0, 0.2), age_s


def test_each_intervention_lands_in_the_metadata_of_its_step(tmp_path: Path) -> None:
    def open_recorder(instruction: str, _source: str, _kind: str) -> EpisodeRecorder:
        metadata = EpisodeMetadata("trainer", "human_teleop", "test", (), Software())
        return EpisodeRecorder(tmp_path, metadata=metadata)

    seen: list[tuple[str, ...]] = []
    loop = FastLoop(
        Body(),
        Pilot(
            calibration=Calibration(),
            limits=Limits(steering_max=0.9, steering_rate_per_s=8.0, steering_jerk_per_s2=60.0),
        ),
        Nobody(),
        hz=100.0,
        recorder_factory=open_recorder,
        mode="teleop",
        teleop=Person(),
    )
    loop.record("lessons", True)
    loop.run(lambda: loop.ticks >= TICKS, lambda tick: seen.append(tuple(map(str, tick.guarded.reasons))))
    report = loop.close()
    assert report.recorded_steps == TICKS
    (folder,) = tmp_path.iterdir()

    assert [step.reasons for step in open_episode(folder)] == seen
    happened = {reason for reasons in seen for reason in reasons}
    assert {"steering_bound", "steering_jerk", "deadman", "sensor_fault"} <= happened
    # As the ecosystem reads it: a key of step_metadata, in the lines on disk.
    lines = [json.loads(line) for line in (folder / "steps" / "000000.jsonl").read_text().splitlines()]
    on_disk = [line["step_metadata"] for line in lines]
    assert [notes["safety_violations"] for notes in on_disk] == [",".join(reasons) for reasons in seen]
