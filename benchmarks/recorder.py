"""What does recording cost the control loop, and how fast can the disk be used?

    python -m benchmarks.recorder [--seconds 20] [--dir DIR] [--json]

One process records frames of 120 x 160 as the control loop does: a step every 50 ms, JPEG at quality 90, fsync every
`SYNC_S`. Then steps come as fast as the recorder takes them, and everything is read back with its frames.

Keys:
  p99_append_ms        99 % of `append` calls took at most this long, at 20 Hz or at full speed, the larger (goal 2)
  max_append_ms        the longest
  cpu_share_at_20hz    CPU seconds of the whole process, recorder thread and all, per second at 20 Hz (goal 0.03)
  max_steps_per_s      steps written and synced per second
  read_steps_per_s     steps read back with CRCs checked and frames decoded; read_lines_per_s: without their frames
  dropped              steps not kept at 20 Hz (goal 0)
  bytes_per_step       on disk
DIR: the disk to measure; default: a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.rlds.reader import open_episode
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.step import Step
from continuonbrain.robot.sim.robot import SimRobot
from continuonbrain.robot.sim.shifts import world

HZ = 20.0
SYNC_S = 1.0
GOALS = {"p99_append_ms": 2.0, "cpu_share_at_20hz": 0.03}
_FLOOD = 3000


def drive(count: int) -> list[Any]:
    """Frames of a simulated drive: they compress as a road does, and not as noise."""
    robot = SimRobot(world("none"), track_seed=1, seed=0)
    seen = []
    for _ in range(count):
        seen.append(robot.observe().frame.copy())
        robot.act(*robot.expert())
    robot.close()
    return seen


def step(frame: Any, tick: int) -> Step:
    """A step as the control loop makes it."""
    return Step(
        command=(0.1, 0.3),
        source="autopilot",
        instruction="keep left",
        frame=frame,
        speed_mps=0.8,
        yaw_rate_rps=0.1,
        proposed=(0.12, 0.3),
        reasons=("steering_rate",),
        adapter_sha256="a" * 64,
        latency_ms=41.5,
        tick=tick,
        monotonic_ns=time.monotonic_ns(),
    )


def recorder(folder: Path, queue_size: int = 128) -> EpisodeRecorder:
    metadata = EpisodeMetadata("trainer", "autonomous", "benchmark", (), Software())
    return EpisodeRecorder(folder, metadata=metadata, sync_interval_s=SYNC_S, queue_size=queue_size)


def at_hz(folder: Path, seen: list[Any], seconds: float, *, quiet: bool) -> tuple[list[float], float, int]:
    """(milliseconds of every append, CPU share, dropped) of a drive at `HZ`."""
    appended: list[float] = []
    with recorder(folder) as records:
        began, cpu = time.perf_counter(), time.process_time()
        for tick in track(range(int(seconds * HZ)), "recording at 20 Hz", disable=quiet, transient=True):
            time.sleep(max(0.0, began + tick / HZ - time.perf_counter()))
            made = step(seen[tick % len(seen)], tick)
            started = time.perf_counter()
            records.append(made)
            appended.append((time.perf_counter() - started) * 1000)
        share = (time.process_time() - cpu) / (time.perf_counter() - began)
    return appended, share, records.dropped


def at_full_speed(folder: Path, seen: list[Any]) -> tuple[list[float], float, Path]:
    """(milliseconds of every append, steps per second until the last is synced, the episode)."""
    appended: list[float] = []
    began = time.perf_counter()
    with recorder(folder) as records:
        for tick in range(_FLOOD):
            made = step(seen[tick % len(seen)], tick)
            while True:
                started = time.perf_counter()
                taken = records.append(made)
                appended.append((time.perf_counter() - started) * 1000)
                if taken:
                    break
                time.sleep(0.001)
    return appended, _FLOOD / (time.perf_counter() - began), records.path


def read_back(path: Path) -> tuple[float, float]:
    """(steps with frames, lines) per second."""
    episode = open_episode(path)
    began = time.perf_counter()
    for index in range(len(episode)):
        episode.frame(index)
    with_frames = len(episode) / (time.perf_counter() - began)
    began = time.perf_counter()
    count = sum(1 for _ in episode)
    return with_frames, count / (time.perf_counter() - began)


def measure(folder: Path, seconds: float, *, quiet: bool) -> dict[str, Any]:
    """All of it, on the disk that holds `folder`."""
    seen = drive(200)
    slow, share, dropped = at_hz(folder, seen, seconds, quiet=quiet)
    fast, rate, path = at_full_speed(folder, seen)
    with_frames, lines = read_back(path)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return {
        "goals": GOALS,
        "p99_append_ms": round(max(float(np.percentile(t, 99)) for t in (slow, fast)), 4),
        "max_append_ms": round(max(*slow, *fast), 3),
        "cpu_share_at_20hz": round(share, 4),
        "max_steps_per_s": round(rate, 1),
        "read_steps_per_s": round(with_frames, 1),
        "read_lines_per_s": round(lines, 1),
        "dropped": dropped,
        "bytes_per_step": round(size / _FLOOD),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as name:
        found = measure(Path(name), arguments.seconds, quiet=arguments.json)
    good = all(found[name] <= goal for name, goal in GOALS.items()) and found["dropped"] == 0
    if arguments.json:
        print(json.dumps(found))
    else:
        Console(highlight=False).print(
            f"append: 99 % within {found['p99_append_ms']} ms, the longest {found['max_append_ms']} ms; at 20 Hz "
            f"{found['cpu_share_at_20hz']:.1%} of a core; {found['max_steps_per_s']:.0f} steps/s written, "
            f"{found['read_steps_per_s']:.0f} steps/s read with frames, {found['bytes_per_step']} bytes a step",
            soft_wrap=True,
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
