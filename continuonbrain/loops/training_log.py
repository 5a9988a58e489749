"""What a training job leaves in `trainer/logs/`: the steps while it runs, the losses when it has ended."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from continuonbrain.storage.durable import replace_file

if TYPE_CHECKING:
    from continuonbrain.trainer.steps import JobResult, Progress

LIVE_LOG_FILE = "training.jsonl"


class LiveLog:
    """The training that runs now (or ran last), a line every `log_every_steps`; one that goes on appends to it."""

    def __init__(self, path: Path) -> None:
        self._path, self._begun = path, False

    def write(self, p: Progress) -> None:
        """Add a step; a full disk costs the line."""
        line = {
            "unix_s": round(time.time(), 2),
            "step": p.step,
            "steps": p.steps,
            "loss": round(p.loss or 0.0, 5),
        }
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not self._begun and p.step <= self._last_step()
            with self._path.open("w" if fresh else "a") as file:
                file.write(json.dumps(line) + "\n")
            self._begun = True

    def _last_step(self) -> int:
        try:
            return int(json.loads(self._path.read_text().splitlines()[-1])["step"])
        except (OSError, ValueError, IndexError, KeyError, TypeError):
            return 0


def log_losses(log_dir: Path, version_id: str, result: JobResult) -> None:
    """Keep a finished job's losses, as lines and as a picture. `OSError`: the disk refused."""
    lines = "".join(
        json.dumps({"step": i + 1, "loss": round(x, 5)}) + "\n" for i, x in enumerate(result.losses)
    )
    log_dir.mkdir(parents=True, exist_ok=True)
    replace_file(log_dir / f"{version_id}.jsonl", lines.encode())
    from continuonbrain.trainer.loss_picture import (
        loss_svg,  # matplotlib only when there is something to draw
    )

    replace_file(log_dir / f"{version_id}.svg", loss_svg(result.losses, version_id))
