"""What the running brain counts for the adapter that drives, and whose fault it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.crash_points import driving
from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.driving_counter import BLAME, BLAMED, DrivingCounter, DrivingKeeper
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.safety.reasons import STOPS, Reason
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.driving_record import INCIDENTS, read_record
from tests.loops.probation_brain import new_brain

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


@pytest.mark.parametrize("reason", [Reason.SAFETY_HEAD_BLOCK, Reason.SAFETY_HEAD_WARN])
def test_a_head_that_is_silent_stops_the_car_and_blames_nobody(reason: Reason) -> None:
    counter = DrivingCounter()
    now = drive(counter, 1.0)
    drive(counter, 20.0, start_s=now, reasons=(reason, Reason.SENSOR_FAULT))
    record = counter.records()[NEW]
    assert (record.ticks, dict(record.incidents)) == (20, {})


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


def test_an_emergency_stop_while_it_drives_is_a_takeover_once() -> None:
    counter = DrivingCounter()
    now = drive(counter, 2.0)
    now = drive(counter, 5.0, start_s=now, reasons=(Reason.EMERGENCY_STOP,))
    assert counter.records()[NEW].incidents == {"takeover": 1}
    now = drive(counter, 1.0, start_s=now, mode="park")
    drive(counter, 5.0, start_s=now, reasons=(Reason.EMERGENCY_STOP,))  # it stood already
    assert counter.records()[NEW].incidents == {"takeover": 1}


def test_where_somebody_left_it_is_blamed_once_until_it_has_driven() -> None:
    counter = DrivingCounter()
    now = drive(counter, 1.0, mode="teleop")
    now = drive(counter, 20.0, start_s=now, reasons=(Reason.SAFETY_HEAD_BLOCK,))
    record = counter.records()[NEW]
    assert (record.ticks, dict(record.incidents), record.seconds) == (0, {"block": 1}, 0.0)
    now = drive(counter, 1.0, start_s=now, mode="teleop")
    now = drive(counter, 5.0, start_s=now, reasons=(Reason.SAFETY_HEAD_BLOCK,))  # the next try is another one
    assert counter.records()[NEW].incidents["block"] == 2
    now = drive(counter, 1.0, start_s=now)
    drive(counter, 5.0, start_s=now, reasons=(Reason.SAFETY_HEAD_BLOCK,))  # there it brought itself
    assert counter.records()[NEW].incidents["block"] == 7


def test_a_tick_that_is_nobodys_does_not_make_another_spot_of_it() -> None:
    counter = DrivingCounter()
    now = drive(counter, 1.0, mode="teleop")
    for _ in range(10):
        now = drive(counter, 1.0, start_s=now, reasons=(Reason.SAFETY_HEAD_BLOCK,))
        now = drive(counter, 0.05, start_s=now, reasons=(Reason.CLOCK,))
    assert counter.records()[NEW].incidents == {"block": 1}


def test_a_path_of_no_use_is_its_own_fault_wherever_it_stands() -> None:
    counter = DrivingCounter()
    drive(counter, 10.0, reasons=(Reason.NOT_FINITE,))
    assert counter.records()[NEW].incidents == {"stop": 10}


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
    began = time.thread_time()  # whatever else the machine does meanwhile
    drive(counter, 500.0, reasons=(Reason.STEERING_SLEW,))
    assert (time.thread_time() - began) / 10_000 < 100e-6


@pytest.fixture
def brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BrainRoot:
    return new_brain(tmp_path, monkeypatch)


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
