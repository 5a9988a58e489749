"""What the reservoir holds is kept, settled as soon as it was learned, and made anew from the cards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.memory import keep_within_limits, protected_episodes
from continuonbrain.loops.remembering import lessons_of, read_reservoir, remember, write_reservoir
from continuonbrain.loops.slow import SlowLoop
from continuonbrain.rlds.reader import list_episodes
from tests.loops.sidecar import Brain, Evidences, card, docked

pytestmark = pytest.mark.usefixtures("torch_threads")


def test_what_the_reservoir_holds_is_not_forgotten(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain(episodes=12, **{"recorder.keep": "nothing", "slow.reservoir_episodes": 8})
    first = docked(root)
    first.round()
    SlowLoop(first)._remember()
    names = read_reservoir(root.layout.reservoir_path).names
    assert protected_episodes(root) == names
    assert len(names) == 8
    small = BrainRoot(root.layout, root.config.with_overrides({"min_episodes": 1, "max_episodes": 1}))
    keep_within_limits(small)
    assert {p.name for p in list_episodes(root.layout.episodes_dir)} == names
    root.layout.reservoir_path.write_text("{}")
    with pytest.raises(BrainError, match=r"reservoir\.json"):
        keep_within_limits(small)
    assert {p.name for p in list_episodes(root.layout.episodes_dir)} == names


def test_a_memory_that_the_reservoir_fills_still_learns_what_is_new(
    slow_brain: Brain, evidence: Evidences, twelve_lessons: Path
) -> None:
    root = slow_brain(**{"max_episodes": 8, "slow.reservoir_episodes": 64})
    docked(root).round()
    SlowLoop(docked(root)).round()
    assert len(read_reservoir(root.layout.reservoir_path).kept) <= 4  # half of the memory is for what is new
    for path in list_episodes(twelve_lessons)[8:12]:
        copied = shutil.copytree(path, root.layout.episodes_dir / path.name)
        (copied / "metadata.json").touch()  # it came now
    new = {p.name for p in list_episodes(twelve_lessons)[8:12]}
    assert docked(root).round().phase == "promoted"
    assert new <= set(card(root)["episodes"]) | set(card(root)["held_out"])


def test_the_exam_is_settled_as_soon_as_a_lesson_was_learned(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain()
    docked(root).round()
    exam = {e.episode for e in read_reservoir(root.layout.reservoir_path).kept if e.exam}
    assert exam == set(card(root)["held_out"])


def test_a_reservoir_is_made_anew_from_the_cards(
    slow_brain: Brain, evidence: Evidences, tmp_path: Path
) -> None:
    root = slow_brain()
    first = docked(root)
    first.round()
    cards = lessons_of(first.store)
    (lesson,) = cards
    found, unreadable = remember(read_reservoir(tmp_path / "none"), cards, root.layout.episodes_dir, 8)
    assert unreadable == []
    assert {e.episode for e in found.kept if e.exam} <= lesson.held_out
    assert {e.episode for e in found.kept if not e.exam} <= lesson.learned
    write_reservoir(tmp_path / "r.json", found)
    assert read_reservoir(tmp_path / "r.json") == found
    again, _ = remember(found, cards, root.layout.episodes_dir, 8)
    assert again == found
    gone = found.kept[0].episode
    shutil.rmtree(root.layout.episodes_dir / gone)
    less, _ = remember(found, cards, root.layout.episodes_dir, 8)
    assert gone not in less.names | less.seen


@pytest.mark.parametrize("content", ["", "[]", "null", '{"format": "x"}', "[" * 100_000, '{"format": 1e999}'])
def test_a_reservoir_that_makes_no_sense_is_told_with_a_remedy(tmp_path: Path, content: str) -> None:
    path = tmp_path / "reservoir.json"
    path.write_text(content)
    with pytest.raises(BrainError, match=r"reservoir\.json cannot be read") as caught:
        read_reservoir(path)
    assert "move it away" in caught.value.remedy


def test_what_is_damaged_is_not_forgotten_unseen(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain()
    loop = docked(root)
    loop.round()
    before = read_reservoir(root.layout.reservoir_path)
    name = sorted(before.names)[0]
    metadata = root.layout.episodes_dir / name / "metadata.json"
    whole = metadata.read_bytes()
    metadata.write_bytes(whole[:40])
    capacity = root.config.slow.reservoir_episodes
    damaged, unreadable = remember(before, lessons_of(loop.store), root.layout.episodes_dir, capacity)
    assert name in damaged.names
    assert [text for text in unreadable if name in text]
    metadata.write_bytes(whole)  # mended
    mended, unreadable = remember(damaged, lessons_of(loop.store), root.layout.episodes_dir, capacity)
    assert (mended.names, unreadable) == (before.names, [])
    shutil.rmtree(root.layout.episodes_dir / name)
    gone, unreadable = remember(mended, lessons_of(loop.store), root.layout.episodes_dir, capacity)
    assert (name in gone.names, unreadable) == (False, [])
