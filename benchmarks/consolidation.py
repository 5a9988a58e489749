"""Are early lessons kept when the world keeps changing? With the slow loop's consolidation, and without it.

    python -m benchmarks.consolidation [--shifts tape yaw colour pitch dark] [--seeds 1] [--tracks 6] [--json]
    python -m benchmarks.consolidation --show FILE        the tables of an earlier run's JSON

The simulated robot is moved from one shift to the next, and taught sixteen lessons in each. Three ways to learn, by the
trainer's own jobs, with the preset's settings and as much disk for episodes each (two shifts' lessons):

  slow loop    a fast adapter learns the newest lessons on top of the slow one; docked, both are folded into one slow
               adapter, trained on with a reservoir over all episodes (half of the disk; a quarter of it for the exam)
  newest       an adapter learns the newest lessons that the disk holds, from the base
  carried on   the adapter of before is trained on with the newest lessons, as plain fine-tuning would

After each shift every way drives in each world: "drive" on tracks that nobody was taught on, with the calibration that
the world asks for (nominal: these shifts leave servo and wheels as they are).

Keys: shifts; ways, each with matrix[stage][world] (mean share of a lap; the worlds are the shifts and "none", the
base's own; stage i comes after shift i was learned), lateral_m (the same, mean distance from the lane, m), kept (mean
share of a lap over all worlds learned before the last one, at the end), lost (mean drop in them since each was
learned), kept_lateral_m and drift_m (the same of the distance from the lane: drift is what it has grown by), seconds
of learning; fast, fast_lateral_m: the same matrices after the fast adapter, before it was folded; fold_error: what
folding alone changes. Medians over the seeds. Takes about twenty minutes for a seed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.progress import Progress

from continuonbrain.config import BrainConfig, load_preset
from continuonbrain.loops.teach import lessons, record_expert
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.model.plain_lora import Start, folded, read_plain
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.robot.sim.shifts import world
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer.dataset import Samples, build_samples, read_drive
from continuonbrain.trainer.held_out import hold_out, instructions_by_name
from continuonbrain.trainer.job import JobSettings, train_adapter
from continuonbrain.trainer.reservoir import Remembered, chosen, look_of
from continuonbrain.trainer.score import drive_score
from continuonbrain.trainer.states import replay_samples

LESSONS = 16
RESERVOIR = 16
TRACKS = 72_000
_LOOKS = 8
_MAX_SAMPLES = 6000
_REPLAY_STATES = 768


@dataclass
class School:
    """What all ways of learning share: the base, the settings, the lessons so far."""

    scratch: Path
    config: BrainConfig
    seed: int
    stages: list[list[Path]] = field(default_factory=list)
    held_out: set[str] = field(default_factory=set)

    def teach(self, shift: str) -> None:
        """Sixteen lessons in a world."""
        stage = len(self.stages)
        self.stages.append(
            record_expert(
                self.scratch / f"episodes-{stage}",
                world(shift),
                instructions=lessons(LESSONS),
                seed=50_000 + 1000 * self.seed + 100 * stage,
                limits=Limits.from_config(self.config.guards),
            )
        )
        rules = self.config.promotion
        held = hold_out(
            self.stages[-1],
            tail=rules.eval_tail_episodes,
            least=rules.min_eval_episodes,
            said=instructions_by_name([read_drive(p) for p in self.stages[-1]]),
        )[1]
        self.held_out |= {str(p) for p in held}

    def samples(self, episodes: list[Path]) -> Samples:
        """What the trainer makes of them, without those held out."""
        drives = [read_drive(p) for p in episodes if str(p) not in self.held_out]
        return build_samples(drives, Calibration(), max_samples=_MAX_SAMPLES)

    def train(self, episodes: list[Path], start: Start | None) -> Path:
        """One job, as the sidecar runs it; the adapter's folder."""
        config, training = self.config, self.config.training
        engine = TorchEngine(tiny_base_folder())
        result = train_adapter(
            engine.model,
            engine.layout,
            self.samples(episodes),
            JobSettings(
                rank=training.rank,
                alpha=training.alpha,
                targets=config.lora_layers,
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                batch_size=config.batch_size,
                max_steps=config.max_steps,
                max_wall_time_s=1e9,
                seed=self.seed,
            ),
            base_sha256=engine.base_sha256,
            replay=replay_samples(_REPLAY_STATES, seed=self.seed),
            start=start,
        )
        out = Path(tempfile.mkdtemp(dir=self.scratch))
        for name, data in result.files.items():
            (out / name).write_bytes(data)
        return out


class SlowLoop:
    """Fast on top of slow, then both folded into one with the reservoir."""

    def __init__(self, school: School) -> None:
        self.school = school
        self.slow: Path | None = None
        self.fast: Path | None = None
        self.reservoir: list[Remembered] = []
        self.fold_errors: list[float] = []

    def learn(self) -> Path:
        school = self.school
        start = None if self.slow is None else Start(read_plain(self.slow), frozen=True)
        self.fast = school.train(school.stages[-1], start)
        number = len(school.stages)
        new = []
        for path, instruction in zip(school.stages[-1], lessons(LESSONS), strict=True):
            drive = read_drive(path)
            steps = range(0, len(drive.labelled), max(1, len(drive.labelled) // _LOOKS))
            look = look_of([drive.episode.frame(i) for i in steps])
            exam = str(path) in school.held_out
            new.append(Remembered(str(path), instruction, look, exam, number, Calibration()))
        both, error = folded(read_plain(self.fast), school.config.training.rank)
        self.fold_errors.append(error)
        pool = {e.episode for e in self.reservoir} | {str(p) for p in school.stages[-1]}
        self.slow = school.train(sorted(Path(p) for p in pool), Start(both, frozen=False))
        self.reservoir = chosen([*self.reservoir, *new], RESERVOIR)
        return self.slow


class Newest:
    """From the base, on as many of the newest episodes."""

    def __init__(self, school: School) -> None:
        self.school = school

    def learn(self) -> Path:
        newest = [p for stage in self.school.stages for p in stage][-(LESSONS + RESERVOIR) :]
        return self.school.train(newest, None)


class CarriedOn:
    """The same adapter, trained on."""

    def __init__(self, school: School) -> None:
        self.school = school
        self.adapter: Path | None = None

    def learn(self) -> Path:
        start = None if self.adapter is None else Start(read_plain(self.adapter), frozen=False)
        self.adapter = self.school.train(self.school.stages[-1], start)
        return self.adapter


def run(shifts: list[str], seed: int, tracks: int, told: Callable[[str], None]) -> dict[str, Any]:
    """One sequence, all ways."""
    config = load_preset("sim-donkey")
    limits = Limits.from_config(config.guards)
    worlds = [*shifts, "none"]
    judge = open_engine(tiny_base_folder(), config.policy)

    def row(adapter: Path) -> tuple[list[float], list[float]]:
        judge.use_adapter(adapter)
        scores = [
            drive_score(
                judge,
                world(name),
                range(TRACKS + 100 * i, TRACKS + 100 * i + tracks),
                calibration=Calibration(),
                limits=limits,
            )
            for i, name in enumerate(worlds)
        ]
        return [s.completion for s in scores], [s.lateral_error_m for s in scores]

    with tempfile.TemporaryDirectory() as scratch:
        school = School(Path(scratch), config, seed)
        ways: dict[str, Any] = {
            "slow loop": SlowLoop(school),
            "newest": Newest(school),
            "carried on": CarriedOn(school),
        }
        found: dict[str, Any] = {
            name: {"matrix": [], "lateral_m": [], "seconds": 0.0, "fast": [], "fast_lateral_m": []}
            for name in ways
        }
        for shift in shifts:
            school.teach(shift)
            for name, way in ways.items():
                told(f"{shift}: {name}")
                began = time.monotonic()
                adapter = way.learn()
                found[name]["seconds"] += time.monotonic() - began
                laps, lateral = row(adapter)
                found[name]["matrix"].append(laps)
                found[name]["lateral_m"].append(lateral)
                if isinstance(way, SlowLoop):
                    assert way.fast is not None
                    laps, lateral = row(way.fast)
                    found[name]["fast"].append(laps)
                    found[name]["fast_lateral_m"].append(lateral)
        found["slow loop"]["fold_error"] = max(ways["slow loop"].fold_errors)
    return found


def summed(runs: list[dict[str, Any]], shifts: list[str]) -> dict[str, Any]:
    """Medians over the seeds, and what they come to."""
    ways = {}
    for name in runs[0]:
        each = [r[name] for r in runs]

        def middle(key: str, each: list[dict[str, Any]] = each) -> list[list[float]]:
            stages = range(len(each[0][key]))
            return [
                [round(median(e[key][i][j] for e in each), 3) for j in range(len(shifts) + 1)] for i in stages
            ]

        matrix, lateral, last = middle("matrix"), middle("lateral_m"), len(shifts) - 1
        ways[name] = {
            "matrix": matrix,
            "lateral_m": lateral,
            "kept_lateral_m": round(mean(lateral[last][:last]), 3),
            "drift_m": round(mean(lateral[last][i] - lateral[i][i] for i in range(last)), 3),
            "kept": round(mean(matrix[last][:last]), 3),
            "lost": round(mean(matrix[i][i] - matrix[last][i] for i in range(last)), 3),
            "seconds": round(median(e["seconds"] for e in each), 1),
        }
        if each[0]["fast"]:
            ways[name] |= {"fast": middle("fast"), "fast_lateral_m": middle("fast_lateral_m")}
            ways[name]["fold_error"] = round(max(e["fold_error"] for e in each), 4)
    return ways


def markdown(report: dict[str, Any]) -> str:
    """The matrices as tables of a document: share of a lap in percent, and centimetres from the lane."""
    worlds, lines = [*report["shifts"], "none"], []
    for name, way in report["ways"].items():
        kept, lateral, drift = 100 * way["kept"], 100 * way["kept_lateral_m"], 100 * way["drift_m"]
        told = (
            f"{kept:.0f} % of a lap, {lateral:.1f} cm off the lane ({drift:+.1f} cm since each was learned)"
        )
        lines += [
            f"**{name}**: at the end, in the worlds before the last one: {told}",
            "",
            f"| lap % / cm | {' | '.join(worlds)} |",
            "|---|" + "---|" * len(worlds),
        ]
        for i, shift in enumerate(report["shifts"]):
            cells = zip(way["matrix"][i], way["lateral_m"][i], strict=True)
            row = [f"{100 * laps:.0f} / {100 * lateral:.1f}" for laps, lateral in cells]
            row = [f"**{t}**" if j <= i else t for j, t in enumerate(row)]
            lines.append(f"| after {shift} | " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.consolidation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shifts", nargs="+", default=["tape", "yaw", "colour", "pitch", "dark"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tracks", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--show", type=Path)
    given = parser.parse_args()
    if given.show is not None:
        print(markdown(json.loads(given.show.read_bytes())))
        return
    runs = []
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=given.seeds * len(given.shifts) * 3)

        def told(words: str) -> None:
            bar.update(task, description=words, advance=1)
            print(words, file=sys.stderr)

        for seed in range(given.seeds):
            runs.append(run(given.shifts, seed, given.tracks, told))
    report = {"shifts": given.shifts, "seeds": given.seeds, "ways": summed(runs, given.shifts)}
    print(json.dumps(report) if given.json else markdown(report))


if __name__ == "__main__":
    main()
