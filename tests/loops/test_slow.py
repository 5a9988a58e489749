"""The slow loop: docked only, in its turn, each part for itself, nothing lost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops import lessons as lessons_module
from continuonbrain.loops import mid, slow
from continuonbrain.loops.mid import MidLoop, watch
from continuonbrain.loops.slow import Part, SlowLoop, SlowReport
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.robot.host import SimulatedHost
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.backup import backups, check_backup
from tests.loops.sidecar import Brain, Evidences, docked, outcomes

pytestmark = pytest.mark.usefixtures("torch_threads")


def test_a_dock_that_is_left_while_an_episode_is_read_damages_none(
    slow_brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow, "_PATIENCE_S", 0.0)
    monkeypatch.setattr("continuonbrain.loops.at_work._GATES_EVERY_S", 0.0)
    root = slow_brain()
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
    slow_brain: Brain, evidence: Evidences, readings: dict[str, float]
) -> None:
    root = slow_brain()
    docked(root).round()
    files = sorted(p for p in root.layout.root.rglob("*") if "run" not in p.parts)
    report = SlowLoop(docked(root, **readings)).round()
    assert report.waiting
    assert report.parts == ()
    assert sorted(p for p in root.layout.root.rglob("*") if "run" not in p.parts) == files


def test_a_robot_that_leaves_its_dock_is_let_go_and_the_work_taken_up_again(
    slow_brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow, "_PATIENCE_S", 0.3)
    root = slow_brain()
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


def test_one_part_that_fails_keeps_no_other_from_its_work(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain()
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


@pytest.mark.parametrize(
    "paper",
    [
        {"episodes": 5},
        {"held_out": {"a": 1}},
        {"calibration": {"steering_gain": 10**400}},
        {"considered": "x"},
    ],
)
def test_a_card_with_nonsense_ends_no_round(
    slow_brain: Brain, evidence: Evidences, paper: dict[str, Any]
) -> None:
    root = slow_brain()
    first = docked(root)
    first.round()
    path = first.store.find("current").path / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | paper))
    found = outcomes(SlowLoop(first).round())
    assert len(found) == 7
    assert found["backup"] == "done"


def test_a_backup_can_be_opened_and_holds_what_drives(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain()
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


def test_when_it_is_due(slow_brain: Brain, evidence: Evidences) -> None:
    root = slow_brain(**{"slow.after_promotions": 2})
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
    slow_brain: Brain, evidence: Evidences, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = slow_brain()
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


def test_a_consolidation_that_fails_waits_longer_and_longer(
    slow_brain: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def fails(_self: SlowLoop) -> SlowReport:
        asked.append(time.monotonic())
        return SlowReport((Part("consolidate", "failed", "lora_layers"),))

    monkeypatch.setattr(mid.SlowLoop, "due", lambda _self: "always")
    monkeypatch.setattr(mid.SlowLoop, "round", fails)
    monkeypatch.setattr(mid, "_SLOW_AGAIN_S", 0.2)
    watch(docked(slow_brain(episodes=0)), every_s=0.01, should_stop=lambda: len(asked) > 2)
    first, second = asked[1] - asked[0], asked[2] - asked[1]
    assert first >= 0.2
    assert second >= 0.4
