"""The exam on the disk: nobody learns from it, every lesson is asked, and the best of before is held up to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.lessons import Choice, set_paper
from continuonbrain.loops.remembering import lessons_of, read_reservoir, remember
from continuonbrain.loops.slow import SlowLoop
from continuonbrain.policy.calibration import Calibration
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.trainer.dataset import Drive, Samples, build_samples, read_drive
from continuonbrain.trainer.exam import BEST, Paper
from tests.loops.sidecar import Brain, Evidences, card, docked, outcomes

pytestmark = pytest.mark.usefixtures("torch_threads")


def exam_of(root: BrainRoot) -> set[str]:
    return {e.episode for e in read_reservoir(root.layout.reservoir_path).kept if e.exam}


def teach_more(root: BrainRoot, twelve_lessons: Path, since: int = 8) -> set[str]:
    """The rest of twelve lessons, that came now."""
    for path in list_episodes(twelve_lessons)[since:12]:
        copied = shutil.copytree(path, root.layout.episodes_dir / path.name)
        (copied / "metadata.json").touch()
    return {p.name for p in list_episodes(twelve_lessons)[since:12]}


def verdict(root: BrainRoot, slot: str = "current") -> dict[str, Any]:
    return dict(AdapterStore(root.layout).find(slot).verdict() or {})


def test_no_fast_adapter_learns_from_what_is_for_the_exam(
    slow_brain: Brain, evidence: Evidences, twelve_lessons: Path
) -> None:
    root = slow_brain()
    docked(root).round()
    exam = exam_of(root)
    assert exam
    new = teach_more(root, twelve_lessons)
    # Nothing is consolidated yet: this one learns all lessons from the base.
    assert docked(root).round().phase == "promoted"
    told = card(root)
    assert "slow" not in told
    assert new <= set(told["episodes"]) | set(told["held_out"])
    assert not exam & set(told["episodes"])
    assert exam <= {*told["held_out"], *told["for_exams"]}  # none is passed over in silence
    assert exam <= exam_of(root)


def test_learning_from_the_same_episodes_again_is_judged_by_as_many(
    slow_brain: Brain, evidence: Evidences
) -> None:
    root = slow_brain()
    docked(root).round()
    first = card(root)
    assert docked(root).round(again=True).phase == "promoted"
    again = card(root)
    assert {k: again[k] for k in ("episodes", "held_out", "samples_sha256")} == {
        k: first[k] for k in ("episodes", "held_out", "samples_sha256")
    }
    assert again["for_exams"] == []


def test_what_was_trained_on_after_all_is_no_exam_any_more(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain()
    first = docked(root)
    first.round()
    (lesson,) = lessons_of(first.store)
    before = read_reservoir(root.layout.reservoir_path)
    exam = sorted(exam_of(root))
    assert len(exam) > 1
    # As a restored backup or an older version of this software may have left it.
    later = replace(lesson, number=lesson.number + 1, learned=frozenset(exam[:1]), held_out=frozenset())
    for known in (before, read_reservoir(root.layout.root / "none")):
        after, _ = remember(known, [lesson, later], root.layout.episodes_dir, 12)
        assert {e.episode for e in after.kept if e.exam} == set(exam[1:])
        assert exam[0] in after.names


def test_a_lesson_that_has_lost_its_exam_is_asked_by_what_it_was_trained_on(
    slow_brain: Brain, evidence: Evidences, twelve_lessons: Path
) -> None:
    root = slow_brain(episodes=4)
    docked(root).round()
    first = exam_of(root)
    assert first
    new = teach_more(root, twelve_lessons, since=4)
    assert docked(root).round().phase == "promoted"
    for name in first:
        shutil.rmtree(root.layout.episodes_dir / name)
    assert outcomes(SlowLoop(docked(root)).round())["consolidate"] == "done"
    paper = evidence.asked
    assert paper is not None
    kept = read_reservoir(root.layout.reservoir_path).kept
    assert set(paper.lessons.values()) == {e.lesson for e in kept} == {1, 2}
    assert {paper.lessons[i] for i in paper.trained} == {1}
    assert len(paper.trained) == 2
    told = verdict(root)["evidence"]["exam"]
    assert [n for n, t in zip(told["lesson"], told["trained"], strict=True) if t] == [1, 1]
    assert exam_of(root) <= new
    assert not exam_of(root) & set(card(root)["episodes"])


def test_a_consolidation_is_held_against_the_best_of_those_before_it(
    slow_brain: Brain, evidence: Evidences, twelve_lessons: Path
) -> None:
    root = slow_brain()
    docked(root).round()
    assert outcomes(SlowLoop(docked(root)).round())["consolidate"] == "done"
    assert evidence.asked is not None
    assert not evidence.asked.best
    first = set(evidence.asked.names.values())
    teach_more(root, twelve_lessons)
    assert docked(root).round().phase == "promoted"
    # What drives now has lost some of the first lesson unseen, and the consolidation no more than that.
    evidence.now, evidence.forgot = 0.12, 0.005
    part = SlowLoop(docked(root)).round().part("consolidate")
    assert part is not None
    assert evidence.asked.best.keys() == first
    assert first < set(evidence.asked.names.values())  # the same questions, whatever else is asked
    assert (part.outcome, part.detail.split(":")[0]) == ("refused", "worst_lesson")
    assert f"number 1, steering, against {BEST}" in part.detail
    told = verdict(root, "candidate")["evidence"]["exam"]
    assert [b for b in told["best"] if b is not None] == [0.05] * len(first)


def test_speeds_that_were_unlearned_are_refused(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain()
    docked(root).round()
    evidence.sped = 0.06
    part = SlowLoop(docked(root)).round().part("consolidate")
    assert part is not None
    assert (part.outcome, part.detail.split(":")[0]) == ("refused", "lessons_speed")


def paper_of(
    exam: dict[str, int], remembered: dict[str, int], pick: Callable[[Drive], Samples | None]
) -> Paper | None:
    def drives(names: set[str]) -> list[Any]:
        return [SimpleNamespace(episode=SimpleNamespace(path=Path(n))) for n in sorted(names)]

    choice = Choice(Calibration(), frozenset(), exam, remembered=remembered)
    return set_paper(drives(set(exam)), drives(set(remembered) - set(exam)), choice, pick)


def test_every_lesson_that_is_remembered_is_asked_or_named(twelve_lessons: Path) -> None:
    samples = build_samples([read_drive(list_episodes(twelve_lessons)[0])], Calibration(), max_samples=6)

    def pick(drive: Drive) -> Samples | None:
        name = drive.episode.path.name
        return None if name.startswith("damaged") else replace(samples, command=samples.command + len(name))

    exam = {"a1": 1, "a2": 1, "damaged b": 2}
    remembered = exam | {"a3": 1, "b1": 2, "c1": 3, "c2": 3, "c3": 3, "damaged c": 3, "damaged d": 4}
    paper = paper_of(exam, remembered, pick)
    assert paper is not None
    assert list(paper.lessons.values()) == [1, 1, 2, 3, 3]
    assert paper.trained == {2, 3, 4}
    assert paper.unread == (4,)
    assert np.unique(paper.samples.episode).tolist() == list(paper.lessons) == list(paper.names)
    # What is asked is another thing once it is trained on, and of one episode the same whoever else is asked.
    assert len({n.rstrip("+") for n in paper.names.values()}) == 1
    assert {n.endswith("+") for i, n in paper.names.items() if i in paper.trained} == {True}
    assert paper_of({"damaged b": 2}, remembered, pick) is None
