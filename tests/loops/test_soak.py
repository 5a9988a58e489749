"""The soak finds what it is there to find: growth, unsafe ticks, late stops; a short one of the real system passes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.soak.body import BreakableRobot, Broken, BrokenFile, write_broken
from benchmarks.soak.checks import (
    ended_at_rest,
    episode_faults,
    fastest_mps,
    still_moves,
    stopped_after,
    unsafe_ticks,
)
from benchmarks.soak.days import Days
from benchmarks.soak.faults import Running, go_on, worked_on
from benchmarks.soak.plan import CATALOGUE, Fault, Plan
from benchmarks.soak.slopes import Sample, slope_per_h
from benchmarks.soak.timeline import Timeline
from continuonbrain.rlds.metadata import EpisodeMetadata, Software
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.step import Step
from continuonbrain.robot.sim.shifts import world
from continuonbrain.storage.layout import BrainLayout


def life(pid: int, seconds: int, per_h: float, start: float = 100.0, phase: str = "drive") -> list[Sample]:
    return [Sample(s, pid, float(s), phase, start + per_h * s / 3600 + 0.1 * (s % 2)) for s in range(seconds)]


def test_growth_is_found_within_lives_and_restarts_are_none() -> None:
    grows = slope_per_h(life(1, 200, 90.0) + life(2, 200, 90.0, start=20.0))
    assert grows == pytest.approx(90.0, abs=5.0)
    # Every life begins higher than the one before, and none grows.
    calm = slope_per_h([s for pid in range(5) for s in life(pid, 150, 0.0, start=100.0 * pid)])
    assert calm == pytest.approx(0.0, abs=5.0)


def test_work_that_needs_memory_for_a_while_is_no_growth() -> None:
    rest, work = life(1, 200, 0.0), life(1, 400, 0.0, start=900.0, phase="train")[200:]
    assert slope_per_h(rest + work) == pytest.approx(0.0, abs=5.0)


def test_the_sidecar_is_looked_at_once_it_has_trained() -> None:
    unused: Any = SimpleNamespace()
    timeline = Timeline(unused, 0.0)
    phases = ("waiting", "train", "judge", "refused", "waiting", "cache", "promoted", "waiting")
    assert [timeline._sidecar_group(phase, 7) for phase in phases] == [
        *[None] * 3,
        "rested",
        "rested",
        None,
        "rested",
        "rested",
    ]
    # Another life, which judges what the one before had trained.
    assert [timeline._sidecar_group(phase, 8) for phase in ("waiting", "judge", "refused")] == [None] * 3


def test_short_lives_tell_nothing() -> None:
    assert slope_per_h(life(1, 60, 500.0)) is None
    assert slope_per_h([]) is None


def tick(t: float, throttle: float, **changes: Any) -> dict[str, Any]:
    line = {"t": t, "what": "tick", "mode": "autopilot", "seen": True, "path_age": 0.2, "speed": 0.0}
    return line | {"throttle": throttle} | changes


def test_throttle_on_nothing_is_unsafe() -> None:
    assert unsafe_ticks([tick(1, 0.4), tick(1, 0.0, seen=False), tick(1, 0.4, path_age=2.55)]) == []
    assert len(unsafe_ticks([tick(1, 0.4, seen=False)])) == 1
    assert len(unsafe_ticks([tick(1, 0.4, path_age=2.7)])) == 1
    assert len(unsafe_ticks([tick(1, 0.4, path_age=None)])) == 1
    assert unsafe_ticks([tick(1, 0.4, mode="teleop", path_age=None)]) == []


def test_a_stop_counts_when_nothing_drives_after_it() -> None:
    fault = Fault("camera", "raise", stops_s=0.5)
    lines = [tick(10 + i / 20, 0.4 if i < 8 else 0.0) for i in range(120)]
    assert stopped_after(lines, fault, 10.0, 16.0) == pytest.approx(0.35)
    assert stopped_after([*lines, tick(15.9, 0.4)], fault, 10.0, 16.0) is None
    assert stopped_after([tick(12, 0.0)], fault, 10.0, 16.0) == 0.0


def test_a_car_that_rolls_on_is_not_at_rest() -> None:
    fault = Fault("camera", "raise", stops_s=0.5)
    assert not still_moves([tick(11, 0.0, speed=1.0), tick(15, 0.0, speed=0.01)], fault, 10.0, 16.0)
    assert still_moves([tick(15, 0.0, speed=0.5)], fault, 10.0, 16.0)


def test_the_fastest_tick_is_one_that_was_driven() -> None:
    assert fastest_mps([tick(1, 0.4, speed=1.2), tick(2, 0.0, speed=3.0, mode="park")]) == 1.2
    assert fastest_mps([]) == 0.0


def test_the_last_command_is_a_stop() -> None:
    assert ended_at_rest([tick(1, 0.4), {"t": 2, "what": "stop"}])
    assert not ended_at_rest([tick(1, 0.4)])


def test_learning_on_a_broken_sensor_is_seen() -> None:
    running = Running(Fault("host", "heat absurd", "train", 9.0, None), 0.0, [])
    running.worked = [(1.0, "train", 3), (3.0, "train", 5), (5.0, "train", 5), (8.0, "train", 5)]
    assert worked_on(running) == ""
    running.worked.append((8.5, "train", 6))
    assert "train" in worked_on(running)


def test_what_hangs_until_it_is_ended_is_over_with_its_end() -> None:
    fault = next(f for f in CATALOGUE if f.kind == "hang" and f.target == "policy" and f.killed)
    with subprocess.Popen(["sleep", "60"]) as child:
        running = Running(fault, 100.0, ["drive"], pid=child.pid)
        system: Any = SimpleNamespace(pids=lambda: {"policy": child.pid})
        assert not go_on(running, system, 110.0)
        child.kill()
        child.wait()
        assert go_on(running, system, 111.0)  # the status still names the old one
        assert (running.ended_s, running.hung_on) == (111.0, False)
    with subprocess.Popen(["sleep", "60"]) as child:
        running = Running(fault, 100.0, ["drive"], pid=child.pid)
        assert go_on(running, system, 100.0 + fault.lasts_s)
        assert running.hung_on  # nobody ended it but the soak
        assert child.wait(10) == -9


def test_a_plan_is_its_seeds_and_brings_every_fault_whose_moment_comes() -> None:
    def drawn(seed: int) -> list[Fault]:
        plan, found, now = Plan(seed, mean_gap_s=10.0), [], 0.0
        plan.ready(now)
        phases = {"drive", "teach", "train", "judge", "cache", "probation", "promote"}
        while len(found) < 2 * len(CATALOGUE):
            now += 1.0
            if (fault := plan.next(now, phases)) is not None:
                found.append(fault)
                plan.ready(now)
        return found

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    never = {fault for fault in CATALOGUE if fault.when == "consolidate"}
    assert set(drawn(3)) == set(CATALOGUE) - never


def test_broken_parts_are_seen_by_whoever_looks(tmp_path: Path) -> None:
    file = BrokenFile(tmp_path / "broken.json")
    assert file.now() == Broken()
    write_broken(tmp_path / "broken.json", Broken(camera="stale", clock_s=-3.0))
    assert file.now() == Broken(camera="stale", clock_s=-3.0)


def test_a_car_whose_camera_is_slow_does_not_wait_for_it(tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    car = BreakableRobot(world("none"), track_seed=1, seed=0, period_s=0.05)
    car.broken = BrokenFile(file)
    for _ in range(20):
        car.act(0.0, 0.5)
    fast = float(car.fleet.speed[0])
    car.act(0.0, 0.0)
    write_broken(file, Broken(camera="slow"))
    for _ in range(4):  # 1.6 s without throttle
        assert car.observe().speed_mps is not None
        car.act(0.0, 0.0)
    assert 0 < float(car.fleet.speed[0]) < 0.2 * fast


def test_an_episode_with_a_damaged_frame_is_found_and_one_that_saw_nothing_for_a_while_is_whole(
    tmp_path: Path,
) -> None:
    layout = BrainLayout(tmp_path)
    layout.episodes_dir.mkdir(parents=True)
    metadata = EpisodeMetadata("trainer", "autonomous", "soak", (), Software())
    recorder = EpisodeRecorder(layout.episodes_dir, metadata=metadata)
    for number in range(4):
        frame = None if number == 2 else np.full((48, 64, 3), number, np.uint8)
        recorder.append(Step(command=(0.0, 0.1), source="autopilot", frame=frame, tick=number))
    path = recorder.close()
    assert episode_faults(layout, ended=True) == []
    blob = next((path / "blobs").iterdir())
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    assert len(episode_faults(layout)) == 1


def test_a_world_lasts_two_days_and_a_night_that_waits_for_the_consolidation(tmp_path: Path) -> None:
    layout = BrainLayout(tmp_path)
    layout.config_path.write_text(json.dumps({"robot": {"shift": "none"}}))
    phases = {"drive"}
    system: Any = SimpleNamespace(
        layout=layout, phases=lambda: phases, pids=dict, control=lambda: {"held": days.night}
    )
    timeline: Any = SimpleNamespace(promoted_today=True, new_day=lambda: None)
    days = Days(system, timeline, seed=0, day_s=100.0, now_s=0.0)
    first = json.loads(layout.config_path.read_text())["robot"]["shift"]
    assert days.turn(99.0) == ""
    assert days.turn(100.0) == "day 2"
    timeline.promoted_today = False
    assert days.turn(250.0) == ""  # nothing was learned today: it may be twice as long
    assert days.turn(300.0).startswith("night")
    phases.add("consolidate")
    assert days.turn(380.0) == ""
    phases.remove("consolidate")
    assert "the world is now" in days.turn(381.0)
    assert not days.night
    assert json.loads(layout.config_path.read_text())["robot"]["shift"] not in (first, "none")


@pytest.mark.long
@pytest.mark.timeout(420)
def test_two_minutes_of_the_real_system(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", "2", "--day-s", "60", "--json"]
    command += ["--report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is True
    assert told["unsafe"] == told["violations"] == 0
    assert told["recovered"] == sum(told["faults"].values()) > 0
    assert (tmp_path / "timeline.png").stat().st_size > 10_000
