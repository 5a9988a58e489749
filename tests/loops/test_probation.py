"""Probation in the running brain: what is counted, who looks, and that everybody is told."""

from __future__ import annotations

import importlib.util
import json
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.crash_points import driving, drove, new_root, staged
from benchmarks.small_verdict import judged
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.errors import BrainError
from continuonbrain.loops import policy_process, probation, promotion
from continuonbrain.loops.driving_counter import BLAME, BLAMED, DrivingCounter, DrivingKeeper
from continuonbrain.loops.probation import (
    ProbationWatch,
    at_policy_start,
    confirm_by_hand,
    look_after,
    progress,
    rules_from_config,
    take_back,
)
from continuonbrain.loops.promotion import announce_unfinished, promote_candidate, roll_back
from continuonbrain.loops.supervisor import Supervisor
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.safety.reasons import STOPS, Reason
from continuonbrain.storage.adapters import AdapterStore, OnProbation
from continuonbrain.storage.driving_record import INCIDENTS, read_record
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.lock import LockHeldError
from continuonbrain.storage.probation_rule import Terms

BOOT = "boot-1"
OLD, NEW = "aa" * 32, "bb" * 32


def chunk(sha256: str = NEW, observed_s: float = 0.0, decision_ms: float = 40.0) -> ActionChunk:
    return ActionChunk((0.0,) * 8, (0.5, 0.5), observed_s, sha256, decision_ms)


def drive(counter: DrivingCounter, seconds: float, *, start_s: float = 100.0, **tick: Any) -> float:
    now = start_s
    for _ in range(round(seconds * 20)):
        told = {"mode": "autopilot", "reasons": (), "chunk": chunk(), "served_by": 1} | tick
        counter.tick(now_s=now, **told)
        now += 0.05
    return now


# What is counted.


def test_every_reason_is_somebodys_fault_or_nobodys() -> None:
    assert set(BLAMED) == set(Reason)
    assert set(BLAME) >= STOPS  # somebody has thought about each; a new correction is one
    assert set(BLAMED.values()) - {"nobody"} <= set(INCIDENTS)


def test_ticks_time_and_decisions_are_counted_for_the_adapter_that_decided() -> None:
    counter = DrivingCounter()
    now = drive(counter, 5.0, chunk=chunk(OLD, 1.0, 30.0))
    drive(counter, 5.0, start_s=now, chunk=chunk(NEW, 2.0, 50.0))
    records = counter.records()
    assert (records[OLD].ticks, records[NEW].ticks) == (100, 100)
    assert records[NEW].seconds == pytest.approx(5.0, abs=0.1)
    assert (records[NEW].decisions, records[NEW].decision_ms) == (1, 50.0)


def test_what_lasts_is_counted_once_a_second() -> None:
    counter = DrivingCounter()
    drive(counter, 5.0, reasons=(Reason.STEERING_BOUND, Reason.STEERING_SLEW))
    assert counter.records()[NEW].incidents == {"correction": 5}


@pytest.mark.parametrize("reason", [r for r, blame in BLAME.items() if blame == "nobody"])
def test_what_is_not_the_adapters_fault_is_no_driving(reason: Reason) -> None:
    counter = DrivingCounter()
    drive(counter, 2.0, reasons=(reason, Reason.STALE_PATH))
    assert counter.records()[NEW].ticks == 0
    assert not counter.records()[NEW].incidents


@pytest.mark.parametrize("reason", [Reason.SAFETY_HEAD_BLOCK, Reason.STALE_PATH])
def test_a_robot_that_is_held_still_has_incidents_and_drives_no_ticks(reason: Reason) -> None:
    """So that one which only stands before what it cannot pass is never confirmed."""
    counter = DrivingCounter()
    now = drive(counter, 2.0)
    drive(counter, 20.0, start_s=now, reasons=(reason,))
    record = counter.records()[NEW]
    assert record.ticks == 40
    assert sum(record.incidents.values()) == 20
    assert record.seconds == pytest.approx(22.0, abs=0.2)


def test_parked_and_by_hand_counts_nothing_and_taking_over_does() -> None:
    counter = DrivingCounter()
    now = drive(counter, 1.0)
    now = drive(counter, 1.0, start_s=now, mode="teleop")
    now = drive(counter, 1.0, start_s=now, mode="park")
    drive(counter, 1.0, start_s=now, mode="teleop")  # nobody drove before: nothing was taken over
    record = counter.records()[NEW]
    assert (record.ticks, record.incidents) == (20, {"takeover": 1})


def test_no_answer_is_the_fault_of_the_one_that_should_answer() -> None:
    counter = DrivingCounter()
    counter.wanted = NEW
    now = drive(counter, 1.0, chunk=chunk(OLD, 1.0))
    drive(counter, 2.0, start_s=now, chunk=chunk(OLD, 1.0), reasons=(Reason.STALE_PATH,))
    assert counter.records()[NEW].incidents == {"stop": 2}
    assert not counter.records()[OLD].incidents


def test_a_policy_process_that_is_away_or_coming_up_is_nobodys_fault() -> None:
    counter = DrivingCounter()
    now = drive(counter, 1.0)
    for served_by in (0, 2):  # died; started again and loading
        now = drive(counter, 2.0, start_s=now, reasons=(Reason.STALE_PATH,), served_by=served_by)
    assert not counter.records()[NEW].incidents
    drive(counter, 2.0, start_s=now, chunk=chunk(NEW, 9.0), reasons=(Reason.STALE_PATH,), served_by=2)
    assert counter.records()[NEW].incidents == {"stop": 2}  # it had answered


def test_off_the_road_is_counted_where_the_robot_knows_it() -> None:
    counter = DrivingCounter()
    now = drive(counter, 1.0, off_road=0)
    now = drive(counter, 2.0, start_s=now, off_road=1)
    drive(counter, 2.0, start_s=now, off_road=2)
    assert counter.records()[NEW].incidents == {"off_road": 2}


def test_a_clock_that_stands_or_leaps_adds_no_time() -> None:
    counter = DrivingCounter()
    for now in (10.0, 10.0, 5.0, 90_000.0):
        counter.tick(now_s=now, mode="autopilot", reasons=(), chunk=chunk())
    assert counter.records()[NEW].seconds <= 0.25


def test_a_tick_costs_the_loop_a_few_microseconds() -> None:
    counter = DrivingCounter()
    began = time.perf_counter()
    drive(counter, 500.0, reasons=(Reason.STEERING_SLEW,))
    assert (time.perf_counter() - began) / 10_000 < 100e-6


# The running brain.


@pytest.fixture
def brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BrainRoot:
    monkeypatch.setattr(promotion, "_APART_S", 0.0)
    monkeypatch.setattr(probation, "boot_id", lambda: BOOT)
    return new_root(tmp_path / "b")


def kinds(brain: BrainRoot) -> list[str]:
    return [event.kind for event in EventLog(brain.layout.events_dir).after(0)]


def test_the_keeper_adds_to_what_earlier_runs_left(brain: BrainRoot) -> None:
    layout = brain.layout
    for run in (1, 2):
        counter = DrivingCounter()
        keeper = DrivingKeeper(layout, counter)
        keeper.start()
        drive(counter, 2.0, reasons=(Reason.STEERING_SLEW,))
        keeper.close()
        record = read_record(layout.driving_dir, NEW)
        assert (record.ticks, record.incidents["correction"]) == (40 * run, 2 * run)
        assert read_record(layout.driving_now_dir, NEW) == record


def test_the_keeper_knows_what_should_drive(brain: BrainRoot) -> None:
    counter = DrivingCounter()
    keeper = DrivingKeeper(brain.layout, counter)
    keeper.save(durably=False)
    assert counter.wanted is None
    name = driving(brain, "a", probation=True)
    keeper.save(durably=False)
    assert counter.wanted == AdapterStore(brain.layout).get(name).compute_sha256()


def test_a_promotion_begins_the_probation_of_the_config(brain: BrainRoot) -> None:
    staged(brain, "a")
    promoted = promote_candidate(brain, boot=BOOT)
    told = progress(brain)
    assert (told["state"], told["version_id"], told["of_ticks"]) == ("probation", promoted.version_id, 400)
    staged(brain, "b")
    with pytest.raises(OnProbation):
        promote_candidate(brain, boot=BOOT)
    assert kinds(brain) == ["promotion"]


def test_zero_asks_for_none(brain: BrainRoot) -> None:
    settings = {"promotion.probation_ticks": 0, "promotion.probation_minutes": 0.0}
    final = BrainRoot(brain.layout, brain.config.with_overrides(settings))
    for tag in "ab":
        staged(final, tag)
        promote_candidate(final, boot=BOOT)
        assert progress(final)["state"] == "confirmed"


def test_one_that_drove_well_is_confirmed_and_told_by_an_event_alone(brain: BrainRoot) -> None:
    staged(brain, "a")
    promoted = promote_candidate(brain, boot=BOOT)
    assert look_after(brain) is None
    drove(brain, promoted.version_id, off_road=0)
    before = brain.layout.manifest_path.stat().st_mtime_ns
    told = look_after(brain)
    assert told is not None
    assert "confirm" in told.detail
    assert brain.layout.manifest_path.stat().st_mtime_ns == before
    assert look_after(brain) is None
    assert announce_unfinished(brain) is None
    assert kinds(brain) == ["promotion", "confirm"]
    assert EventLog(brain.layout.events_dir).after(0)[-1].data["reason"] == "drove_well"
    entry = AdapterStore(brain.layout).last_change()
    assert entry is not None
    assert entry.about["new"]["ticks"] == 800


def test_one_that_drove_worse_is_taken_back_and_everybody_is_told(brain: BrainRoot) -> None:
    old = driving(brain, "old")
    staged(brain, "bad")
    bad = promote_candidate(brain, boot=BOOT)
    drove(brain, bad.version_id, off_road=20)
    told = look_after(brain)
    assert told is not None
    assert told.version_id == old
    event = EventLog(brain.layout.events_dir).after(0)[-1]
    assert (event.kind, event.data["version_id"], event.data["reason"]) == ("revert", old, "off_road")
    assert look_after(brain) is None
    assert announce_unfinished(brain) is None
    assert kinds(brain)[-2:] == ["promotion", "revert"]


def test_what_an_adapter_drove_before_its_promotion_does_not_count(brain: BrainRoot) -> None:
    name = staged(brain, "a")
    drove(brain, name, off_road=20)
    promote_candidate(brain, boot=BOOT)
    assert look_after(brain) is None
    assert progress(brain)["ticks"] == 0


def test_another_start_of_the_machine_takes_it_back(brain: BrainRoot) -> None:
    staged(brain, "a")
    promote_candidate(brain, boot=BOOT)
    at_policy_start(brain, boot="boot-2")
    assert AdapterStore(brain.layout).current() is None
    assert kinds(brain) == ["promotion", "revert"]
    staged(brain, "b")
    promote_candidate(brain, boot="")  # a kernel that does not name its starts
    at_policy_start(brain, boot="")
    assert AdapterStore(brain.layout).current() is None


def test_the_policy_process_starts_a_few_times_and_no_more(brain: BrainRoot) -> None:
    staged(brain, "a")
    promote_candidate(brain, boot=BOOT)
    for starts in (1, 2, 3):
        at_policy_start(brain)
        assert progress(brain)["restarts"] == starts
    at_policy_start(brain)
    assert AdapterStore(brain.layout).current() is None
    entry = AdapterStore(brain.layout).last_change()
    assert entry is not None
    assert entry.about["reason"] == "restarts"
    staged(brain, "b")
    promote_candidate(brain, boot=BOOT)
    at_policy_start(brain)
    assert progress(brain)["restarts"] == 1  # each has its own


def test_whoever_holds_the_lock_delays_a_start_and_never_lets_an_unconfirmed_one_through(
    brain: BrainRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probation, "TELLING_S", 0.05)
    staged(brain, "a")
    bad = promote_candidate(brain, boot=BOOT)
    drove(brain, bad.version_id, off_road=20)
    with promotion.changing(brain, timeout_s=1.0):
        assert look_after(brain) is None
        at_policy_start(brain)
        with pytest.raises(LockHeldError):
            at_policy_start(brain, boot="boot-2")
    assert progress(brain)["state"] == "probation"
    assert look_after(brain) is not None


def test_one_that_cannot_be_loaded_is_taken_back(brain: BrainRoot) -> None:
    assert take_back(brain, "unusable", "it does not fit") is None
    staged(brain, "a")
    promote_candidate(brain, boot=BOOT)
    assert take_back(brain, "unusable", "it does not fit") is not None
    assert AdapterStore(brain.layout).current() is None


def test_damaged_bytes_are_taken_back_instead_of_confirmed(brain: BrainRoot) -> None:
    staged(brain, "a")
    promoted = promote_candidate(brain, boot=BOOT)
    drove(brain, promoted.version_id, off_road=0)
    path = brain.layout.versions_dir / promoted.version_id / "calibration.json"
    path.write_bytes(b'{"bit": "rot"}')
    assert look_after(brain) is not None
    entry = AdapterStore(brain.layout).last_change()
    assert entry is not None
    assert (entry.event, entry.about["reason"]) == ("revert", "damaged")


def test_by_hand(brain: BrainRoot) -> None:
    staged(brain, "a")
    first = promote_candidate(brain, boot=BOOT)
    confirm_by_hand(brain)
    assert progress(brain)["state"] == "confirmed"
    staged(brain, "b")
    promote_candidate(brain, boot=BOOT)
    assert roll_back(brain).version_id == first.version_id
    assert kinds(brain) == ["promotion", "confirm", "promotion", "rollback"]


def test_the_watch_looks_before_anything_loads_and_then_again_and_again(brain: BrainRoot) -> None:
    staged(brain, "a")
    promote_candidate(brain, boot="an earlier start")
    told: list[str] = []
    watch = ProbationWatch(brain, on_change=lambda t: told.append(t.detail), every_s=0.02)
    watch.start()
    try:
        assert AdapterStore(brain.layout).current() is None
        staged(brain, "b")
        second = promote_candidate(brain, boot=BOOT)
        drove(brain, second.version_id, off_road=0)
        deadline = time.monotonic() + 10
        while len(told) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        watch.close()
    assert "taken back (boot)" in told[0]
    assert progress(brain)["state"] == "confirmed"


def test_a_damaged_history_is_said_and_changes_nothing(
    brain: BrainRoot, caplog: pytest.LogCaptureFixture
) -> None:
    driving(brain, "a", probation=True)
    text = brain.layout.history_path.read_text()
    brain.layout.history_path.write_text(text.replace('"promote"', '"confirm"'))
    watch = ProbationWatch(brain)
    watch.start()
    watch.close()
    assert caplog.text.count("was changed after it was written") == 1
    assert brain.layout.current.is_symlink()


def test_the_config_sets_the_limits(brain: BrainRoot) -> None:
    settings = json.loads(brain.layout.config_path.read_bytes())
    settings["promotion"] |= {"max_off_road_per_min": 7.0, "probation_restarts": 9}
    brain.layout.config_path.write_text(json.dumps(settings))
    rules = rules_from_config(open_brain(brain.layout.root).config.promotion)
    assert (rules.limits_per_min["off_road"], rules.max_restarts) == (7.0, 9)
    assert set(rules.limits_per_min) == set(INCIDENTS)


# Real processes around it.


def _stub() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stub_policy", Path(__file__).with_name("stub_policy.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unusable(brain: BrainRoot, tag: bytes, terms: Terms | None) -> str:
    """An adapter of another base that got to drive all the same."""
    store = AdapterStore(brain.layout)
    files = {
        "adapter_model.safetensors": tag,
        "adapter_config.json": b'{"base": "other"}',
        "card.json": b"{}",
    }
    version = store.stage(files)
    verdict = judged(version, "ba5e" * 16)
    store.promote(version.version_id, verdict, base_sha256="ba5e" * 16, terms=terms)
    return version.version_id


def test_a_policy_process_that_cannot_load_it_takes_it_back_and_serves_what_was_before(
    brain: BrainRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str] = []
    monkeypatch.setattr(
        policy_process.PolicyServer, "serve", lambda self, _stop: served.append(self._engine.adapter_sha256)
    )
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    engine = _stub().StubEngine
    try:
        unusable(brain, b"a", Terms(400, 0.0, BOOT))
        policy_process.run_policy(brain.layout.root, load_engine=lambda _base: engine())
        assert served == [""]
        entry = AdapterStore(brain.layout).last_change()
        assert entry is not None
        assert (entry.event, entry.about["reason"]) == ("revert", "unusable")
        assert kinds(brain) == ["promotion", "revert"]  # the promotion had not been told
        unusable_again = unusable(brain, b"b", None)  # confirmed by a person: it is not ours to take back
        with pytest.raises(BrainError, match="is for base other"):
            policy_process.run_policy(brain.layout.root, load_engine=lambda _base: engine())
        current = AdapterStore(brain.layout).current()
        assert current is not None
        assert current.version_id == unusable_again
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)


def test_the_supervisor_watches_and_says_what_became_of_it(brain: BrainRoot) -> None:
    staged(brain, "bad")
    bad = promote_candidate(brain, boot=BOOT)
    with Supervisor(brain, []) as supervisor:
        drove(brain, bad.version_id, off_road=20)
        deadline = time.monotonic() + 10
        while progress(brain)["state"] == "probation" and time.monotonic() < deadline:
            supervisor.poll()
            time.sleep(0.05)
        while not supervisor.snapshot()["events"] and time.monotonic() < deadline:
            time.sleep(0.05)
        told = [event["text"] for event in supervisor.snapshot()["events"]]
    assert progress(brain)["state"] == "base"
    assert any("taken back (off_road)" in text for text in told)


@pytest.mark.parametrize("slot", ["candidate", "previous"])
def test_a_link_that_leads_elsewhere_keeps_no_bad_adapter_driving(tmp_path: Path, slot: str) -> None:
    brain = new_root(tmp_path / "b")
    old, bad = driving(brain, "old"), driving(brain, "bad", probation=True)
    drove(brain, bad, off_road=20)
    link = getattr(brain.layout, slot)
    link.unlink(missing_ok=True)
    link.symlink_to("/etc")
    told = look_after(brain, boot=BOOT)
    assert told is not None
    assert AdapterStore(brain.layout).current_id() == old


@pytest.mark.parametrize("starts", ["1e999", "-1e999", "[]", '"many"', "9" * 5000])
def test_a_count_of_starts_that_is_none_keeps_nobody_from_looking(tmp_path: Path, starts: str) -> None:
    brain = new_root(tmp_path / "b")
    old, bad = driving(brain, "old"), driving(brain, "bad", probation=True)
    change = AdapterStore(brain.layout).standing().change
    brain.layout.probation_path.parent.mkdir(parents=True, exist_ok=True)
    brain.layout.probation_path.write_text(f'{{"change": "{change}", "starts": {starts}}}')
    assert look_after(brain, boot=BOOT) is None
    assert progress(brain)["version_id"] == bad
    drove(brain, bad, off_road=20)
    assert look_after(brain, boot=BOOT) is not None
    assert AdapterStore(brain.layout).current_id() == old


def test_whatever_a_look_raises_the_next_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brain = new_root(tmp_path / "b")
    looks: list[int] = []

    def broken(_brain: BrainRoot) -> None:
        looks.append(1)
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(probation, "look_after", broken)
    watch = ProbationWatch(brain, every_s=0.01)
    watch.start()
    until = time.monotonic() + 10.0
    while len(looks) < 5 and time.monotonic() < until:
        time.sleep(0.01)
    watch.close()
    assert len(looks) >= 5
