"""Example values beside the code, for the tests of this room and of those above it."""

from __future__ import annotations

import numpy as np

from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.rlds.step import Step


def make_metadata_example(episode_id: str = "") -> EpisodeMetadata:
    """Metadata with every required key."""
    return EpisodeMetadata(
        xr_mode="trainer",
        control_role="human_teleop",
        environment_id="test/bench",
        tags=("test",),
        software=Software(continuonbrain_os="0.0"),
        episode_id=episode_id,
    )


def make_step_example(tick: int = 0, *, size: tuple[int, int] = (24, 32)) -> Step:
    """A step with every field set but the yaw rate; each third one was clamped. `size` is (height, width)."""
    y, x = np.mgrid[: size[0], : size[1]]
    frame = np.stack([x * 3 + tick, y * 3, x + y], axis=-1).astype(np.uint8)
    return Step(
        frame=frame,
        command=(0.01 * (tick % 50), 0.5),
        proposed=(0.01 * (tick % 50) + (tick % 3 == 0) * 0.1, 0.5),
        reasons=("slew",) if tick % 3 == 0 else (),
        source="autopilot",
        instruction="keep left",
        speed_mps=0.9,
        yaw_rate_rps=None,
        adapter_sha256="ab" * 32,
        latency_ms=7.25,
        tick=tick,
        monotonic_ns=1_000_000_000 + tick * 50_000_000,
        frame_monotonic_ns=1_000_000_000 + tick * 50_000_000 - 2_000_000,
        wall_time_ms=1_700_000_000_000 + tick * 50,
        extra={"surprise": "0.5", "lane": "left"},
    )
