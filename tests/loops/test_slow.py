"""The slow loop: docked only, each part for itself, a consolidation that is judged by what it forgot, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from continuonbrain.brain_root import BrainRoot, open_brain  # noqa: E402
from continuonbrain.config import PolicyConfig  # noqa: E402
from continuonbrain.errors import BrainError  # noqa: E402
from continuonbrain.loops import judging, mid, slow  # noqa: E402
from continuonbrain.loops import lessons as lessons_module  # noqa: E402
from continuonbrain.loops.memory import keep_within_limits, protected_episodes  # noqa: E402
from continuonbrain.loops.mid import MidLoop, watch  # noqa: E402
from continuonbrain.loops.remembering import lessons_of, read_reservoir, remember, write_reservoir  # noqa: E402
from continuonbrain.loops.slow import SlowLoop, SlowReport  # noqa: E402
from continuonbrain.loops.slow_adapter import standing_slow  # noqa: E402
from continuonbrain.loops.teach import lessons, record_expert  # noqa: E402
from continuonbrain.model.base_identity import tiny_base_folder  # noqa: E402
from continuonbrain.model.plain_lora import read_plain  # noqa: E402
from continuonbrain.policy.open_engine import largest_rank  # noqa: E402
from continuonbrain.policy.reflex import REFLEX_FILE  # noqa: E402
from continuonbrain.rlds.reader import list_episodes  # noqa: E402
from continuonbrain.robot.host import SimulatedHost  # noqa: E402
from continuonbrain.robot.sim.shifts import BASE  # noqa: E402
from continuonbrain.safety.guards import Limits  # noqa: E402
from continuonbrain.storage.adapters import AdapterStore  # noqa: E402
from continuonbrain.storage.backup import backups, check_backup  # noqa: E402
from continuonbrain.storage.layout import init_brain_root  # noqa: E402
from continuonbrain.trainer.evidence import (  # noqa: E402
    Closed,
    Evidence,
    Exam,
    HeldOut,
    Imitation,
    Laps,
    Slow,
    Sources,
)
from continuonbrain.trainer.exam import Paper, with_best  # noqa: E402

QUICK = {
    "min_episodes": 4,
    "max_steps": 3,
    "batch_size": 4,
    "max_wall_time_s": 600,
    "training.rank": 2,
    "training.threads": 1,
    "training.reflex_steps": 0,
    "promotion.probation_ticks": 0,
    "promotion.probation_minutes": 0.0,
    "slow.after_promotions": 1,
    "slow.reservoir_episodes": 12,
}
Brain = Callable[..., BrainRoot]


@pytest.fixture(autouse=True)
def _torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, limits: Limits) -> Path:
    """A folder of twelve short episodes that the expert drove."""
    folder = tmp_path_factory.mktemp("lessons")
    record_expert(folder, BASE, instructions=lessons(12), steps=50, seed=5, limits=limits)
    return folder


@pytest.fixture
def brain(tmp_path: Path, untrained_base: Path, taught: Path) -> Brain:
    """brain(episodes=8, **overrides): a fresh root with taught episodes and an untrained base."""

    def make(*, episodes: int = 8, **overrides: Any) -> BrainRoot:
        layout = init_brain_root(tmp_path / "brain", "sim-donkey", base_model=untrained_base)
        for path in list_episodes(taught)[:episodes]:
            shutil.copytree(path, layout.episodes_dir / path.name)
        opened = open_brain(layout.root)
        return BrainRoot(opened.layout, opened.config.with_overrides(QUICK | overrides))

    return make


class Evidences:
    """Evidence that passes, bound to the real hashes; forgot, sped: how much worse the candidate is in the exam, in
    steering and in speed; now: errors there of what drives now."""

    forgot, sped, now = 0.0, 0.0, 0.05
    asked: Paper | None = None

    def __call__(self, engine: Any, *, candidate: Any, current: Any, exam: Any, **_rest: Any) -> Evidence:
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


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> Evidences:
    found = Evidences()
    monkeypatch.setattr(judging, "gather_evidence", found)
    return found


def docked(root: BrainRoot, **readings: float) -> MidLoop:
    host = SimulatedHost()
    if readings:
        host.set(**readings)
    return MidLoop(root, host=host)


def outcomes(report: SlowReport) -> dict[str, str]:
    return {p.name: p.outcome for p in report.parts}


def card(root: BrainRoot, slot: str = "current") -> dict[str, Any]:
    version = AdapterStore(root.layout).find(slot)
    return dict(version.card() or {})


def test_two_time_scales(brain: Brain, evidence: Evidences, taught: Path) -> None:
    root = brain()
    first = docked(root)
    assert first.round().phase == "promoted"
    fast = AdapterStore(root.layout).current()
    assert fast is not None
    assert card(root)["kind"] == "fast"
    assert standing_slow(first.store) is None

    report = SlowLoop(first).round()
    consolidated = report.part("consolidate")
    assert consolidated is not None
    assert consolidated.outcome == "done", consolidated.detail
    assert outcomes(report) == {
        "check": "done",
        "remember": "nothing",  # the round that learned it has seen to that
        "consolidate": "done",
        "retention": "nothing",
        "cache": "nothing",
        "backup": "done",
        "export": "nothing",
    }
    told = card(root)
    assert (told["kind"], told["of"]) == ("slow", fast.version_id)
    assert read_plain(AdapterStore(root.layout).find("current").path).rank == 2
    exam = {e.episode for e in read_reservoir(root.layout.reservoir_path).kept if e.exam}
    assert exam
    assert not exam & set(told["episodes"])
    assert evidence.asked is not None
    assert len(evidence.asked.samples) > 0
    assert not evidence.asked.trained

    # What comes after is learned on top of it, and the slow half stays what it is.
    for path in list_episodes(taught)[8:12]:
        shutil.copytree(path, root.layout.episodes_dir / path.name)
    second = docked(root)
    assert second.round().phase == "promoted"
    told, slow_version = card(root), standing_slow(second.store)
    assert slow_version is not None
    assert (told["kind"], told["slow"]) == ("fast", slow_version.version.version_id)
    below, both = (
        read_plain(slow_version.version.path),
        read_plain(AdapterStore(root.layout).find("current").path),
    )
    assert both.rank == 4
    for module, (a, b) in both.pairs.items():
        want = below.pairs[module][1] @ below.pairs[module][0]
        assert torch.allclose(b[:, :2] @ a[:2], want, atol=1e-6)
    assert set(told["episodes"]) | set(told["held_out"]) == {p.name for p in list_episodes(taught)[8:12]}
    # Nothing is new now: another round does not begin with the consolidated lessons again.
    assert docked(root).round().nothing_new

    again = SlowLoop(docked(root)).round()
    assert outcomes(again)["consolidate"] == "done", again.part("consolidate")
    remembered = read_reservoir(root.layout.reservoir_path).names
    assert remembered & {p.name for p in list_episodes(taught)[:8]}
    assert remembered & {p.name for p in list_episodes(taught)[8:12]}
    # Nor is anything learned now by which an earlier lesson is examined.
    told, exam = card(root), {e.episode for e in read_reservoir(root.layout.reservoir_path).kept if e.exam}
    assert exam - set(told["held_out"])
    assert not exam & set(told["episodes"])
    assert read_plain(AdapterStore(root.layout).find("current").path).rank == 2


def test_what_forgot_a_lesson_is_refused_and_not_made_again(brain: Brain, evidence: Evidences) -> None:
    root = brain()
    first = docked(root)
    first.round()
    before = os.readlink(root.layout.current)
    evidence.forgot = 0.06
    report = SlowLoop(first).round()
    part = report.part("consolidate")
    assert part is not None
    assert part.outcome == "refused"
    assert "lessons" in part.detail
    assert os.readlink(root.layout.current) == before
    versions = len(first.store.list())
    assert SlowLoop(first).due() == ""  # and it is not asked for again and again
    again = SlowLoop(first).round().part("consolidate")
    assert again is not None
    assert again.outcome == "nothing"
    assert len(first.store.list()) == versions


def test_a_dock_that_is_left_while_an_episode_is_read_damages_none(
    brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow, "_PATIENCE_S", 0.0)
    monkeypatch.setattr("continuonbrain.loops.at_work._GATES_EVERY_S", 0.0)
    root = brain()
    host = SimulatedHost()
    trainer = MidLoop(root, host=host)
    trainer.round()
    read = lessons_module.read_drive

    def leaves(path: Path, look: Callable[[], None]) -> Any:
        host.set(docked=0.0)
        return read(path, look)

    monkeypatch.setattr(lessons_module, "read_drive", leaves)
    report = SlowLoop(trainer).round()
    assert "docked" in report.waiting
    assert report.part("consolidate") is None
    assert trainer.status.left_out == []


@pytest.mark.parametrize(
    "readings", [{"docked": 0.0}, {"idle_s": 0.0}, {"battery_fraction": 0.1}, {"cpu_temp_c": 84.0}]
)
def test_nothing_is_done_away_from_the_dock_or_while_a_gate_is_closed(
    brain: Brain, evidence: Evidences, readings: dict[str, float]
) -> None:
    root = brain()
    docked(root).round()
    files = sorted(p for p in root.layout.root.rglob("*") if "run" not in p.parts)
    report = SlowLoop(docked(root, **readings)).round()
    assert report.waiting
    assert report.parts == ()
    assert sorted(p for p in root.layout.root.rglob("*") if "run" not in p.parts) == files


def test_a_robot_that_leaves_its_dock_is_let_go_and_the_work_taken_up_again(
    brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow, "_PATIENCE_S", 0.3)
    root = brain()
    host = SimulatedHost()
    trainer = MidLoop(root, host=host)
    trainer.round()
    before = os.readlink(root.layout.current)
    polled = trainer.poll_gates

    def leave() -> Any:
        if trainer.status.phase == "train":
            host.set(docked=0.0)
        return polled()

    monkeypatch.setattr(trainer, "poll_gates", leave)
    monkeypatch.setattr("continuonbrain.loops.at_work._GATES_EVERY_S", 0.0)
    report = SlowLoop(trainer).round()
    assert "docked" in report.waiting
    assert report.part("consolidate") is None
    assert os.readlink(root.layout.current) == before
    assert root.layout.training_state_path.exists()
    host.set(docked=1.0)
    monkeypatch.setattr(trainer, "poll_gates", polled)
    assert outcomes(SlowLoop(trainer).round())["consolidate"] == "done"


def test_one_part_that_fails_keeps_no_other_from_its_work(brain: Brain, evidence: Evidences) -> None:
    root = brain()
    first = docked(root)
    first.round()
    damaged = list_episodes(root.layout.episodes_dir)[0]
    file = damaged / "steps" / "000000.jsonl"
    file.write_bytes(file.read_bytes()[:-300])
    (root.layout.root / "backups").write_text("in the way")
    found = outcomes(SlowLoop(first).round())
    assert found["check"] == "failed"
    assert found["backup"] == "failed"
    assert found["consolidate"] in ("done", "nothing", "refused")
    told = json.loads(root.layout.slow_path.read_text())
    assert damaged.name in json.dumps(told)


def test_without_anything_for_the_exam_nothing_is_consolidated(brain: Brain, evidence: Evidences) -> None:
    root = brain()
    first = docked(root)
    first.round()
    SlowLoop(first)._remember()
    kept = read_reservoir(root.layout.reservoir_path)
    for episode in kept.kept:
        if episode.exam:
            shutil.rmtree(root.layout.episodes_dir / episode.episode)
    part = SlowLoop(first).round().part("consolidate")
    assert part is not None
    assert part.outcome == "failed"
    assert "exam" in part.detail


def test_two_adapters_that_no_graph_takes_are_not_made(
    brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain()
    first = docked(root)
    first.round()
    monkeypatch.setattr("continuonbrain.loops.two_adapters.largest_rank", lambda *_: 3)
    part = SlowLoop(first).round().part("consolidate")
    assert part is not None
    assert part.outcome == "failed"
    assert "set it to 1" in part.detail
    monkeypatch.setattr("continuonbrain.loops.two_adapters.largest_rank", lambda *_: 4)
    assert outcomes(SlowLoop(first).round())["consolidate"] == "done"
    # The settings change afterwards: it learns on, from the base.
    monkeypatch.setattr("continuonbrain.loops.two_adapters.largest_rank", lambda *_: 3)
    second = docked(root)
    assert second.round(again=True).phase == "promoted"
    assert read_plain(AdapterStore(root.layout).find("current").path).rank == 2
    assert "slow" not in card(root)


def test_the_shipped_graphs_take_both() -> None:
    pytest.importorskip("ai_edge_litert")
    assert largest_rank(tiny_base_folder(), PolicyConfig()) == 16
    assert largest_rank(tiny_base_folder(), PolicyConfig(engine="torch")) is None


def test_on_probation_nobody_is_consolidated(brain: Brain, evidence: Evidences) -> None:
    root = brain(**{"promotion.probation_ticks": 400})
    first = docked(root)
    first.round()
    part = SlowLoop(first).round().part("consolidate")
    assert part is not None
    assert (part.outcome, "probation" in part.detail) == ("nothing", True)


def test_what_the_reservoir_holds_is_not_forgotten(brain: Brain, evidence: Evidences) -> None:
    root = brain(episodes=12, **{"recorder.keep": "nothing", "slow.reservoir_episodes": 8})
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
    brain: Brain, evidence: Evidences, taught: Path
) -> None:
    root = brain(**{"max_episodes": 8, "slow.reservoir_episodes": 64})
    docked(root).round()
    SlowLoop(docked(root)).round()
    assert len(read_reservoir(root.layout.reservoir_path).kept) <= 4  # half of the memory is for what is new
    for path in list_episodes(taught)[8:12]:
        copied = shutil.copytree(path, root.layout.episodes_dir / path.name)
        (copied / "metadata.json").touch()  # it came now
    new = {p.name for p in list_episodes(taught)[8:12]}
    assert docked(root).round().phase == "promoted"
    assert new <= set(card(root)["episodes"]) | set(card(root)["held_out"])


def test_lessons_that_came_meanwhile_are_left_to_be_learned(
    brain: Brain, evidence: Evidences, taught: Path
) -> None:
    root = brain()
    docked(root).round()
    for path in list_episodes(taught)[8:12]:
        copied = shutil.copytree(path, root.layout.episodes_dir / path.name)
        (copied / "metadata.json").touch()
    assert outcomes(SlowLoop(docked(root)).round())["consolidate"] == "done"
    new = {p.name for p in list_episodes(taught)[8:12]}
    assert not new & set(card(root)["considered"])
    assert docked(root).new_episodes()[1]
    assert docked(root).round().phase == "promoted"
    assert new == set(card(root)["episodes"]) | set(card(root)["held_out"])


def test_a_candidate_that_waits_is_not_displaced(brain: Brain, evidence: Evidences) -> None:
    root = brain()
    first = docked(root)
    first.round()
    waits = first.store.stage(
        {
            n: (first.store.find("current").path / n).read_bytes()
            for n in ("adapter_config.json", "adapter_model.safetensors")
        }
        | {"calibration.json": b"{}"}
    )
    part = SlowLoop(first).round().part("consolidate")
    assert part is not None
    assert (part.outcome, "waits for its verdict" in part.detail) == ("nothing", True)
    assert first.store.find("candidate").version_id == waits.version_id


def test_a_consolidation_whose_promotion_was_cut_short_is_promoted(
    brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain()
    first = docked(root)
    first.round()
    promote = slow.promote_candidate

    def killed(_brain: BrainRoot) -> None:
        raise OSError(5, "as a kill would")

    monkeypatch.setattr(slow, "promote_candidate", killed)
    assert outcomes(SlowLoop(first).round())["consolidate"] == "failed"
    made = first.store.find("candidate").version_id
    monkeypatch.setattr(slow, "promote_candidate", promote)
    assert outcomes(SlowLoop(docked(root)).round())["consolidate"] == "done"
    assert first.store.find("current").version_id == made


@pytest.mark.parametrize(
    "paper",
    [
        {"episodes": 5},
        {"held_out": {"a": 1}},
        {"calibration": {"steering_gain": 10**400}},
        {"considered": "x"},
    ],
)
def test_a_card_with_nonsense_ends_no_round(brain: Brain, evidence: Evidences, paper: dict[str, Any]) -> None:
    root = brain()
    first = docked(root)
    first.round()
    path = first.store.find("current").path / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | paper))
    found = outcomes(SlowLoop(first).round())
    assert len(found) == 7
    assert found["backup"] == "done"


def test_the_exam_is_settled_as_soon_as_a_lesson_was_learned(brain: Brain, evidence: Evidences) -> None:
    root = brain()
    docked(root).round()
    exam = {e.episode for e in read_reservoir(root.layout.reservoir_path).kept if e.exam}
    assert exam == set(card(root)["held_out"])


def test_a_backup_can_be_opened_and_holds_what_drives(brain: Brain, evidence: Evidences) -> None:
    root = brain()
    first = docked(root)
    first.round()
    SlowLoop(first).round()
    (made,) = backups(root.layout.root / "backups")
    assert check_backup(made) == []
    copy = AdapterStore(open_brain(made).layout).current()
    there = first.store.current()
    assert copy is not None
    assert there is not None
    assert copy.compute_sha256() == there.compute_sha256()


def test_when_it_is_due(brain: Brain, evidence: Evidences) -> None:
    root = brain(**{"slow.after_promotions": 2})
    first = docked(root)
    assert SlowLoop(first).due() == ""  # nothing was ever learned
    first.round()
    now = time.time() + 1
    assert SlowLoop(first, wall=lambda: now).due() == ""
    assert "hours" in SlowLoop(first, wall=lambda: now + 21 * 3600).due()
    often = BrainRoot(root.layout, root.config.with_overrides({"slow.after_promotions": 1}))
    assert "promoted" in SlowLoop(docked(often)).due()
    never = BrainRoot(root.layout, root.config.with_overrides({"slow.enabled": False}))
    assert SlowLoop(docked(never), wall=lambda: now + 1e6).due() == ""
    SlowLoop(docked(often)).round()
    assert SlowLoop(docked(often)).due() == ""


def test_the_sidecar_gives_it_its_turn(
    brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain()
    docked(root).round()
    trainer = docked(root)
    done: list[str] = []
    original = SlowLoop.round

    def noted(self: SlowLoop) -> SlowReport:
        report = original(self)
        done.append(outcomes(report)["consolidate"])
        return report

    monkeypatch.setattr(mid.SlowLoop, "round", noted)
    watch(trainer, every_s=0.01, should_stop=lambda: bool(done))
    assert done == ["done"]


def test_a_reservoir_is_made_anew_from_the_cards(brain: Brain, evidence: Evidences, tmp_path: Path) -> None:
    root = brain()
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
