"""The sidecar learns only when it may: enough that is new, open gates, a budget, and nobody else at work."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from continuonbrain.errors import BrainError
from continuonbrain.loops import learning, mid
from continuonbrain.loops import lessons as lessons_module
from continuonbrain.loops.mid import MidLoop, watch
from continuonbrain.rlds.metadata import RecordingState
from continuonbrain.rlds.reader import list_episodes, open_episode
from continuonbrain.rlds.writer import metadata_bytes
from continuonbrain.robot.host import SimulatedHost
from continuonbrain.storage.lock import LockHeldError, ProcessLock
from tests.loops.sidecar import QUICK, Brain, Evidences, loop, make_brain, nothing_staged, status_on_disk

pytestmark = pytest.mark.usefixtures("torch_threads")


def test_fewer_episodes_than_the_config_asks_for_means_waiting(brain: Brain) -> None:
    root = brain(episodes=3)
    outcome = loop(root).round()
    assert outcome.phase == "waiting"
    assert "3 of 4 episodes" in outcome.detail
    assert nothing_staged(root)
    assert status_on_disk(root)["phase"] == "waiting"


def test_unfinished_and_self_driven_episodes_do_not_count(brain: Brain) -> None:
    root = brain(episodes=5)
    first, second, *_ = list_episodes(root.layout.episodes_dir)
    unfinished = RecordingState().into(open_episode(first).metadata)
    by_itself = replace(open_episode(second).metadata, control_role="autopilot")
    for path, metadata in ((first, unfinished), (second, by_itself)):
        (path / "metadata.json").write_bytes(metadata_bytes(metadata))
    episodes, _ = loop(root).new_episodes()
    assert first not in episodes
    assert second not in episodes
    outcome = loop(root).round()
    assert outcome.phase == "waiting"
    assert f"not counted: 1 driven by autopilot, 1 unfinished or unreadable ({first.name})" in outcome.detail


@pytest.mark.parametrize(
    ("close", "gate"),
    [
        (lambda h: h.set(battery_fraction=0.1), "battery"),
        (lambda h: h.set(teleop_active=1.0), "teleop"),
        (lambda h: h.set(cpu_temp_c=90.0), "thermal"),
        (lambda h: h.set(idle_s=0.0), "idle"),
        (lambda h: h.fail("cpu_temp_c"), "thermal"),
    ],
)
def test_a_closed_gate_means_no_training_and_says_which(
    brain: Brain, close: Callable[[SimulatedHost], None], gate: str
) -> None:
    root, host = brain(), SimulatedHost()
    close(host)
    outcome = loop(root, host).round()
    assert outcome.phase == "gates"
    assert f"{gate}: " in outcome.detail
    assert outcome.gates == status_on_disk(root)["gates"]
    assert nothing_staged(root)


def test_a_second_trainer_on_the_same_root_is_refused_and_changes_no_status(brain: Brain) -> None:
    root = brain()
    first = loop(root)
    first.say(phase="train", detail="the first one at work")
    with (
        ProcessLock(root.layout.trainer_lock_path, purpose="train"),
        pytest.raises(LockHeldError, match="already"),
    ):
        loop(root).round()
    assert status_on_disk(root)["detail"] == "the first one at work"
    assert nothing_staged(root)


def test_the_newest_episodes_are_the_last_that_came_and_not_the_last_by_name(brain: Brain) -> None:
    root = brain(episodes=6, max_episodes=4)
    paths = list_episodes(root.layout.episodes_dir)
    for age, path in enumerate(paths):  # the first by name is the newest
        os.utime(path / "metadata.json", (1_000_000 - age, 1_000_000 - age))
    episodes, _ = loop(root).new_episodes()
    assert episodes == [paths[3], paths[2], paths[1], paths[0]]


def test_judging_holds_still_while_a_gate_is_closed(brain: Brain, evidence: Evidences) -> None:
    root = brain()
    mid = loop(root)
    asked_while: list[str] = []
    allowed = mid.wait_until_allowed

    def remember(save: Callable[[], None] = lambda: None) -> float:
        asked_while.append(mid.status.phase)
        return allowed(save)

    mid.wait_until_allowed = remember  # type: ignore[method-assign]
    mid.round(hold=True)
    assert {"cache", "train", "judge"} <= set(asked_while)


def test_gates_are_looked_at_while_episodes_are_read_and_samples_built(
    brain: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = brain()
    trainer = loop(root, SimulatedHost())
    looked: list[str] = []
    built = lessons_module.build_samples

    def look(*_: Any) -> float:
        looked.append(trainer.status.phase)
        return 0.0

    def build(*args: Any, **options: Any) -> Any:
        looked.append("build")
        out = built(*args, **options)
        looked.append("built")
        return out

    monkeypatch.setattr(trainer, "wait_until_allowed", look)
    monkeypatch.setattr(lessons_module, "build_samples", build)
    monkeypatch.setattr(learning, "TorchEngine", lambda *_: (_ for _ in ()).throw(BrainError("far enough")))
    with pytest.raises(BrainError, match="far enough"):
        trainer.round()
    assert looked.index("build") >= 6 * 100  # at every step that is read
    frames = looked[looked.index("build") + 1 : looked.index("built")]
    assert len(frames) >= 30  # and at every frame


def test_judging_looks_at_the_gates_in_every_batch_of_recorded_steps(
    brain: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = loop(brain(**{"promotion.max_eval_steps": 1024}), SimulatedHost())
    looked: list[str] = []

    def look(*_: Any) -> float:
        if "slow decisions" in trainer.status.detail:
            raise BrainError("far enough")
        looked.append(trainer.status.detail)
        return 0.0

    monkeypatch.setattr(trainer, "wait_until_allowed", look)
    with pytest.raises(BrainError, match="far enough"):
        trainer.round(hold=True)
    steps = [s for s in looked if s.endswith(": recorded steps")]
    assert len(steps) >= 100 // 16  # of the base: at least a hundred held-out steps, sixteen at a time


def test_training_waits_while_a_gate_is_closed_and_tells_how_long(brain: Brain) -> None:
    host = SimulatedHost()
    trainer = loop(brain(), host)
    host.set(teleop_active=1.0)
    threading.Timer(0.3, lambda: host.set(teleop_active=0.0)).start()
    started = time.monotonic()
    saved: list[bool] = []
    waited = trainer.wait_until_allowed(lambda: saved.append(trainer.poll_gates().open))
    assert 0.2 < waited <= time.monotonic() - started
    assert saved == [False]  # once, before the pause: the power may go in it
    assert trainer.wait_until_allowed(lambda: saved.append(True)) == 0.0
    assert saved == [False]
    time.sleep(1.0)  # of the two seconds in which a closing gate must hold the training
    host.set(teleop_active=1.0)
    threading.Timer(0.3, lambda: host.set(teleop_active=0.0)).start()
    assert trainer.wait_until_allowed(lambda: saved.append(True)) > 0.2
    assert saved == [False, True]


def test_watching_outlives_errors_and_backs_off(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = loop(brain())
    rounds: list[float] = []
    stop = False

    def failing(**_: Any) -> Any:
        nonlocal stop
        rounds.append(time.monotonic())
        stop = len(rounds) == 3
        raise BrainError("not today")

    monkeypatch.setattr(trainer, "round", failing)
    watch(trainer, every_s=0.1, should_stop=lambda: stop)
    assert len(rounds) == 3
    assert rounds[2] - rounds[1] > rounds[1] - rounds[0]


def test_a_waiting_sidecar_holds_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, continuonbrain.loops.mid; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert mid.__doc__ is not None


def test_a_day_whose_budget_is_spent_closes_a_gate_and_work_is_charged(
    untrained_base: Path, taught: Path, tmp_path: Path
) -> None:
    brain = make_brain(tmp_path / "b", untrained_base, taught, **QUICK, **{"training.daily_energy_wh": 5.0})
    path = brain.layout.spent_path
    now = [100.0]
    loop = MidLoop(brain, host=SimulatedHost(clock=lambda: now[0]), clock=lambda: now[0])
    assert loop.poll_gates().state("budget") is not None
    now[0] += 3600.0
    loop.poll_gates()
    assert not path.exists()  # it only waited
    loop._working = True
    now[0] += 60.0
    loop.poll_gates()
    assert json.loads(path.read_text())["seconds"] == 60.0
    now[0] += 3600.0
    report = loop.poll_gates()
    budget = report.state("budget")
    assert budget is not None
    assert not budget.open
    assert not report.open
    now[0] += 3600.0
    loop.poll_gates()
    spent = json.loads(path.read_text())["seconds"]
    assert spent == 3660.0  # a pause costs nothing
    # Another process goes on from there; a file that cannot be read closes the gate and says so.
    assert MidLoop(brain, host=SimulatedHost()).round().phase == "gates"
    path.write_text("{")
    outcome = MidLoop(brain, host=SimulatedHost()).round()
    assert outcome.phase == "gates"
    assert "remove it" in outcome.detail
