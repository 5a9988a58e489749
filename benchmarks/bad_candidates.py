"""Is a bad adapter refused, each for its own reason? Judged and promoted on the real path, in the simulator.

    python -m benchmarks.bad_candidates [--json] [--shift tape]

A fresh root with the shipped base and its serving engine; an expert records 16 lessons, the sidecar trains and judges
one candidate from them (the good one), which is promoted and rolled back again. Then each bad one is staged, judged by
`judge_candidate` and offered to `promote_candidate`, against the base that drives; on a short course, but for the one
that forgets, which has to be good at all else.

Keys:
  cases           bad candidates
  promoted_bad    of which were promoted (goal 0)
  wrong_reason    of which were refused by another check than the one that is meant for them (goal 0)
  good_promoted   the good one was
  by_case         name, the checks that are meant for it, the one that refused first, all that refused, its words
Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load, save

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops.judging import judge_candidate
from continuonbrain.loops.learning import course_of
from continuonbrain.loops.lessons import Lessons, read_lessons
from continuonbrain.loops.mid import MidLoop
from continuonbrain.loops.promotion import promote_candidate, roll_back
from continuonbrain.loops.teach import lessons as lesson_plan
from continuonbrain.loops.teach import record_expert
from continuonbrain.model.base import load_base
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.model.lora import adapter_files, attach_lora, lora_targets
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.robot.host import SimulatedHost
from continuonbrain.robot.sim.instructions import NAMES
from continuonbrain.robot.sim.shifts import world
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.adapter_version import BEHAVIOURAL_FILES, REFLEX_FILE, AdapterVersion
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.storage.promotion_rule import PromotionRefused
from continuonbrain.trainer.course import Course
from continuonbrain.trainer.job import JobSettings, train_adapter

WEIGHTS, CONFIG, CALIBRATION = "adapter_model.safetensors", "adapter_config.json", "calibration.json"
_FORGETTING_STEPS, _FORGETTING_RATE = 300, 8e-3
Files = dict[str, bytes]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A bad candidate. meant_for: the checks that are there to refuse it; words: what the first one's must hold."""

    name: str
    files: Files
    meant_for: tuple[str, ...]
    words: str = ""


def taught_root(
    folder: Path, shift: str, *, episodes: int = 16, steps: int = 150, seed: int = 60_000, **settings: Any
) -> BrainRoot:
    """A fresh root of a simulated robot that is shifted, and lessons of the expert in it. settings: top-level keys of
    its config to change."""
    layout = init_brain_root(folder, "sim-donkey", base_model=tiny_base_folder())
    config = json.loads(layout.config_path.read_text())
    config["robot"]["shift"] = shift
    layout.config_path.write_text(json.dumps(config | {"max_wall_time_s": 600} | settings))
    brain = open_brain(layout.root)
    record_expert(
        layout.episodes_dir,
        world(shift),
        instructions=lesson_plan(episodes),
        steps=steps,
        seed=seed,
        limits=Limits.from_config(brain.config.guards),
    )
    return brain


def short_course(shift: str) -> Course:
    """Two tracks for each measure, one for each instruction: where driving is not what a case is about."""
    return Course(
        world(shift),
        tracks=(40_000, 40_001),
        follow_tracks=tuple(range(40_100, 40_100 + len(NAMES))),
        unshifted_tracks=(40_200, 40_201),
        slow_tracks=(40_300, 40_301),
    )


class Bench:
    """A taught root, its lessons and the engine that judges."""

    def __init__(self, brain: BrainRoot, course: Course | None = None) -> None:
        self.brain = brain
        self.mid = MidLoop(brain, host=SimulatedHost())
        self.lessons: Lessons = read_lessons(self.mid, self.mid.new_episodes()[0])
        self.engine: Engine = open_engine(brain.layout.base_model_dir, brain.config.policy)
        self.course = course or course_of(self.mid)

    def judge(self, files: Files) -> tuple[AdapterVersion, dict[str, Any]]:
        """Stage a candidate and judge it, as the sidecar does."""
        staged = self.mid.store.stage(files)
        l = self.lessons  # noqa: E741
        verdict = judge_candidate(self.mid, staged, l.train, l.held, engine=self.engine, course=self.course)
        return staged, verdict

    def try_case(self, case: Case) -> dict[str, Any]:
        """Judge a bad candidate and try to promote it."""
        started, drives_now = time.monotonic(), self.mid.store.current()
        staged, verdict = self.judge(case.files)
        try:
            promote_candidate(self.brain)
            refused = ""
        except PromotionRefused as error:
            refused = error.reason
        promoted = not refused or self.mid.store.current() != drives_now
        failed = [c["name"] for c in verdict["checks"] if not c["passed"]]
        first = failed[0] if failed else ""
        right = first in case.meant_for and re.search(case.words, verdict["reason"]) is not None
        return {
            "case": case.name,
            "version_id": staged.version_id,
            "meant_for": list(case.meant_for),
            "refused_by": first,
            "all_that_refused": failed,
            "reason": verdict["reason"],
            "promotion": refused,
            "promoted": promoted,
            "right_reason": right and not promoted,
            "seconds": round(time.monotonic() - started, 1),
        }


def behavioural_files(folder: Path) -> Files:
    """The files of an adapter that decide how it behaves."""
    return {n: (folder / n).read_bytes() for n in BEHAVIOURAL_FILES if (folder / n).exists()}


def with_weights(files: Files, change: Callable[[str, F32], F32]) -> Files:
    """The same adapter with other LoRA factors; change is given the name of each and its values."""
    tensors = {name: change(name, values) for name, values in sorted(load(files[WEIGHTS]).items())}
    return files | {WEIGHTS: save(tensors, metadata={"format": "pt"})}


def untaught(brain: BrainRoot, calibration: Calibration, *, spread: float, seed: int = 0) -> Files:
    """An adapter that has learned nothing of the road but the servo: LoRA a hair's breadth from the base (B normal
    with this spread), the base's own reflex head, and a calibration."""
    base = brain.layout.base_model_dir
    torch.manual_seed(seed)
    model = load_base(base)
    attach_lora(
        model,
        base_sha256=base_sha256(base),
        rank=brain.config.training.rank,
        alpha=brain.config.training.alpha,
        targets=lora_targets(brain.config.lora_layers),
    )
    files = adapter_files(model)
    rng = np.random.default_rng(seed)

    def nudged(name: str, values: F32) -> F32:
        return rng.normal(0, spread, values.shape).astype(np.float32) if "lora_B" in name else values

    taught = with_weights(files, nudged) if spread else files
    head = (base / REFLEX_FILE).read_bytes()
    kept = {n: taught[n] for n in (WEIGHTS, CONFIG)}
    return kept | {CALIBRATION: calibration.to_json(), REFLEX_FILE: head}


def overtrained(bench: Bench, good: Files, *, steps: int, learning_rate: float) -> Files:
    """Learned from the same lessons without replay, too fast and too long: the new road at the cost of the old ones."""
    config, l = bench.brain.config, bench.lessons  # noqa: E741
    engine = TorchEngine(bench.brain.layout.base_model_dir)
    settings = JobSettings(
        rank=config.training.rank,
        alpha=config.training.alpha,
        targets=config.lora_layers,
        learning_rate=learning_rate,
        batch_size=config.batch_size,
        max_steps=steps,
        max_wall_time_s=1200.0,
        seed=1,
        mirror=l.measured,
    )
    result = train_adapter(engine.model, engine.layout, l.train, settings, base_sha256=engine.base_sha256)
    return good | {n: result.files[n] for n in (WEIGHTS, CONFIG)}


def mirrored(files: Files) -> Files:
    """The same adapter with a servo that is thought to be mounted the other way round."""
    said = json.loads(files[CALIBRATION])
    turned = Calibration(**(said | {"steering_gain": -said["steering_gain"]}))
    return files | {CALIBRATION: turned.to_json()}


def bad_cases(brain: BrainRoot, good: Files) -> list[Case]:
    """All but the one that forgets, which has to be trained."""
    rng = np.random.default_rng(4)
    config = json.loads(good[CONFIG])
    other_base = config | {"base_model_name_or_path": f"continuonbrain:{'0' * 64}"}
    fitted = Calibration(**json.loads(good[CALIBRATION]))
    return [
        Case(
            "noise weights",
            with_weights(good, lambda _n, v: rng.normal(0, 0.3, v.shape).astype(np.float32)),
            ("imitation_steering",),
        ),
        Case("zero adapter", with_weights(good, lambda _n, v: np.zeros_like(v)), ("differs_from_base",)),
        Case("mirrored steering", mirrored(good), ("imitation_steering",)),
        Case(
            "NaN weights",
            with_weights(good, lambda n, v: np.full_like(v, np.nan) if "lora_B" in n else v),
            ("loads",),
            "not finite|are not numbers|NaN",
        ),
        Case("the base itself", untaught(brain, fitted, spread=0.0), ("differs_from_base",)),
        Case(
            "an adapter for another base",
            good | {CONFIG: json.dumps(other_base).encode()},
            ("loads",),
            "this base is|other base|another base",
        ),
    ]


@dataclass(frozen=True)
class Misjudged:
    """A candidate that passes every check and drives worse on the robot: judged_in is the world of its course and its
    recordings, drives_in what the robot has become. Staged as candidate of `brain`, with its passing verdict."""

    brain: BrainRoot
    version: AdapterVersion
    verdict: dict[str, Any]
    judged_in: str
    drives_in: str


def misjudged_candidate(
    folder: Path,
    *,
    judged_in: str = "reverse",
    drives_in: str = "none",
    course: Course | None = None,
    tries: int = 3,
) -> Misjudged:
    """Make one, in about a minute, without training: the recordings are of a servo that was mounted the other way
    round (`judged_in`), the candidate has learned to steer so, and since then somebody has turned the servo
    (`drives_in`). Nothing that is offline can know. course: a smaller one, for tests. tries: recordings from which the
    servo's delay is fitted badly give one that the verdict does find fault with; then others are made. Raises
    `AssertionError` when it does with all."""
    for attempt in range(tries):
        seed = 60_000 + 100 * attempt
        bench = Bench(taught_root(folder / str(attempt), judged_in, seed=seed), course)
        version, verdict = bench.judge(untaught(bench.brain, bench.lessons.calibration, spread=0.02))
        if verdict["passed"]:
            return Misjudged(bench.brain, version, verdict, judged_in, drives_in)
    raise AssertionError(verdict["reason"])


def run(folder: Path, shift: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """The keys of this benchmark."""
    brain = taught_root(folder, shift)
    torch.set_num_threads(brain.config.training.threads)
    tell("the good candidate: training and judging")
    outcome = MidLoop(brain, host=SimulatedHost()).round()
    good_promoted = outcome.phase == "promoted"
    version = MidLoop(brain).store.get(outcome.version_id)
    good = behavioural_files(version.path)
    tell(f"{outcome.phase}: {outcome.detail}")
    if good_promoted:
        roll_back(brain)
    bench = Bench(brain, short_course(shift))
    rows = []
    for case in bad_cases(brain, good):
        rows.append(bench.try_case(case))
        tell(f"{case.name}: {rows[-1]['reason'] or 'passed'} ({rows[-1]['seconds']} s)")
    tell("one that forgets: training without replay")
    forgets = overtrained(bench, good, steps=_FORGETTING_STEPS, learning_rate=_FORGETTING_RATE)
    bench.course = course_of(bench.mid)  # the whole one: it has to be good at all else
    rows.append(bench.try_case(Case("one that forgets", forgets, ("forgetting", "replay"))))
    tell(f"{rows[-1]['case']}: {rows[-1]['reason'] or 'passed'} ({rows[-1]['seconds']} s)")
    return summary(rows) | {"good_promoted": good_promoted, "good": outcome.detail, "by_case": rows}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over the cases."""
    return {
        "cases": len(rows),
        "promoted_bad": sum(row["promoted"] for row in rows),
        "wrong_reason": sum(not row["promoted"] and not row["right_reason"] for row in rows),
    }


def main() -> int:
    """Run it; 1 when a bad one got through, was refused for another reason, or the good one was refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--shift", default="tape")
    given = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder) / "robot", given.shift, console.print)
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        table = Table("candidate", "meant for", "refused by", "right", "promoted")
        for row in result["by_case"]:
            meant = " or ".join(row["meant_for"])
            table.add_row(
                row["case"], meant, row["refused_by"], str(row["right_reason"]), str(row["promoted"])
            )
        Console().print(table)
        print(f"good promoted: {result['good_promoted']}, bad promoted: {result['promoted_bad']}")
    return int(not result["good_promoted"] or result["promoted_bad"] + result["wrong_reason"] > 0)


if __name__ == "__main__":
    sys.exit(main())
