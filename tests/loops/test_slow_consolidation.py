"""A consolidation is judged by what it forgot, and leaves what is new to be learned."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from continuonbrain.brain_root import BrainRoot  # noqa: E402
from continuonbrain.config import PolicyConfig  # noqa: E402
from continuonbrain.loops import slow  # noqa: E402
from continuonbrain.loops.remembering import read_reservoir  # noqa: E402
from continuonbrain.loops.slow import SlowLoop  # noqa: E402
from continuonbrain.loops.slow_adapter import standing_slow  # noqa: E402
from continuonbrain.model.base_identity import tiny_base_folder  # noqa: E402
from continuonbrain.model.plain_lora import read_plain  # noqa: E402
from continuonbrain.policy.open_engine import largest_rank  # noqa: E402
from continuonbrain.rlds.reader import list_episodes  # noqa: E402
from continuonbrain.storage.adapters import AdapterStore  # noqa: E402
from tests.loops.sidecar import Brain, Evidences, card, docked, outcomes  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_threads")


def test_two_time_scales(slow_brain: Brain, evidence: Evidences, twelve_lessons: Path) -> None:
    root = slow_brain()
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
    for path in list_episodes(twelve_lessons)[8:12]:
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
    assert set(told["episodes"]) | set(told["held_out"]) == {
        p.name for p in list_episodes(twelve_lessons)[8:12]
    }
    # Nothing is new now: another round does not begin with the consolidated lessons again.
    assert docked(root).round().nothing_new

    again = SlowLoop(docked(root)).round()
    assert outcomes(again)["consolidate"] == "done", again.part("consolidate")
    remembered = read_reservoir(root.layout.reservoir_path).names
    assert remembered & {p.name for p in list_episodes(twelve_lessons)[:8]}
    assert remembered & {p.name for p in list_episodes(twelve_lessons)[8:12]}
    # Nor is anything learned now by which an earlier lesson is examined.
    told, exam = card(root), {e.episode for e in read_reservoir(root.layout.reservoir_path).kept if e.exam}
    assert exam - set(told["held_out"])
    assert not exam & set(told["episodes"])
    assert read_plain(AdapterStore(root.layout).find("current").path).rank == 2


def test_what_forgot_a_lesson_is_refused_and_not_made_again(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain()
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


def test_without_anything_for_the_exam_nothing_is_consolidated(
    slow_brain: Brain, evidence: Evidences
) -> None:
    root = slow_brain()
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
    slow_brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = slow_brain()
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


def test_on_probation_nobody_is_consolidated(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain(**{"promotion.probation_ticks": 400})
    first = docked(root)
    first.round()
    part = SlowLoop(first).round().part("consolidate")
    assert part is not None
    assert (part.outcome, "probation" in part.detail) == ("nothing", True)


def test_lessons_that_came_meanwhile_are_left_to_be_learned(
    slow_brain: Brain, evidence: Evidences, twelve_lessons: Path
) -> None:
    root = slow_brain()
    docked(root).round()
    for path in list_episodes(twelve_lessons)[8:12]:
        copied = shutil.copytree(path, root.layout.episodes_dir / path.name)
        (copied / "metadata.json").touch()
    assert outcomes(SlowLoop(docked(root)).round())["consolidate"] == "done"
    new = {p.name for p in list_episodes(twelve_lessons)[8:12]}
    assert not new & set(card(root)["considered"])
    assert docked(root).new_episodes()[1]
    assert docked(root).round().phase == "promoted"
    assert new == set(card(root)["episodes"]) | set(card(root)["held_out"])


def test_a_candidate_that_waits_is_not_displaced(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain()
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
    slow_brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = slow_brain()
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
