"""How long does a closed gate wait? The time between two looks at the gates, over whole jobs, worst first.

    python -m benchmarks.gate_pause [--json] [--episodes 24] [--checkpoint FOLDER [--tokens 128] [--frames]]

Without --checkpoint: a whole round of the mid loop on the simulator's lessons, from reading the episodes to the
verdict. With it: the language job, two steps of a batch of eight (any folder of a Gemma 3n, Gemma 4 or plain causal
model; one at the size of E2B is made by `python -m benchmarks.e2b_shapes FOLDER`).

The gates are read at a look if half a second has passed since they were: a gate that closes is seen after at most
`longest_s` + 0.5 s, to which the saving of the job comes.

Keys:
  longest_s   between two looks (goal: 1.5)
  save_s      the longest saving of the job
  by_phase    the longest of each phase, and where in the code the work was, by samples of the stack
  looks       how many
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from continuonbrain.brain_root import open_brain
from continuonbrain.config import load_config
from continuonbrain.loops import learning
from continuonbrain.loops.mid import MidLoop, Status
from continuonbrain.loops.teach import record_expert
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.robot.sim.instructions import NAMES
from continuonbrain.robot.sim.shifts import world
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.trainer.language_job import train_language
from continuonbrain.trainer.steps import Progress
from continuonbrain.trainer.token_samples import LanguageSettings, TokenSample

_SAMPLED_EVERY_S = 0.05
_NOTED_S = 0.2


class Looks:
    """Counts the time between looks, and samples what the main thread does in the meantime."""

    def __init__(self) -> None:
        self.phase, self.count, self.save_s = "start", 0, 0.0
        self.longest: dict[str, tuple[float, str]] = {}
        self._last = time.monotonic()
        self._main = threading.get_ident()
        self._stacks: Counter[str] = Counter()
        self._done = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLED_EVERY_S):
            if time.monotonic() - self._last < _NOTED_S:
                continue
            frame = sys._current_frames().get(self._main)
            own = [f for f in traceback.extract_stack(frame) if "continuonbrain" in f.filename]
            if own:
                self._stacks[f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"] += 1

    def look(self, save: Callable[[], None] = lambda: None) -> float:
        """Instead of `wait_until_allowed`."""
        now = time.monotonic()
        gap = now - self._last
        if gap > self.longest.get(self.phase, (0.0, ""))[0]:
            where = self._stacks.most_common(1)
            self.longest[self.phase] = (gap, where[0][0] if where else "")
        self._stacks.clear()
        self.count += 1
        save()
        self._last = time.monotonic()
        self.save_s = max(self.save_s, self._last - now)
        return 0.0

    def end(self) -> dict[str, Any]:
        """The keys of this benchmark."""
        self.look()
        self._done.set()
        worst = sorted(self.longest.items(), key=lambda item: -item[1][0])
        return {
            "longest_s": round(worst[0][1][0], 3),
            "save_s": round(self.save_s, 3),
            "by_phase": {phase: [round(gap, 3), where] for phase, (gap, where) in worst},
            "looks": self.count,
        }


class WatchedLoop(MidLoop):
    """A mid loop whose gates are always open, and counted."""

    looks: Looks

    def wait_until_allowed(self, save: Callable[[], None] = lambda: None) -> float:
        """See `MidLoop`."""
        return self.looks.look(save)


def driving(episodes: int) -> dict[str, Any]:
    """A round of the mid loop."""
    with tempfile.TemporaryDirectory() as folder:
        layout = init_brain_root(Path(folder) / "robot", "sim-donkey", base_model=tiny_base_folder())
        lessons = [NAMES[i % len(NAMES)] for i in range(episodes)]
        guards = Limits.from_config(load_config(layout.config_path).guards)
        record_expert(layout.episodes_dir, world("tape"), instructions=lessons, seed=11, limits=guards)
        looks = Looks()

        def told(status: Status) -> None:
            looks.phase = status.phase

        mid = WatchedLoop(open_brain(layout.root), on_status=told)
        mid.looks = looks
        looks.look()
        looks.phase = "read"
        learning.learn(mid, mid.new_episodes()[0])
        return looks.end()


def language(folder: Path, tokens: int, *, frames: bool, threads: int | None) -> dict[str, Any]:
    """Two steps of the language job."""
    rng = np.random.default_rng(0)
    raw = json.loads((folder / "config.json").read_text())
    picture = [int(raw["image_token_id"])] * int(raw["vision_soft_tokens_per_image"]) if frames else []

    def sample() -> TokenSample:
        words = [int(i) for i in rng.integers(3, 200, tokens)]
        seen = rng.integers(0, 255, (120, 160, 3)).astype(np.uint8)
        return TokenSample((2, *picture, *words), 8, (seen,) if frames else ())

    samples = [sample() for _ in range(8)]
    looks = Looks()

    def told(progress: Progress) -> None:
        looks.phase = progress.phase

    with tempfile.TemporaryDirectory() as scratch:
        train_language(
            folder,
            samples,
            LanguageSettings(max_steps=2, threads=threads),
            base_sha256="0" * 64,
            cache=Path(scratch) / "cache",
            state_path=Path(scratch) / "job.state",
            on_progress=told,
            wait_until_allowed=looks.look,
        )
        return looks.end()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--episodes", type=int, default=24, help="lessons of 300 steps")
    parser.add_argument("--checkpoint", type=Path, help="the language job on this folder instead")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--frames", action="store_true", help="every sample has a picture")
    parser.add_argument("--threads", type=int, help="of the arithmetic")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    report = (
        driving(asked.episodes)
        if asked.checkpoint is None
        else language(asked.checkpoint, asked.tokens, frames=asked.frames, threads=asked.threads)
    )
    if asked.json:
        print(json.dumps(report))
        return
    console = Console()
    for phase, (gap, where) in report["by_phase"].items():
        console.print(f"{phase:>10}  {gap:6.2f} s  {where}", highlight=False)
    console.print(f"longest {report['longest_s']} s of {report['looks']} looks, saving {report['save_s']} s")


if __name__ == "__main__":
    main()
