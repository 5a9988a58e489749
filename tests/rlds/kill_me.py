"""Records until it is killed, printing how many steps were acknowledged. Run by test_recorder.py."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.step import Step


def main(episodes_dir: Path) -> None:
    metadata = EpisodeMetadata("trainer", "autonomous", "kill", (), Software(), episode_id="killed")
    recorder = EpisodeRecorder(episodes_dir, metadata=metadata, sync_interval_s=0.01)
    rng = np.random.default_rng(0)
    tick = 0
    while True:
        frame = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        recorder.append(
            Step(command=(0.0, 0.1), source="autopilot", frame=frame, tick=tick, monotonic_ns=tick)
        )
        tick += 1
        sys.stdout.write(f"{recorder.acknowledged}\n")
        sys.stdout.flush()
        time.sleep(0.0005)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
