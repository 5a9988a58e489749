"""Teaching by driving: an expert teleoperates, every step goes through the guard into the recorder.

In the simulator the expert drives a whole fleet in lockstep, faster than real time, under an unsteady floor
(a disturbance on the wheels), so that the recordings also show how one comes back to the lane. The commands
recorded are the driver's; the disturbance is the world's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain import __version__
from continuonbrain.rlds.marking import TEACHER_TAG, TRACK_TAG
from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.step import Step
from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.instructions import BY_PHRASING
from continuonbrain.robot.sim.shifts import World
from continuonbrain.robot.sim.track import TrackSet
from continuonbrain.safety.guards import Guard, Limits

DISTURBANCE = 0.25
TELEOP_SOURCE = "human_teleop_xr"
Hand = Callable[[int, NDArray[np.float64]], NDArray[np.float64]]
"""Tick, the steering that each driver means `[cars]` -> the steering that their hands give."""

LESSONS = (
    ("drive",) * 6
    + ("drive slowly", "drive slowly")
    + ("drive fast", "drive fast")
    + ("keep left",) * 3
    + ("keep right",) * 3
)
"""What is taught in the first sixteen episodes. "drive slowly keep left", "... right" and "stop" never are."""


def lessons(episodes: int) -> list[str]:
    """Instructions for a number of episodes, in an order that mixes them."""
    order = [LESSONS[(i * 7) % len(LESSONS)] for i in range(len(LESSONS))]
    return [order[i % len(order)] for i in range(episodes)]


def episode_metadata(
    instruction: str, *, environment: str, tags: tuple[str, ...], robot_model: str
) -> EpisodeMetadata:
    """Metadata of an episode recorded now."""
    return EpisodeMetadata(
        xr_mode="trainer",
        control_role="human_teleop",
        environment_id=environment,
        tags=(*tags, f"instruction:{instruction}"),
        software=Software(continuonbrain_os=__version__),
        robot_model=robot_model,
        start_time_unix_ms=int(time.time() * 1000),
    )


def record_expert(
    episodes_dir: Path,
    world: World,
    *,
    instructions: Sequence[str],
    steps: int = 300,
    seed: int,
    limits: Limits,
    environment: str = "sim-donkey",
    hand: Hand = lambda _tick, steering: steering,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Path]:
    """Record one episode per instruction, all at once; returns the episode folders. hand: of drivers who err.

    Raises:
        OSError: the disk refused; some steps or episodes are lost.
    """
    n = len(instructions)
    tracks = TrackSet([seed + i for i in range(n)], replace(world, disturbance=DISTURBANCE))
    fleet = Fleet(tracks, np.arange(n), seed=seed)
    rng = np.random.default_rng([seed, 3])
    goals = [BY_PHRASING[i] for i in instructions]
    fleet.place(
        lateral_m=rng.uniform(-0.15, 0.15, n),
        heading_error=rng.uniform(-0.2, 0.2, n),
        speed_mps=rng.uniform(0, 1, n),
        instruction=[g.name for g in goals],
    )
    guards = [Guard(limits) for _ in range(n)]
    recorders: list[EpisodeRecorder] = []
    try:
        # Inside the try: those that could be opened must be closed.
        for i, instruction in enumerate(instructions):
            tags = (TEACHER_TAG, f"{TRACK_TAG}{seed + i}")
            recorders.append(
                EpisodeRecorder(
                    episodes_dir,
                    metadata=episode_metadata(
                        instruction, environment=environment, tags=tags, robot_model="sim-donkeycar"
                    ),
                    sync_interval_s=float("inf"),
                    queue_size=steps + 1,
                )
            )
        for tick in range(steps):
            steering, throttle = fleet.expert()
            steering = hand(tick, steering)
            frames = fleet.render()
            speed, yaw_rate = fleet.measured()
            now = tick * CONTROL_DT_S
            sent = np.empty((n, 2))
            for i, recorder in enumerate(recorders):
                proposed = (float(steering[i]), float(throttle[i]))
                guarded = guards[i].step(proposed, now_s=now, chunk_age_s=None, teleop_age_s=0.0)
                sent[i] = guarded.steering, guarded.throttle
                frame = frames[i]
                frame.flags.writeable = False
                recorder.append(
                    Step(
                        command=(guarded.steering, guarded.throttle),
                        source=TELEOP_SOURCE,
                        instruction=instructions[i],
                        frame=frame,
                        speed_mps=float(speed[i]),
                        yaw_rate_rps=float(yaw_rate[i]),
                        proposed=proposed,
                        reasons=guarded.reasons,
                        tick=tick,
                        monotonic_ns=int(now * 1e9),
                        frame_monotonic_ns=int(now * 1e9),  # drawn at the instant that was measured
                        wall_time_ms=int(time.time() * 1000),
                    )
                )
            fleet.step(sent[:, 0], sent[:, 1])
            on_progress(tick + 1, steps)
    finally:
        folders = [r.close() for r in recorders]
    for recorder in recorders:
        if recorder.dropped or recorder.fault:
            raise OSError(f"recording to {recorder.path} lost {recorder.dropped} steps: {recorder.fault}")
    return folders
