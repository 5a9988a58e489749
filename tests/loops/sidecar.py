"""What the tests of the sidecar's two loops share: small brains, evidence that passes, what was left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops.mid import MidLoop
from continuonbrain.loops.slow import SlowReport
from continuonbrain.policy.reflex import REFLEX_FILE
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.robot.host import SimulatedHost
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import init_brain_root
from continuonbrain.trainer.evidence import Closed, Evidence, Exam, HeldOut, Imitation, Laps, Slow, Sources
from continuonbrain.trainer.exam import Paper, with_best

QUICK = {
    "min_episodes": 4,
    "max_steps": 3,
    "batch_size": 4,
    "max_wall_time_s": 600,
    "training.rank": 2,
    "training.threads": 1,
    "promotion.max_eval_steps": 48,
}
QUICK_SLOW = QUICK | {
    "training.reflex_steps": 0,
    "promotion.probation_ticks": 0,
    "promotion.probation_minutes": 0.0,
    "slow.after_promotions": 1,
    "slow.reservoir_episodes": 12,
}
Brain = Callable[..., BrainRoot]


def make_brain(root: Path, base: Path, taught: Path, *, episodes: int = 6, **overrides: Any) -> BrainRoot:
    layout = init_brain_root(root, "sim-donkey", base_model=base)
    for path in list_episodes(taught)[:episodes]:
        shutil.copytree(path, layout.episodes_dir / path.name)
    brain = open_brain(root)
    return BrainRoot(brain.layout, brain.config.with_overrides(QUICK | overrides))


class Evidences:
    """Evidence that passes, bound to the real hashes, without driving anything.

    forgot, sped: how much worse a candidate of the slow loop is in the exam, in steering and in speed; now: errors
    there of what drives now; asked: the exam that it was asked.
    """

    forgot, sped, now = 0.0, 0.0, 0.05
    asked: Paper | None = None

    def __call__(
        self, engine: Any, *, candidate: Any, current: Any, exam: Any, on_part: Any, **_rest: Any
    ) -> Evidence:
        on_part("candidate: laps", 1, 2)  # as every tick of a rollout does
        ones, nothing = (1.0,) * 4, (0.0,) * 4
        good = Closed(1.0, 0.02, 0.0, 1.0, 1.0, 1.0, ones, nothing, nothing, ones)
        gain = exam is None  # a consolidation is no better at anything
        held = HeldOut((0, 1, 2, 3), (25.0,) * 4, (0.1 if gain else 0.2,) * 4, (0.2,) * 4, (0.3,) * 4)
        held = replace(held, speed_candidate=(0.03,) * 4, speed_current=(0.03,) * 4)
        asked = None
        if exam is not None:
            self.asked = exam
            n, now = len(exam.lessons), self.now
            asked = Exam(
                "e" * 64,
                tuple(exam.lessons.values()),
                (30.0,) * n,
                (now + self.forgot,) * n,
                (now,) * n,
                (now + self.sped,) * n,
                (now,) * n,
                tuple(i in exam.trained for i in exam.lessons),
                tuple(exam.names.values()),
                unread=exam.unread,
            )
            asked = with_best(asked, exam.best)
        return Evidence(
            candidate.sha256,
            engine.base_sha256,
            "e" * 64,
            100,
            Imitation(0.1 if gain else 0.2, 0.1),
            Imitation(0.2, 0.2),
            distance=0.1,
            difference=0.1,
            closed_candidate=good,
            closed_current=good,
            held=held,
            exam=asked,
            unshifted_candidate=Laps(1.0, ones),
            unshifted_base=Laps(1.0, ones),
            has_reflex=(candidate.folder / REFLEX_FILE).exists(),
            slow_candidate=Slow(1.0, 1.0, ones, ones),
            slow_current=Slow(1.0, 1.0, ones, ones),
            sources=Sources(current_sha256=current.sha256),
        )


def loop(brain: BrainRoot, host: SimulatedHost | None = None) -> MidLoop:
    return MidLoop(brain, host=host or SimulatedHost())


def docked(root: BrainRoot, **readings: float) -> MidLoop:
    host = SimulatedHost()
    if readings:
        host.set(**readings)
    return MidLoop(root, host=host)


def status_on_disk(brain: BrainRoot) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(brain.layout.status_path.read_text())
    return status


def nothing_staged(brain: BrainRoot) -> bool:
    store = AdapterStore(brain.layout)
    return store.list() == () and store.candidate() is None and store.current() is None


def outcomes(report: SlowReport) -> dict[str, str]:
    return {p.name: p.outcome for p in report.parts}


def card(root: BrainRoot, slot: str = "current") -> dict[str, Any]:
    version = AdapterStore(root.layout).find(slot)
    return dict(version.card() or {})


def damage_steps(episode: Path) -> None:
    file = episode / "steps" / "000000.jsonl"
    file.write_bytes(file.read_bytes()[:-200])


def damage_frames(episode: Path) -> None:
    file = episode / "blobs" / "000000.tfrecord"
    data = bytearray(file.read_bytes())
    for i in range(0, len(data), 1000):  # not every frame is read: damage all
        data[i] ^= 0xFF
    file.write_bytes(data)
