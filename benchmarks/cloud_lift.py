"""Does the adapter that a bigger machine trains drive better than the robot's own? Same lessons, same judge.

    python -m benchmarks.cloud_lift [--seeds 0 1 2] [--shift tape] [--rows FILE] [--json]

Each seed is a robot with lessons of its own in a shifted world: sixteen of ten seconds. Three ways to learn from them:

  on_device    the sidecar's job with the preset's settings: rank 8, 400 steps. All of its steps, whatever the clock
               says: on a slow machine its minute would be over before them
  cloud        `cloud export`, `cloud train` at --rank 32 with --steps 800 (--layers all: every layer, at a multiple of
               the time), projected to the robot's shape; with the relative error of that
  cloud_fleet  the same with the bundles of --robots 4 robots, of which the robot is one: the others had other tracks,
               cameras and light in the same world

All are judged alike, in the engine that drives, by paths alone at five decisions a second, each with the calibration
that it came with: a lap on each of 12 tracks, three trials of every instruction on tracks of their own, and the
steering error on eight lessons. Nobody was taught on any of these, and all differ from seed to seed.

The rule was written before any figure: a way is better in a score if the 95 % interval of its difference to the
device's (paired by track, trial and episode; drawn again within each seed) leaves out 0 and no seed says the opposite.
It is worse if the interval leaves out 0 on the other side. It beats the device if it is better in one score at least,
and worse in none. Intervals speak of these trainings on other roads, not of other trainings.

--rows keeps what each way did with each seed; what is there is not run again, so that a run can be cut short.

Keys:
  on_device, cloud, cloud_fleet, base   medians over the seeds of completion (share of a lap), instructions (share),
                                        held_out_error (share of full lock), seconds (of computing: samples, caching,
                                        steps, processes); steps; rank, as the robot drives with it; by_seed: the same
                                        of each seed; cloud ways also: trained_rank, projection_error, against_device
                                        (of each score the difference, its interval, and by seed)
  cloud_beats_on_device, cloud_fleet_beats_on_device, why
  shift, seeds, robots, layers; computing_s, wall_s: of this run

Takes about a quarter of an hour of one core that has nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.lift_rule import BASE, CLOUD, DEVICE, FLEET, SCORES, report, table
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cloud.export import export_bundle
from continuonbrain.cloud.plan import what_leaves
from continuonbrain.cloud.survey import survey
from continuonbrain.cloud_train.finish import CALIBRATION
from continuonbrain.cloud_train.recipe import Layers, Recipe, recipe_of
from continuonbrain.cloud_train.train import ADAPTER, Asked, train
from continuonbrain.config import load_preset
from continuonbrain.config.brain import BrainConfig
from continuonbrain.loops.learning import replay_for
from continuonbrain.loops.teach import lessons, record_expert
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.rlds.sharing import set_answer
from continuonbrain.robot.sim.instructions import NAMES
from continuonbrain.robot.sim.shifts import SHIFTS, world
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.durable import write_json_durably
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.public_key import PublicKey
from continuonbrain.storage.trusted_keys import PrivateKeys
from continuonbrain.trainer.dataset import build_samples, calibrate, read_drive
from continuonbrain.trainer.evaluate import answers
from continuonbrain.trainer.held_out import hold_out, instructions_by_name
from continuonbrain.trainer.job import JobSettings, train_adapter
from continuonbrain.trainer.recorded import steering_of
from continuonbrain.trainer.score import drive_score, follow_score

LESSONS, HELD_OUT, LESSON_TICKS = 16, 8, 200
TRACKS, TRIALS = 12, 3
DECISION_S = 0.2
LESSON_TRACKS, HELD_OUT_TRACKS, SCORE_TRACKS = 1_000_000, 1_500_000, 1_600_000
_OF_A_SEED, _OF_A_ROBOT = 10_000, 100
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Lift:
    """What is compared: the settings of a run."""

    shift: str
    robots: int
    rank: int
    steps: int
    layers: Layers

    @property
    def config(self) -> BrainConfig:
        """Of every robot: the preset, opted in, in its world."""
        return load_preset("sim-donkey").with_overrides({"robot.shift": self.shift, "cloud.opt_in": True})

    @property
    def limits(self) -> Limits:
        return Limits.from_config(self.config.guards)

    def fingerprint(self, way: str) -> dict[str, Any]:
        """What makes a row of a way another one."""
        trained = {"rank": self.rank, "steps": self.steps, "layers": self.layers}
        own = {BASE: {}, DEVICE: {}, CLOUD: trained, FLEET: trained | {"robots": self.robots}}[way]
        return {"shift": self.shift, **own}


class School:
    """The robots of one seed, recorded and exported when they are first asked for."""

    def __init__(self, lift: Lift, seed: int, scratch: Path) -> None:
        self.lift, self.seed, self.scratch = lift, seed, scratch
        self._robots: dict[int, tuple[BrainRoot, Path, PublicKey]] = {}

    def robot(self, number: int) -> tuple[BrainRoot, Path, PublicKey]:
        """A robot that was taught, its bundle and the key that signed it."""
        if number not in self._robots:
            layout = init_brain_root(self.scratch / f"robot-{number}", "sim-donkey")
            layout.base_model_dir.rmdir()
            layout.base_model_dir.symlink_to(tiny_base_folder())
            write_json_durably(layout.config_path, self.lift.config.model_dump(mode="json"))
            key = PrivateKeys(layout).new("robot")
            first = LESSON_TRACKS + _OF_A_SEED * self.seed + _OF_A_ROBOT * number
            for path in self._recorded(layout.episodes_dir, LESSONS, first):
                set_answer(path, yes=True)
            brain = open_brain(layout.root)
            plan = what_leaves(survey(layout.episodes_dir), share_unmarked=False)
            done = export_bundle(
                brain, plan, self.scratch / f"memory-{number}.zip", as_zip=True, key_name="robot"
            )
            self._robots[number] = brain, done.path, key
        return self._robots[number]

    def held_out(self) -> list[Path]:
        """Lessons that nobody learns from."""
        folder = self.scratch / "held-out"
        if not folder.exists():
            self._recorded(folder, HELD_OUT, HELD_OUT_TRACKS + _OF_A_SEED * self.seed)
        return list_episodes(folder)

    def _recorded(self, folder: Path, number: int, first: int) -> list[Path]:
        return record_expert(
            folder,
            world(self.lift.shift),
            instructions=lessons(number),
            steps=LESSON_TICKS,
            seed=first,
            limits=self.lift.limits,
        )


def on_device(school: School, out: Path) -> dict[str, Any]:
    """The sidecar's job, without its clock; the adapter goes into `out`."""
    config, rules = school.lift.config, school.lift.config.promotion
    brain, _, _ = school.robot(0)
    drives = [read_drive(p) for p in list_episodes(brain.layout.episodes_dir)]
    calibration = calibrate(drives)
    kept = hold_out(
        [d.episode.path for d in drives],
        tail=rules.eval_tail_episodes,
        least=rules.min_eval_episodes,
        said=instructions_by_name(drives),
    )[0]
    samples = build_samples([d for d in drives if d.episode.path in kept], calibration)
    engine = TorchEngine(tiny_base_folder())
    settings = JobSettings(
        rank=config.training.rank,
        alpha=config.training.alpha,
        targets=config.lora_layers,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        batch_size=config.batch_size,
        max_steps=config.max_steps,
        max_wall_time_s=1e9,
        seed=school.seed,
    )
    done = train_adapter(
        engine.model,
        engine.layout,
        samples,
        settings,
        base_sha256=engine.base_sha256,
        replay=replay_for(tiny_base_folder(), school.seed),
    )
    out.mkdir()
    for name, data in {**done.files, CALIBRATION: calibration.to_json()}.items():
        (out / name).write_bytes(data)
    return {"steps": done.steps, "rank": settings.rank}


def elsewhere(school: School, out: Path, robots: int) -> dict[str, Any]:
    """`cloud train` on the bundles of so many robots; the adapter, in the robot's shape, is in `out`/adapter."""
    lift, given = school.lift, [school.robot(i) for i in range(robots)]

    def recipe(config: BrainConfig, measured: bool) -> Recipe:
        return recipe_of(
            config,
            rank=lift.rank,
            layers=lift.layers,
            steps=lift.steps,
            seed=school.seed,
            reflex_steps=0,
            mirror=measured,
        )

    asked = Asked(
        bundles=tuple(bundle for _, bundle, _ in given),
        keys=tuple(key for _, _, key in given),
        base=tiny_base_folder(),
        out=out,
        recipe=recipe,
        robot=pseudonym(given[0][1]),
        elsewhere="drop",
        cpu=True,
        save_every=lift.steps,
        eval_every=lift.steps,
    )
    done = train(asked)
    fit = done["fit"]
    return {
        "steps": done["steps"],
        "rank": fit["rank"],
        "trained_rank": done["rank"],
        "projection_error": round(fit["relative_error"], 4),
    }


def pseudonym(bundle: Path) -> str:
    """What the robot of a bundle is called in it."""
    with zipfile.ZipFile(bundle) as opened:
        name: str = json.loads(opened.read("manifest.json"))["robot"]
    return name


def judged(engine: Engine, school: School, folder: Path | None) -> dict[str, list[float]]:
    """The scores of an adapter (None: the base alone), by what is independent: tracks, trials, episodes."""
    lift, limits = school.lift, school.lift.limits
    engine.use_adapter(folder)
    calibration = Calibration() if folder is None else Calibration.from_file(folder / CALIBRATION)
    first = SCORE_TRACKS + _OF_A_SEED * school.seed
    laps = drive_score(
        engine,
        world(lift.shift),
        range(first, first + TRACKS),
        calibration=calibration,
        limits=limits,
        decision_time_s=DECISION_S,
        reflex=False,
    )
    follow = follow_score(
        engine,
        world(lift.shift),
        range(first + 100, first + 100 + TRIALS * len(NAMES)),
        calibration=calibration,
        limits=limits,
        decision_time_s=DECISION_S,
        reflex=False,
        own_tracks=True,
    )
    held = build_samples([read_drive(p) for p in school.held_out()], calibration)
    errors = np.abs(steering_of(answers(engine, held), held, calibration) - held.command[:, 0])
    by_episode = [float(errors[held.episode == i].mean()) for i in np.unique(held.episode)]
    scores = {
        "completion": laps.completions,
        "instructions": follow.by_track,
        "held_out_error": tuple(by_episode),
    }
    return {name: [round(v, 5) for v in values] for name, values in scores.items()}


def cells(
    lift: Lift, seeds: Sequence[int], done: set[tuple[int, str]], told: Told
) -> Iterator[dict[str, Any]]:
    """What each way did with each seed, where that is not known yet."""
    judge = open_engine(tiny_base_folder(), lift.config.policy)
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="cloud-lift-") as scratch:
            school = School(lift, seed, Path(scratch))
            ways: dict[str, Callable[[Path], dict[str, Any]]] = {
                BASE: lambda _out: {"steps": 0, "rank": 0},
                DEVICE: partial(on_device, school),
                CLOUD: partial(elsewhere, school, robots=1),
                FLEET: partial(elsewhere, school, robots=lift.robots),
            }
            for way, learn in ways.items():
                if (seed, way) in done:
                    continue
                for number in range(lift.robots if way == FLEET else 1):
                    school.robot(number)  # what was driven is not counted as learning
                out, began = Path(scratch) / way, computing()
                row = {"seed": seed, "way": way, **learn(out), "seconds": round(computing() - began, 1)}
                folder = None if way == BASE else out / ADAPTER if (out / ADAPTER).is_dir() else out
                row |= judged(judge, school, folder)
                told(f"seed {seed}, {way}: " + ", ".join(f"{s} {mean(row[s]):.3f}" for s in SCORES))
                yield row


def computing() -> float:
    """Seconds of computing of this process and of those that it has waited for."""
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + below.ru_utime + below.ru_stime


def _rows(path: Path | None, lift: Lift) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [r for r in found if r["of"] == lift.fingerprint(r["way"])]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cloud_lift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shift", default="tape", choices=sorted(SHIFTS))
    parser.add_argument("--robots", type=int, default=4)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--layers", default="top", choices=get_args(Layers))
    parser.add_argument("--rows", type=Path, help="a file of JSON lines")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began, lift = time.monotonic(), Lift(given.shift, given.robots, given.rank, given.steps, given.layers)
    rows = _rows(given.rows, lift)

    def told(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    for row in cells(lift, given.seeds, {(r["seed"], r["way"]) for r in rows}, told):
        rows.append(row | {"of": lift.fingerprint(row["way"])})
        if given.rows is not None:
            with given.rows.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    found = report(given.seeds, rows)
    found |= {"shift": lift.shift, "robots": lift.robots, "layers": lift.layers}
    found |= {"computing_s": round(computing(), 1), "wall_s": round(time.monotonic() - began, 1)}
    print(json.dumps(found) if given.json else table(found))


if __name__ == "__main__":
    main()
