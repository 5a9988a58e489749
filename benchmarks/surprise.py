"""Does it help to draw more often what surprises the policy? Equal lessons, steps and seeds, with and without.

    OMP_NUM_THREADS=1 python -m benchmarks.surprise [--arms action:1 live:1] [--steps 100] [--rows FILE] [--json]

A cell is one training and its scores: sixteen lessons of ten seconds in a shifted world, the trainer's own pool, steps
and settings (preset sim-donkey), and an arm: off, or `MEASURE:STRENGTH` as `benchmarks/attention.py` has them. Scores:
laps under "drive" on tracks that nobody was taught on, with a decision five times a second and no reflex head; and
every instruction on a track of its own, "stop" by the model alone too. The lessons are taught twice: once by a driver
who does not err, once (at --noisy-steps) by one whose hand slips for half a second now and then (an eighth of the
time), and who twice in sixteen lessons does not do what was said.

--rows keeps every cell's row; a cell that is there is not run again, so that a run can be cut short, and a longer one
adds to it. All rows of a file must be of the same --tracks and --follow.

Keys: rows (one a cell); pairs: for each (driver, steps, arm) the number of pairs (shift and seed) with the arm and with
"off", and for each score the median with "off", the median of the differences (arm less off), and how many pairs were
better and worse by more than nothing; by_shift: the same for each shift; surprise_pass_share: seconds for asking the
model about every sample once, as a share of 100 steps' seconds; computing_s: this run's. What runs by default takes
about a quarter of an hour of one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.attention import Arm, Measure, surprises, train
from continuonbrain.config import load_preset
from continuonbrain.loops.teach import lessons, record_expert
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.model.lora import detach_lora
from continuonbrain.model.streams import Streams
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.robot.sim.shifts import SHIFTS
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.dataset import build_samples, calibrate, mirrored_instruction, read_drive
from continuonbrain.trainer.job import JobSettings
from continuonbrain.trainer.pool import Pool, encode, mix
from continuonbrain.trainer.score import drive_score, follow_score
from continuonbrain.trainer.states import replay_samples

LESSON_TRACKS, SCORE_TRACKS = 900_000, 950_000
LESSONS, LESSON_TICKS, REPLAY = 16, 200, 768
DECISION_S = 0.2
SLIP_TICKS, SLIP_CHANCE, SLIP_SIZE = 10, 0.012, 0.8
TOLD_WRONG = {5: "keep left", 11: "drive slowly"}
"""Lesson -> what was said in it, by the driver who errs."""
SCORES = {
    "completion": ("share of a lap", 1, 0.02),
    "lane_error_m": ("distance from the lane, m", -1, 0.001),
    "following": ("instructions followed", 1, 0.001),
    "stop_model": ('"stop" by the model alone', 1, 0.001),
}
"""Score -> in words, its better direction, the least difference that counts as one."""


class Slips:
    """Hands that slip: now and then, for half a second, the steering is off by up to SLIP_SIZE."""

    def __init__(self, seed: int, drivers: int) -> None:
        self._rng = np.random.default_rng([seed, 23])
        self._until = np.zeros(drivers, np.int64)
        self._off = np.zeros(drivers)

    def __call__(self, tick: int, steering: NDArray[np.float64]) -> NDArray[np.float64]:
        """A `teach.Hand`."""
        n = len(steering)
        starts = (self._rng.random(n) < SLIP_CHANCE) & (tick >= self._until)
        self._off = np.where(starts, self._rng.uniform(-SLIP_SIZE, SLIP_SIZE, n), self._off)
        self._until = np.where(starts, tick + SLIP_TICKS, self._until)
        return (steering + np.where(tick < self._until, self._off, 0.0)).clip(-1, 1)


@dataclass(frozen=True, slots=True)
class Taught:
    """What a driver's lessons are to a trainer, once and for all arms."""

    pool: Pool
    streams: Streams
    chances: NDArray[np.float64]
    groups: NDArray[np.int64]
    surprise: dict[Measure, NDArray[np.float64]]
    calibration: Calibration
    job: JobSettings
    pass_s: float


def teach(engine: TorchEngine, shift: str, seed: int, *, errs: bool) -> Taught:
    """Record the lessons, cache their streams, ask the base about every sample."""
    config = load_preset("sim-donkey")
    with tempfile.TemporaryDirectory(prefix="surprise-") as name:
        more = {"hand": Slips(seed, LESSONS)} if errs else {}
        paths = record_expert(
            Path(name),
            SHIFTS[shift],
            instructions=lessons(LESSONS),
            steps=LESSON_TICKS,
            seed=LESSON_TRACKS + 1000 * seed,
            limits=Limits.from_config(config.guards),
            **more,
        )
        drives = [read_drive(path) for path in paths]
        for lesson, said in TOLD_WRONG.items() if errs else ():
            drives[lesson] = replace(drives[lesson], instructions=[said] * LESSON_TICKS)
        calibration = calibrate(drives)
        samples = build_samples(drives, calibration)
    job = JobSettings(
        rank=config.training.rank,
        alpha=config.training.alpha,
        targets=config.lora_layers,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        max_wall_time_s=1e6,
        seed=seed,
    )
    sampler = np.random.default_rng(seed)
    pool, chances = mix(samples, replay_samples(REPLAY, seed=seed), job, sampler)
    # The pool's order is the sampler's first draw: lessons and their mirror image come before the replay.
    order = np.random.default_rng(seed).permutation(len(pool))
    words = [*samples.instructions, *(mirrored_instruction(i) for i in samples.instructions)]
    numbers = {word: i for i, word in enumerate(sorted(set(words)))}
    groups = np.array([numbers[w] for w in words] + [-1] * REPLAY)[order]
    assert all(pool.instructions[i] == words[k] for i, k in enumerate(order) if k < len(words))
    streams, _ = encode(engine.model, engine.layout, pool, lambda _done, _total: True)
    began = time.process_time()
    of = surprises(engine.model, engine.layout, pool, streams)
    return Taught(pool, streams, chances, groups, of, calibration, job, round(time.process_time() - began, 2))


def run_cell(
    engine: TorchEngine, taught: Taught, arm: Arm, shift: str, seed: int, steps: int, tracks: int, follow: int
) -> dict[str, Any]:
    """Train and score."""
    limits = Limits.from_config(load_preset("sim-donkey").guards)
    began = time.process_time()
    train(
        engine.model,
        engine.layout,
        taught.pool,
        taught.streams,
        taught.chances,
        taught.groups,
        taught.surprise[arm.measure],
        arm,
        replace(taught.job, max_steps=steps),
        engine.base_sha256,
    )
    train_s = time.process_time() - began
    first = SCORE_TRACKS + 1000 * seed
    laps = drive_score(
        engine,
        SHIFTS[shift],
        range(first, first + tracks),
        calibration=taught.calibration,
        limits=limits,
        decision_time_s=DECISION_S,
        reflex=False,
    )
    obeyed = follow_score(
        engine,
        SHIFTS[shift],
        range(first + 500, first + 500 + follow),
        calibration=taught.calibration,
        limits=limits,
    )
    detach_lora(engine.model)
    return {
        "completion": round(laps.completion, 4),
        "laps": laps.laps,
        "lane_error_m": round(laps.lateral_error_m, 5),
        "following": round(obeyed.following, 4),
        "stop": round(obeyed.stop, 4),
        "stop_model": round(obeyed.stop_model, 4),
        "train_s": round(train_s, 2),
        "pass_s": taught.pass_s,
    }


def pairs_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each driver, number of steps and arm: its cells against those with "off" of the same shift and seed."""
    off = {_same(r): r for r in rows if r["arm"] == "off"}
    out = []
    for errs, steps, arm in sorted({(r["errs"], r["steps"], r["arm"]) for r in rows if r["arm"] != "off"}):
        chosen = [
            (r, off[_same(r)])
            for r in rows
            if (r["errs"], r["steps"], r["arm"]) == (errs, steps, arm) and _same(r) in off
        ]
        row: dict[str, Any] = {"errs": errs, "steps": steps, "arm": arm, "pairs": len(chosen)}
        for score, (_, sign, least) in SCORES.items():
            gained = np.array([a[score] - b[score] for a, b in chosen])
            row[score] = {
                "off": round(float(np.median([b[score] for _, b in chosen])), 4) if chosen else None,
                "median": round(float(np.median(gained)), 5) if chosen else None,
                "better": int((sign * gained >= least).sum()),
                "worse": int((sign * gained <= -least).sum()),
            }
        out.append(row)
    return out


def _same(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["shift"], row["seed"], row["errs"], row["steps"]


def _arm(text: str) -> Arm:
    measure, _, strength = text.partition(":")
    if measure not in get_args(Measure):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not one of {get_args(Measure)}, a colon and a strength"
        )
    return Arm(measure, float(strength))


def _read(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(given: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """The rows of the cells that are not done."""
    arms = [Arm(), *given.arms]
    engine = TorchEngine(tiny_base_folder())
    for seed in given.seeds:
        for shift in given.shifts:
            for errs in (False, True):
                wanted = [
                    (arm, steps, "/".join(map(str, (shift, seed, errs, steps, arm.name))))
                    for steps in (given.noisy_steps if errs else given.steps)
                    for arm in arms
                ]
                missing = [cell for cell in wanted if cell[2] not in done]
                if not missing:
                    continue
                taught = teach(engine, shift, seed, errs=errs)
                for arm, steps, key in missing:
                    row = {"key": key, "shift": shift, "seed": seed, "errs": errs, "steps": steps}
                    scores = run_cell(engine, taught, arm, shift, seed, steps, given.tracks, given.follow)
                    yield row | {"arm": arm.name} | scores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shifts", nargs="+", default=["tape", "trim", "pitch"], choices=sorted(SHIFTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="*", default=[100])
    parser.add_argument("--noisy-steps", type=int, nargs="*", default=[100])
    parser.add_argument("--arms", type=_arm, nargs="+", default=[Arm("action", 1.0), Arm("live", 1.0)])
    parser.add_argument("--tracks", type=int, default=6)
    parser.add_argument("--follow", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="a file of JSON lines")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = _read(given.rows)
    console = Console(stderr=True)
    for row in run(given, {r["key"] for r in rows}):
        console.print(f"{row['key']}: lane error {row['lane_error_m'] * 100:.2f} cm", highlight=False)
        rows.append(row)
        if given.rows is not None:
            with given.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
    pairs = pairs_of(rows)
    of_100 = [100 * r["train_s"] / r["steps"] for r in rows]
    share = round(float(np.median([r["pass_s"] for r in rows]) / np.median(of_100)), 3)
    if given.json:
        by_shift = [
            {"shift": shift} | pair
            for shift in sorted({r["shift"] for r in rows})
            for pair in pairs_of([r for r in rows if r["shift"] == shift])
        ]
        found = {"rows": rows, "pairs": pairs, "by_shift": by_shift, "surprise_pass_share": share}
        print(json.dumps(found | {"computing_s": round(time.process_time(), 1)}))
        return
    columns = ("world", "driver", "steps", "arm", "pairs", *(words for words, _, _ in SCORES.values()))
    table = Table(*columns, box=MARKDOWN)
    for chosen in (None, *given.shifts):
        for pair in pairs_of([r for r in rows if chosen in (None, r["shift"])]):
            cells = [f"{pair[s]['median']:+.3f} ({pair[s]['better']} / {pair[s]['worse']})" for s in SCORES]
            driver = "errs" if pair["errs"] else "does not err"
            table.add_row(
                chosen or "all", driver, str(pair["steps"]), pair["arm"], str(pair["pairs"]), *cells
            )
    Console(highlight=False, width=160).print(table)
    print("median of the arm less off, pair by pair (better/worse)")
    print(f"asking the model about every sample takes {share:.0%} of the time of 100 steps")
    print(f"this run computed for {time.process_time() / 60:.1f} minutes")


if __name__ == "__main__":
    main()
