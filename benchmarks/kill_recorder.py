"""Does a step that the recorder acknowledged survive SIGKILL? Real processes, killed at moments nobody chose.

    python -m benchmarks.kill_recorder [--rounds 1000] [--longest 0.08] [--json]

In every round a process records episodes of random lengths with frames, one after the other, as fast as it can, and
tells through a pipe how many steps of which episode are acknowledged. It is killed with SIGKILL after a random time
of at most --longest seconds.
Then what a start of the brain does is done (`recover_unfinished`), and every episode is opened strictly and read: each
acknowledged step must be there, in order, with its own frame.

Keys:
  rounds                   processes killed
  acknowledged_steps       steps that were acknowledged, in all
  acknowledged_steps_lost  of them, not there afterwards, or not what was recorded (goal 0)
  unreadable_episodes      episodes that cannot be opened or read to their end (goal 0)
  episodes                 found afterwards; recovered: of them, closed by the recovery
  killed_while             rounds by what the process was at: nothing yet, opening, recording, closing
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from continuonbrain.errors import BrainError
from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.recovery import recover_unfinished
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.writer import encode_jpeg

_PATTERNS = [np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8) for seed in range(16)]
_JPEGS = [encode_jpeg(frame, quality=90) for frame in _PATTERNS]
LONGEST_S = 0.08
_MOST_STEPS = 40


def record_until_killed(episodes_dir: Path, out: int, seed: int) -> None:
    """The process: episodes without end. Lines to `out`: what it does, the episode, steps acknowledged."""
    chance = random.Random(seed)
    number = 0
    while True:
        name = f"episode-{number:04d}"

        def tell(doing: str, steps: int, name: str = name) -> None:
            os.write(out, f"{doing} {name} {steps}\n".encode())

        tell("opening", 0)
        metadata = EpisodeMetadata("trainer", "autonomous", "kill", (), Software(), episode_id=name)
        recorder = EpisodeRecorder(
            episodes_dir, metadata=metadata, sync_interval_s=chance.choice((0.001, 0.01, 10.0))
        )
        for tick in range(chance.randint(1, _MOST_STEPS)):
            recorder.append(
                Step(
                    command=(0.0, tick / 100),
                    source="autopilot",
                    frame=_PATTERNS[tick % 16],
                    tick=tick,
                    monotonic_ns=1 + tick,
                )
            )
            if chance.random() < 0.5:
                time.sleep(chance.random() * 0.002)
            tell("recording", recorder.acknowledged)
        tell("closing", recorder.acknowledged)
        recorder.close(terminal=True)
        tell("recording", recorder.acknowledged)
        number += 1


@dataclass
class Told:
    """What a process told before it was killed."""

    doing: str = "nothing yet"
    acknowledged: dict[str, int] = field(default_factory=dict)


def killed_once(episodes_dir: Path, seed: int, longest_s: float) -> Told:
    """Start a recorder process, kill it within `longest_s`, and read what it told."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        try:
            record_until_killed(episodes_dir, theirs, seed)
        finally:
            os._exit(1)
    os.close(theirs)
    time.sleep(random.Random(seed + 1).random() * longest_s)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"the recorder of seed {seed} ended by itself: {status}")
    told = Told()
    with os.fdopen(ours, "rb") as pipe:
        for line in pipe.read().decode().splitlines():
            told.doing, name, steps = line.split()
            told.acknowledged[name] = int(steps)
    return told


def check(episodes_dir: Path, told: Told) -> Counter[str]:
    """Recover, read everything, and count what is missing."""
    found: Counter[str] = Counter(f"killed while {told.doing}" for _ in range(1))
    found["acknowledged_steps"] = sum(told.acknowledged.values())
    found["recovered"] = len(recover_unfinished(episodes_dir))
    kept: dict[str, int] = {}
    for path in list_episodes(episodes_dir):
        found["episodes"] += 1
        try:
            episode = open_episode(path)
            kept[path.name] = 0
            for index, step in enumerate(episode):
                whole = step.tick == index and episode.frame_jpeg(index) == _JPEGS[index % 16]
                kept[path.name] += whole
        except BrainError:
            found["unreadable_episodes"] += 1
    for name, steps in told.acknowledged.items():
        found["acknowledged_steps_lost"] += max(0, steps - kept.get(name, 0))
    return found


def measure(rounds: int, *, quiet: bool, seed: int = 0, longest_s: float = LONGEST_S) -> dict[str, Any]:
    """`rounds` processes."""
    found: Counter[str] = Counter()
    for number in track(range(rounds), "killing", disable=quiet, transient=True):
        with tempfile.TemporaryDirectory() as name:
            told = killed_once(Path(name), seed + 2 * number, longest_s)
            found += check(Path(name), told)
    counts = (
        "acknowledged_steps",
        "acknowledged_steps_lost",
        "unreadable_episodes",
        "episodes",
        "recovered",
    )
    while_ = {k.removeprefix("killed while "): n for k, n in found.items() if k.startswith("killed while ")}
    return {"rounds": rounds} | {name: found[name] for name in counts} | {"killed_while": while_}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--longest", type=float, default=LONGEST_S, help="seconds that a process lives at most"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.rounds, quiet=arguments.json, seed=arguments.seed, longest_s=arguments.longest)
    good = found["acknowledged_steps_lost"] == found["unreadable_episodes"] == 0
    if arguments.json:
        print(json.dumps(found))
    else:
        Console(highlight=False).print(
            f"{found['rounds']} recorders killed: of {found['acknowledged_steps']} acknowledged steps "
            f"{found['acknowledged_steps_lost']} are lost, of {found['episodes']} episodes "
            f"{found['unreadable_episodes']} are unreadable ({found['recovered']} were closed by the recovery)",
            soft_wrap=True,
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
