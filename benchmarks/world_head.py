"""Does the world head foresee more than moving the grid does, and does a car that has it leave the road less often than
one with the safety head alone?

    continuonbrain model build-world /tmp/world
    python -m benchmarks.world_head --head /tmp/world [--json] [--tracks 24] [--states 1000]

No world head ships: it is built first, on the grids of the safety head that it is compared with (--safety, default the
shipped one). States and tracks are ones that neither head was taught, and so are the worlds but the base's own.

Closed loop: the shipped base, without any adapter, on the same perturbed tracks (a new look, another camera, darkness,
a servo that is off, a narrow road, pushes) with (a) the safety head alone, (b) safety and world head; a lap each, or
--seconds. Takes some twenty minutes on two cores.

Keys:
  tracks                          of all perturbed worlds
  off_track_safety, off_track_both    cars that left the road
  speed_safety, speed_both        mean speed while on the road, m/s, standing included
  completion_safety, completion_both  mean share of a lap before the road was left
  off_track_change, speed_change  95 % intervals over tracks of (both - safety), the latter as a share of the speed
  beats_safety_alone              fewer off the road and at most 2 % slower, both beyond chance: by the interval over
                                  10,000 paired resamplings of the tracks
  feature_error, feature_error_unchanged, feature_error_moved
                                  mean squared error of the grid a second on, in the base's own world; of a grid that
                                  stays, and of one moved by the car's foreseen motion (each at its best factor)
  auroc                           of leaving the road within two seconds; auroc_read: of reading the seen grid alone
  judge_ms                        median of one judgement of one chunk on one thread
Exit 0 whatever the comparison says: the head is off by default.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.safety_head import FIRST_TRACK, LIMITS, PERTURBED
from continuonbrain.config import PolicyConfig
from continuonbrain.errors import BrainError
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.policy.response import Response
from continuonbrain.policy.safety_head import GRID_AHEAD_M, GRID_LEFT_M, SAFETY_HEAD_FILE, SafetyHead
from continuonbrain.policy.veto import Veto
from continuonbrain.policy.watch import Watch
from continuonbrain.policy.world_head import WORLD_HEAD_FILE, WorldHead
from continuonbrain.robot.sim.shifts import BASE, World
from continuonbrain.safety.caution import BLOCK_THRESHOLD
from continuonbrain.storage.layout import shipped_safety_head
from continuonbrain.trainer.rollout import RolloutResult, rollout
from continuonbrain.trainer.world_scores import score_world_head

MOST_SPEED_LOSS = 0.02
RESAMPLINGS = 10_000
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Task:
    """One world, with or without a world head (its bytes)."""

    name: str
    world: World
    safety: bytes
    head: bytes | None
    block: float
    tracks: int
    seconds: float | None


def drive(task: _Task) -> RolloutResult:
    """Each track under "drive"."""
    engine = open_engine(tiny_base_folder(), PolicyConfig())
    engine.use_adapter(None)
    safety = SafetyHead(task.safety)
    head = None if task.head is None else WorldHead(task.head)
    with threadpool_limits(1, user_api="blas"):
        return rollout(
            engine,
            task.world,
            range(FIRST_TRACK, FIRST_TRACK + task.tracks),
            ["drive"] * task.tracks,
            calibration=Calibration(),
            limits=LIMITS,
            seed=11,
            laps=task.seconds is None,
            seconds=task.seconds or 0.0,
            reflex=False,
            watch_with=lambda: Watch(safety),
            veto_with=None if head is None else lambda: Veto(head, block=task.block),
        )


def paired(alone: list[RolloutResult], both: list[RolloutResult], *, seed: int = 0) -> dict[str, Any]:
    """The comparison over tracks, which are resampled with their pair (percentile bootstrap, Efron 1979)."""
    off = [np.concatenate([r.left_road for r in results]).astype(float) for results in (alone, both)]
    speed = [np.concatenate([r.mean_speed_mps for r in results]) for results in (alone, both)]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(off[0]), size=(RESAMPLINGS, len(off[0])))
    more_off = (off[1] - off[0])[drawn].mean(1)
    faster = speed[1][drawn].mean(1) / np.maximum(speed[0][drawn].mean(1), 1e-9) - 1

    def interval(values: Array) -> list[float]:
        return [round(float(v), 4) for v in np.quantile(values, (0.025, 0.975))]

    changes = interval(more_off), interval(faster)
    return {
        "tracks": len(off[0]),
        "off_track_safety": int(off[0].sum()),
        "off_track_both": int(off[1].sum()),
        "speed_safety": round(float(speed[0].mean()), 4),
        "speed_both": round(float(speed[1].mean()), 4),
        "off_track_change": changes[0],
        "speed_change": changes[1],
        "beats_safety_alone": changes[0][1] < 0.0 and changes[1][0] >= -MOST_SPEED_LOSS,
    }


def closed_loop(
    safety: SafetyHead,
    head: WorldHead,
    *,
    tracks: int,
    seconds: float | None,
    block: float,
    jobs: int,
    on_part: Callable[[str], None],
) -> dict[str, Any]:
    """The comparison over all perturbed worlds, and by world with the base's own."""
    tasks = [
        _Task(name, world, safety.data, data, block, tracks, seconds)
        for name, world in {**PERTURBED, "none": BASE}.items()
        for data in (None, head.data)
    ]
    results: list[RolloutResult] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for task, result in zip(tasks, pool.map(drive, tasks), strict=True):
            results.append(result)
            on_part(f"{task.name}: {'safety head alone' if task.head is None else 'both'}")
    worlds: dict[str, dict[str, Any]] = {}
    runs: dict[str, tuple[RolloutResult, RolloutResult]] = {}
    for i, task in enumerate(tasks[::2]):
        name = task.name
        runs[name] = alone, both = results[2 * i], results[2 * i + 1]
        worlds[name] = paired([alone], [both]) | {
            "completion_safety": round(float(alone.completion.mean()), 4),
            "completion_both": round(float(both.completion.mean()), 4),
            "held_safety": round(float(alone.reasons.get("safety_head_block", np.zeros(1)).mean()), 4),
            "held_both": round(float(both.reasons.get("safety_head_block", np.zeros(1)).mean()), 4),
            "vetoed": round(float(both.vetoed.mean()), 4),
        }
    perturbed = [runs[name] for name in PERTURBED]
    whole = paired([a for a, _ in perturbed], [b for _, b in perturbed])
    for key in ("completion_safety", "completion_both", "vetoed"):
        whole[key] = round(float(np.mean([worlds[name][key] for name in PERTURBED])), 4)
    return whole | {"closed_loop": worlds}


def judge_ms(head: WorldHead) -> float:
    """Median time of one judgement."""
    veto = Veto(head)
    grid = np.zeros((len(GRID_AHEAD_M), len(GRID_LEFT_M)), np.float32)
    veto.remember(0.0, grid, speed_mps=1.0, yaw_rate_rps=0.1)
    chunk = ActionChunk((0.1,) * 8, (1.0, 1.0), 0.0)
    times = []
    for _ in range(200):
        started = time.perf_counter()
        veto.judge(chunk, calibration=Calibration(), response=Response())
        times.append(time.perf_counter() - started)
    return round(median(times) * 1000, 3)


def measure(
    safety: SafetyHead,
    head: WorldHead,
    *,
    tracks: int,
    seconds: float | None,
    states: int,
    block: float,
    jobs: int,
    on_part: Callable[[str], None],
) -> dict[str, Any]:
    """All figures."""
    loop = closed_loop(safety, head, tracks=tracks, seconds=seconds, block=block, jobs=jobs, on_part=on_part)
    scores = score_world_head(
        head.data,
        safety,
        states=states,
        shifts=("none", *(name for name in PERTURBED if name != "pushes")),
        report=lambda part, *_: on_part(part),
    )
    own = scores["none"]["calibrated"]
    keys = ("feature_error", "feature_error_unchanged", "feature_error_moved", "auroc", "auroc_read")
    return {
        **loop,
        **{key: own[key] for key in keys},
        "block_threshold": block,
        "judge_ms": judge_ms(head),
        "scores": scores,
    }


def main() -> int:
    """Command line; exit 2 without a head to compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--head", type=Path, required=True, help="folder of `model build-world`")
    parser.add_argument(
        "--safety", type=Path, default=shipped_safety_head(), help="folder of the safety head"
    )
    parser.add_argument("--tracks", type=int, default=24, help="tracks of each world (default 24)")
    parser.add_argument("--seconds", type=float, help="drive for so long (default: a lap)")
    parser.add_argument("--states", type=int, default=1000, help="counterfactual states of each world")
    parser.add_argument("--block", type=float, default=BLOCK_THRESHOLD, help="veto from this probability on")
    parser.add_argument("--jobs", type=int, default=2, help="rollouts at a time (default 2)")
    given = parser.parse_args()
    console = Console(stderr=True)
    try:
        safety = SafetyHead.from_file(given.safety / SAFETY_HEAD_FILE)
        head = WorldHead.from_file(given.head / WORLD_HEAD_FILE)
    except BrainError as error:
        console.print(f"{error.message}; {error.remedy}", markup=False)
        return 2
    with threadpool_limits(1, user_api="blas"), Progress(console=console) as bar:
        task = bar.add_task("world head", total=len(PERTURBED) + 2 * (1 + len(PERTURBED)))

        def on_part(part: str) -> None:
            bar.update(task, advance=1, description=part)
            if not console.is_terminal:
                bar.console.print(part)

        found = measure(
            safety,
            head,
            tracks=given.tracks,
            seconds=given.seconds,
            states=given.states,
            block=given.block,
            jobs=given.jobs,
            on_part=on_part,
        )
    if given.json:
        print(json.dumps(found))
    else:
        _print(Console(), found)
    return 0


def _print(console: Console, found: dict[str, Any]) -> None:
    table = Table("world", "grid error", "if unchanged", "if moved", "AUROC", "seen grid alone")
    for name, by_kind in found["scores"].items():
        known = by_kind["calibrated"]
        table.add_row(
            name,
            *(
                f"{known[key]:.4f}"
                for key in ("feature_error", "feature_error_unchanged", "feature_error_moved")
            ),
            f"{known['auroc']:.3f}",
            f"{known['auroc_read']:.3f}",
        )
    console.print(table)
    table = Table("world", "off: safety", "off: both", "m/s: safety", "m/s: both", "vetoed chunks")
    for name, world in found["closed_loop"].items():
        table.add_row(
            name,
            str(world["off_track_safety"]),
            str(world["off_track_both"]),
            f"{world['speed_safety']:.2f}",
            f"{world['speed_both']:.2f}",
            f"{world['vetoed']:.0%}",
        )
    console.print(table)
    verdict = "beats" if found["beats_safety_alone"] else "does not beat"
    console.print(
        f"{found['off_track_safety']} of {found['tracks']} off the road with the safety head alone, "
        f"{found['off_track_both']} with both, at {found['speed_both'] / found['speed_safety'] - 1:+.1%} of the speed: "
        f"the world head {verdict} the safety head alone; a judgement takes {found['judge_ms']} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
