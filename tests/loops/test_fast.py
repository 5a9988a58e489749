"""The fast loop is punctual, drives for who drives, and records it; every late tick here is meant."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from continuonbrain.loops.fast import LoopTick
from continuonbrain.loops.loop_report import Durations, FastReport
from continuonbrain.policy.calibration import Calibration
from continuonbrain.robot.protocol import Observation
from tests.loops.fast_rig import PERIOD_S, rig


def test_a_punctual_loop_keeps_absolute_deadlines_and_misses_nothing() -> None:
    r = rig(look_s=lambda tick: 0.001 * (tick % 30))
    report = r.run(200)
    assert report.missed_ticks == 0
    starts = np.array(r.body.looked_at_s)
    assert np.allclose(starts, 100.0 + PERIOD_S * np.arange(200))  # the jitter of one tick moves no other
    assert report.lateness_us["max"] == pytest.approx(0.0, abs=1.0)
    assert report.work_us["max"] == pytest.approx(29_000, rel=0.01)
    assert r.body.sent[-1][1] > 0.0


def test_a_tick_of_three_periods_is_two_missed_ticks_and_never_a_burst() -> None:
    r = rig(look_s=lambda tick: 3.2 * PERIOD_S if tick == 10 else 0.001)
    report = r.run(30)
    assert report.missed_ticks == 2
    assert report.overrun_stops == 0
    gaps = np.diff(r.body.looked_at_s)
    assert gaps.min() >= PERIOD_S - 1e-9
    assert gaps[10] == pytest.approx(3.2 * PERIOD_S)


def test_recording_that_is_off_keeps_no_step_and_opens_no_episode() -> None:
    r = rig()

    def told(tick: LoopTick) -> None:
        if tick.number in (20, 60):
            r.loop.record("drives", tick.number == 60)

    report = r.run(100, told)
    assert [len(m.steps) for m in r.episodes] == [20, 39]  # the first tick has no path yet
    assert report.recorded_steps == 59


def test_a_new_adapter_takes_over_between_two_ticks_with_its_calibration() -> None:
    r = rig()
    turned = Calibration(steering_gain=-1.0)

    def promote(tick: LoopTick) -> None:
        if tick.number == 50:
            r.paths.adapter_sha256, r.paths.calibration = "b" * 64, turned

    report = r.run(100, promote)
    assert len(report.swaps) == 1
    swap = report.swap
    assert (swap["previous_sha256"], swap["adapter_sha256"]) == ("a" * 64, "b" * 64)
    assert swap["missed_ticks"] == 0
    assert swap["ticks_between"] == 1
    assert swap["ticks_on_new"] == report.adapter_ticks["b" * 64] == 100 - swap["tick"]
    assert r.loop.pilot.tracker.calibration == turned
    steps = [s for m in r.episodes for s in m.steps]
    assert [s.adapter_sha256[0] for s in steps] == sorted(s.adapter_sha256[0] for s in steps)


def test_every_driven_step_is_recorded_with_what_was_proposed_and_what_was_sent() -> None:
    r = rig()
    r.run(20)
    steps = [s for m in r.episodes for s in m.steps]
    driven = [t for t in r.ticks if t.chunk is not None]
    assert [s.tick for s in steps] == [t.number for t in driven]
    assert [s.command for s in steps] == [(t.guarded.steering, t.guarded.throttle) for t in driven]
    assert [s.proposed for s in steps] == [t.proposed for t in driven]
    assert {s.source for s in steps} == {"autopilot"}
    assert steps[0].clamped  # throttle rises inside its slew
    assert steps[-1].latency_ms == pytest.approx(50.0)
    assert steps[-1].speed_mps == 1.0


def test_a_parked_robot_is_stopped_asks_nothing_and_records_nothing() -> None:
    r = rig()
    r.loop.set_mode("park")
    report = r.run(20)
    assert r.body.sent == []
    assert r.body.stops >= 20
    assert r.paths.offers == 0
    assert report.recorded_steps == 0
    assert report.stopped_ticks == 0  # standing on purpose is no intervention


def test_a_person_drives_until_they_fall_silent() -> None:
    r = rig()
    silent_since = 101.0
    r.loop.teleop = lambda: ((0.3, 0.4), max(0.0, r.time.now_s - silent_since))
    r.loop.set_mode("teleop")
    r.loop.record("lessons", True)
    r.run(60)
    assert r.body.sent[15] == pytest.approx((0.3, 0.4))
    assert r.body.sent[-1][1] == 0.0
    assert r.ticks[-1].guarded.reasons == ("deadman",)
    steps = [s for m in r.episodes for s in m.steps]
    assert {s.source for s in steps} == {"human_teleop_xr"}
    # The policy looks on: what it computes for a step that teaches is kept under that step's time.
    assert r.paths.kept[: len(steps)] == [s.frame_monotonic_ns for s in steps]
    assert not any("deadman" in s.reasons for s in steps)  # and then nobody drives, and it is no lesson
    assert [s.monotonic_ns for s in steps] == [s.frame_monotonic_ns for s in steps]  # one look, one time


def test_a_state_measured_apart_from_the_frame_is_recorded_with_its_own_time_and_an_old_one_is_a_stop() -> (
    None
):
    r = rig()
    look = r.body.observe
    apart = [0.003]

    def observe() -> Observation:
        seen = look()
        return replace(seen, state_monotonic_s=seen.monotonic_s - apart[0])

    r.body.observe = observe  # type: ignore[method-assign]
    r.run(20)
    steps = [s for m in r.episodes for s in m.steps]
    assert steps
    for step in steps:
        assert step.frame_monotonic_ns is not None
        assert step.frame_monotonic_ns - step.monotonic_ns == pytest.approx(3_000_000, abs=1000)
    for bad in (1.0, math.nan):
        apart[0] = bad
        r.run(3)
        assert r.ticks[-1].guarded.stopped
        assert "the state is" in r.ticks[-1].fault


def test_what_the_policy_drives_itself_is_not_kept_for_the_trainer() -> None:
    r = rig()
    r.run(20)
    assert r.paths.offers > 0
    assert r.paths.kept == []


def test_a_remote_control_that_raises_is_a_person_who_has_gone() -> None:
    r = rig()

    def broken() -> tuple[tuple[float, float], float]:
        raise OSError("gamepad unplugged")

    r.loop.teleop = broken
    r.loop.set_mode("teleop")
    r.run(5)
    assert r.ticks[-1].guarded.reasons == ("deadman",)


def test_a_report_survives_json() -> None:
    r = rig()
    r.run(10, lambda tick: setattr(r.paths, "adapter_sha256", f"{tick.number // 5}" * 64))
    report = r.loop.report()
    assert report.swaps
    assert FastReport.from_json(report.to_json()) == report


def test_percentiles_are_nearest_rank_and_the_maximum_is_never_forgotten() -> None:
    durations = Durations()
    durations.add(1.0)
    for i in range(70_000):
        durations.add(i % 1000 * 1e-6)
    found = durations.percentiles()
    assert found == pytest.approx({"p50": 500.0, "p99": 990.0, "p99.9": 999.0, "max": 1e6}, rel=0.01)


def test_the_control_process_multiplies_on_one_thread() -> None:
    """With more, BLAS helpers of a lower priority hold up the loop's thread for hundreds of milliseconds."""
    code = (
        "import numpy; from continuonbrain.loops.realtime import prefer_this_thread as one; "
        "from threadpoolctl import threadpool_info; one(); "
        "print([pool['num_threads'] for pool in threadpool_info() if pool['user_api'] == 'blas'])"
    )
    environment = {k: v for k, v in os.environ.items() if "NUM_THREADS" not in k}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert set(json.loads(done.stdout)) == {1}


def test_a_path_from_before_a_park_is_not_followed_after_it() -> None:
    r = rig()

    def told(tick: LoopTick) -> None:
        if tick.number == 20:
            assert tick.chunk is not None
            r.paths.dies_at_s = r.time.now_s  # no path comes any more, and the last one is still young
            r.loop.set_mode("park")
        if tick.number == 24:
            r.loop.set_mode("autopilot")

    r.run(32, told)
    after = [tick for tick in r.ticks if tick.number > 24]
    assert after
    assert all(tick.mode == "autopilot" and tick.chunk is None for tick in after)
    assert all([str(reason) for reason in tick.guarded.reasons] == ["no_path"] for tick in after)
    assert set(r.body.sent[25:]) == {(0.0, 0.0)}


@pytest.mark.parametrize("parked_ticks", [4, 40])
def test_every_mode_begins_at_rest_however_long_ago_the_last_command_was(parked_ticks: int) -> None:
    r = rig()
    r.loop.teleop = lambda: ((1.0, 1.0), 0.0)
    r.loop.set_mode("teleop")

    def told(tick: LoopTick) -> None:
        if tick.number == 30:
            assert r.body.sent[-1] == (1.0, 1.0)
            r.loop.set_mode("park")
        if tick.number == 30 + parked_ticks:
            r.loop.set_mode("teleop")

    r.run(40 + parked_ticks, told)
    first = r.ticks[31 + parked_ticks]
    limits = r.loop.pilot.guard.limits
    assert first.mode == "teleop"
    assert "clock" not in [str(reason) for reason in first.guarded.reasons]
    assert 0.0 <= first.guarded.throttle <= limits.throttle_rate_per_s * PERIOD_S + 1e-9
    assert 0.0 <= first.guarded.steering <= limits.steering_rate_per_s * PERIOD_S + 1e-9
    assert r.body.sent[-1] == (1.0, 1.0)
