"""The torch half of the slow loop: what drives, folded into one slow adapter, and trained on with the reservoir.

Kept apart from `slow.py` so that a sidecar that only waits does not hold torch in memory.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continuonbrain.errors import BrainError
from continuonbrain.loops.at_work import paper_of
from continuonbrain.loops.learning import Learned, Task, begin, teach
from continuonbrain.loops.lessons import Choice, read_lessons
from continuonbrain.loops.remembering import Reservoir, told
from continuonbrain.loops.slow_adapter import KIND, SLOW, card_of, names_in, standing_slow
from continuonbrain.loops.two_adapters import left_out
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.model.lora import lora_targets
from continuonbrain.model.plain_lora import Start, folded, read_plain
from continuonbrain.policy.calibration import Calibration
from continuonbrain.storage.adapter_reader import AdapterReader
from continuonbrain.storage.adapters import AdapterVersion
from continuonbrain.trainer.exam import best_of
from continuonbrain.trainer.reservoir import reservoir_sha256

if TYPE_CHECKING:
    from continuonbrain.loops.at_work import Sidecar


def consolidate(mid: Sidecar, current: AdapterVersion, reservoir: Reservoir, known: list[Path]) -> Learned:
    """One slow adapter that does what `current` does and remembers what the reservoir holds: a candidate with its
    verdict.

    Args:
        current: what drives, a fast adapter with or without a slow one below it.
        reservoir: with the lessons of `current` in it.
        known: all lessons on disk.

    Raises:
        BrainError: nothing of the reservoir can be read, there is no exam, or what drives is no plain LoRA, or one of
            modules that lora_layers does not name.
    """
    started = time.monotonic()
    card = card_of(current)
    by_name = {p.name: p for p in known}
    newest = [name for key in ("episodes", "held_out") for name in names_in(card, key)]
    names = sorted({n for n in (*newest, *reservoir.names) if n in by_name})
    exam = {e.episode: e.lesson for e in reservoir.kept if e.exam and e.episode in by_name}
    if not exam:
        raise BrainError(
            "no episode is left for an exam: what a consolidation forgets could not be seen",
            remedy="record more lessons; a quarter of them is held out of training",
        )
    begin(mid, len(names))
    drives = read_plain(current.path)
    if why := left_out(mid.brain, drives, lora_targets(mid.config.lora_layers)):
        raise BrainError(
            f"{why} that drives",
            remedy="name them again; or learn anew with those that are named, then promote that: continuonbrain train "
            "--again",
        )
    choice = Choice(
        calibration=Calibration.from_file(current.path / "calibration.json"),
        held_out=frozenset(names_in(card, "held_out")),
        exam=exam,
        by_episode={e.episode: e.calibration for e in reservoir.kept},
        remembered={e.episode: e.lesson for e in reservoir.kept if e.episode in by_name},
    )
    lessons = read_lessons(mid, [by_name[n] for n in names], choice)
    if lessons.exam is None:
        raise BrainError(
            "no episode of the exam can be read: what a consolidation forgets could not be seen",
            remedy=f"look for damage: continuonbrain episodes doctor {mid.layout.episodes_dir}",
        )
    best = best_of(_verdicts(mid.store), base_sha256(mid.layout.base_model_dir))
    lessons = replace(lessons, exam=replace(lessons.exam, best=best))
    both, fold_error = folded(drives, mid.config.training.rank)
    paper = {
        "of": current.version_id,
        "fold_error": round(fold_error, 5),
        "reservoir": {"sha256": reservoir_sha256(reservoir.kept), **told(reservoir)},
    }
    # Lessons that came since nobody has learned from: they are not this adapter's to have considered.
    below = standing_slow(mid.store)
    seen = {*names, *names_in(card, "considered"), *(below.considered if below is not None else ())}
    considered = [p for p in known if p.name in seen]
    return teach(mid, lessons, considered, Task(SLOW, Start(both, frozen=False), paper), started)


def _verdicts(store: AdapterReader) -> list[dict[str, Any] | None]:
    """Of all consolidations, oldest first; None for one that has none that can be read."""
    return [paper_of(v.verdict) for v in store.list() if card_of(v).get(KIND) == SLOW]
