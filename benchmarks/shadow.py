"""What the shadow of the policy costs a control tick while a person drives, and what it tells.

    python -m benchmarks.shadow [--ticks 4000] [--json]

Keys: cost, told.

cost: for each number of ticks from one decision to the next (`every_2`: ten a second, `every_20`: one): us_mean,
us_p50, us_p99 of a tick's computing time in `loops/shadow.py`, all of it after the command was sent. A tick with a
decision lays a path; the others only follow it.

told: the base beside a person who teaches eight lessons, in its own world and in others, by world: p50 and p90 of the
surprise of a step; by_action: rank correlation (Spearman) with what the trainer can compute by itself of the same
frames (`benchmarks/attention.py`, measure "action"); and, where the driver errs, slips_found: the probability that a
step at the slip of a hand surprises more than one without (0.5 is chance).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.attention import distance
from benchmarks.surprise import Slips
from continuonbrain.loops.policy_client import Answer
from continuonbrain.loops.shadow import Shadow
from continuonbrain.loops.teach import lessons, record_expert
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.robot.protocol import CONTROL_DT_S
from continuonbrain.robot.sim.shifts import world
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.dataset import build_samples, calibrate, frame_at, read_drive
from continuonbrain.trainer.safety_scores import auroc

WORLDS = (("none", False), ("tape", False), ("pitch", False), ("trim", False), ("none", True), ("tape", True))
DRIVES, TICKS, SEED, EVERY = 8, 200, 990_000, 2


def cost(ticks: int, every: int) -> dict[str, float]:
    """Drive straight on with a path that sways, so that tracker and guard have work."""
    pilot = Pilot(calibration=Calibration(), limits=Limits())
    shadow = Shadow(pilot)
    spent = np.zeros(ticks)
    gc.disable()
    try:
        for tick in range(ticks):
            now = 100.0 + tick * CONTROL_DT_S
            pilot.observe(now_s=now, speed_mps=1.0, yaw_rate_rps=0.0)
            sent = pilot.teleoperate((0.0, 0.4), now_s=now, age_s=0.0).guarded
            bend = 0.5 * math.sin(tick / 20)
            chunk = ActionChunk((bend,) * 8, (1.0, 1.0), now)
            answers = [Answer(chunk, pilot.tracker.calibration)] if tick % every == 0 else []
            began = time.thread_time()
            shadow.surprise(answers, sent, now_s=now)
            spent[tick] = (time.thread_time() - began) * 1e6
            if tick % 200 == 0:
                gc.collect(1)
    finally:
        gc.enable()
    assert shadow.faults == 0
    p50, p99 = np.percentile(spent, [50, 99])
    return {
        "us_mean": round(float(spent.mean()), 1),
        "us_p50": round(float(p50), 1),
        "us_p99": round(float(p99), 1),
    }


def told(engine: TorchEngine, shift: str, *, errs: bool) -> dict[str, Any]:
    """Record lessons, and drive them again with the base's decisions beside them, each a tick late."""
    slips: list[NDArray[np.bool_]] = []
    slipping = Slips(0, DRIVES)

    def hand(tick: int, steering: NDArray[np.float64]) -> NDArray[np.float64]:
        given = slipping(tick, steering) if errs else steering
        slips.append(np.abs(given - steering) > 0.05)
        return given

    found, computed, slipped = [], [], []
    with tempfile.TemporaryDirectory(prefix="shadow-") as name:
        paths = record_expert(
            Path(name),
            world(shift),
            instructions=lessons(DRIVES),
            steps=TICKS,
            seed=SEED,
            limits=Limits(),
            hand=hand,
        )
        drives = [read_drive(path) for path in paths]
        samples = build_samples(drives, calibrate(drives), stride=1)
        for number, drive in enumerate(drives):
            rows = np.arange(0, TICKS, EVERY)
            answered = engine.decide(
                np.stack([frame_at(drive.episode, int(i)) for i in rows]),
                [drive.instructions[i] for i in rows],
                [float(drive.speed_mps[i]) for i in rows],
            )
            pilot = Pilot(calibration=Calibration(), limits=Limits())
            pilot.instruct(drive.instructions[0])
            shadow = Shadow(pilot)
            by_step = np.full(TICKS, np.nan)
            for tick in range(TICKS):
                now = 100.0 + tick * CONTROL_DT_S
                speed, yaw_rate = float(drive.speed_mps[tick]), float(drive.yaw_rate_rps[tick])
                pilot.observe(now_s=now, speed_mps=speed, yaw_rate_rps=yaw_rate)
                command = float(drive.steering[tick]), float(drive.throttle[tick])
                sent = pilot.teleoperate(command, now_s=now, age_s=0.0).guarded
                answers = []
                if tick % EVERY == 1:
                    bends, speeds = (a[tick // EVERY].tolist() for a in answered)
                    chunk = ActionChunk(tuple(bends), tuple(speeds), now - CONTROL_DT_S)
                    answers = [Answer(chunk, Calibration())]
                surprise = shadow.surprise(answers, sent, now_s=now)
                by_step[tick] = math.nan if surprise is None else surprise
            assert shadow.faults == 0
            mine = np.flatnonzero(samples.episode == number)
            seen = np.searchsorted(drive.stamps, samples.stamps[mine])
            of_rows = {int(tick): int(row) for tick, row in zip(seen, mine, strict=True)}
            chosen = [t for t in rows.tolist() if t in of_rows and not math.isnan(by_step[t])]
            at = np.array([of_rows[t] for t in chosen])
            computed.append(
                distance(
                    answered.curvature[np.array(chosen) // EVERY],
                    answered.speed[np.array(chosen) // EVERY],
                    samples.curvature[at],
                    samples.speed_ahead[at],
                    samples.weights[at],
                )
            )
            found.append(by_step[chosen])
            slipped.append(np.stack(slips)[chosen, number])
    surprise, by_action, wrong = (np.concatenate(a) for a in (found, computed, slipped))
    ranks = [np.argsort(np.argsort(a)) for a in (surprise, by_action)]
    row: dict[str, Any] = {"world": shift, "errs": errs, "steps": len(surprise)}
    row |= {f"p{p}": round(float(np.percentile(surprise, p)), 3) for p in (50, 90)}
    row["by_action"] = round(float(np.corrcoef(*ranks)[0, 1]), 2)
    row["slips_found"] = round(auroc(surprise, wrong), 2) if errs else None
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ticks", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    costs = {f"every_{every}": cost(given.ticks, every) for every in (2, 20)}
    engine = TorchEngine(tiny_base_folder(), threads=1)
    tells = [told(engine, shift, errs=errs) for shift, errs in WORLDS]
    if given.json:
        print(json.dumps({"cost": costs, "told": tells}))
        return
    console = Console(highlight=False, width=120)
    table = Table("a decision", "mean us a tick", "p50", "p99", box=MARKDOWN)
    for name, figures in costs.items():
        table.add_row(f"{name.replace('_', ' ')} ticks", *(str(v) for v in figures.values()))
    console.print(table)
    table = Table("world", "driver", "p50", "p90", "by the trainer", "slips found", box=MARKDOWN)
    for row in tells:
        driver = "errs" if row["errs"] else "does not err"
        told_of = [row[name] for name in ("p50", "p90", "by_action", "slips_found")]
        table.add_row(row["world"], driver, *("" if v is None else str(v) for v in told_of))
    console.print(table)


if __name__ == "__main__":
    main()
