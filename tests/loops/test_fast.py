"""Claims about the fast loop, on a clock that only moves when told: every late tick here is meant."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from continuonbrain.loops.fast import FastLoop, LoopTick
from continuonbrain.loops.loop_report import Durations, FastReport
from continuonbrain.loops.policy_client import Answer
from continuonbrain.loops.reflex_keeper import ReflexName
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.safety_head import SAFETY_HEAD_FILE, SafetyHead
from continuonbrain.policy.veto import Veto
from continuonbrain.policy.watch import Watch
from continuonbrain.policy.world_head import SHAPES, WorldHead
from continuonbrain.rlds.step import Step
from continuonbrain.robot.protocol import Observation
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.layout import shipped_safety_head

PERIOD_S = 0.05
FRAME = np.zeros((120, 160, 3), np.uint8)


@dataclass
class Time:
    now_s: float = 100.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class Body:
    """A robot whose look takes `look_s(tick)` seconds. sent: commands; stops: how often it was stopped."""

    time: Time
    look_s: Callable[[int], float] = lambda _tick: 0.002
    broken: Callable[[int], str] = lambda _tick: ""
    speed_mps: float | None = 1.0
    sent: list[tuple[float, float]] = field(default_factory=list)
    looked_at_s: list[float] = field(default_factory=list)
    stops: int = 0

    def observe(self) -> Observation:
        tick = len(self.looked_at_s)
        self.looked_at_s.append(self.time.now_s)
        self.time.now_s += self.look_s(tick)
        fault = self.broken(tick)
        if fault == "old":
            return Observation(FRAME, 1.0, 0.0, self.time.now_s - 1.0)
        if fault == "small":
            return Observation(FRAME[:60], 1.0, 0.0, self.time.now_s)
        if fault and fault not in ("frozen", "frozen at rest"):
            raise OSError(fault)
        frame = FRAME.copy()
        frame[0, 0, 0] = 0 if fault else 1 + tick % 255  # a camera's noise
        return Observation(frame, 0.0 if fault == "frozen at rest" else self.speed_mps, 0.0, self.time.now_s)

    def act(self, steering: float, throttle: float) -> None:
        assert math.isfinite(steering)
        assert math.isfinite(throttle)
        self.sent.append((steering, throttle))

    def stop(self) -> None:
        self.stops += 1

    def close(self) -> None:
        self.stop()


@dataclass
class Paths:
    """Answers every offer one tick later, until `dies_at_s`; adapter and calibration can be changed."""

    time: Time
    adapter_sha256: str = "a" * 64
    calibration: Calibration = field(default_factory=Calibration)
    dies_at_s: float = math.inf
    pending: float | None = None
    offers: int = 0
    kept: list[int] = field(default_factory=list)
    reflex: ReflexName | None = None

    def offer(
        self,
        frame: NDArray[np.uint8],
        instruction: str,
        speed_mps: float | None,
        observed_s: float,
        *,
        keep: bool = False,
    ) -> bool:
        assert frame.shape == (120, 160, 3)
        self.pending = observed_s
        if keep:
            self.kept.append(int(observed_s * 1e9))
        self.offers += 1
        return True

    def poll(self) -> list[Answer]:
        observed_s, self.pending = self.pending, None
        if observed_s is None or self.time.now_s >= self.dies_at_s:
            return []
        intent = () if self.reflex is None else (0.25,) * 10
        chunk = ActionChunk((0.0,) * 8, (1.0, 1.0), observed_s, self.adapter_sha256, 5.0, intent)
        return [Answer(chunk, self.calibration, self.reflex)]


class Memory:
    """A recorder in memory."""

    dropped = 0
    fault = ""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def append(self, step: Step) -> bool:
        self.steps.append(step)
        return True

    def count_dropped(self, steps: int) -> None:
        self.dropped += steps

    def close(self) -> Path:
        return Path("episode")


@dataclass
class Rig:
    """A loop with its surroundings."""

    time: Time
    body: Body
    paths: Paths
    loop: FastLoop
    ticks: list[LoopTick] = field(default_factory=list)
    episodes: list[Memory] = field(default_factory=list)

    def run(self, ticks: int, on_tick: Callable[[LoopTick], None] = lambda _t: None) -> FastReport:
        end = self.loop.ticks + ticks

        def take(tick: LoopTick) -> None:
            self.ticks.append(tick)
            on_tick(tick)

        self.loop.run(lambda: self.loop.ticks >= end, take)
        return self.loop.close()


class Heads:
    """Gives a head that always bends as told, from the second asking on."""

    def __init__(self, bend: float) -> None:
        self.bend = bend
        self.missing: set[ReflexName] = set()
        self.asked: list[ReflexName] = []
        self.intents: list[float] = []

    def get(self, name: ReflexName) -> Any:
        self.asked.append(name)
        return self if len(self.asked) > 1 and name not in self.missing else None

    def curvatures(self, frames: NDArray[np.uint8], intents: NDArray[np.float32]) -> NDArray[np.float32]:
        assert frames.shape == (1, 120, 160, 3)
        self.intents += intents[0].tolist()
        return np.full((1, 8), self.bend, np.float32)


def rig(heads: Heads | None = None, *, pilot: Pilot | None = None, **body: Callable[[int], object]) -> Rig:
    time = Time()
    robot = Body(time, **body)  # type: ignore[arg-type]
    paths = Paths(time)
    episodes: list[Memory] = []

    def open_recorder(_instruction: str, _source: str) -> Memory:
        episodes.append(Memory())
        return episodes[-1]

    loop = FastLoop(
        robot,
        pilot or Pilot(calibration=Calibration(), limits=Limits(chunk_timeout_s=1.0)),
        paths,
        recorder_factory=open_recorder,
        reflexes=heads,
        clock=time.clock,
        sleep=time.sleep,
    )
    return Rig(time, robot, paths, loop, episodes=episodes)


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


def test_the_third_late_tick_in_a_row_is_a_safe_stop_with_a_reason() -> None:
    r = rig(look_s=lambda tick: 0.12 if 20 <= tick < 25 else 0.001)
    report = r.run(40)
    stopped = [t.number for t in r.ticks if t.number > 5 and t.guarded.stopped]
    # Ticks 21 to 25 start late; the third of them is 23.
    assert stopped == [23, 24, 25]
    assert all(t.guarded.reasons == ("clock",) and t.guarded.throttle == 0.0 for t in r.ticks[23:26])
    assert report.overrun_stops == 3
    assert not r.ticks[30].guarded.stopped


@pytest.mark.parametrize("fault", ["the camera is gone", "old", "small"])
def test_a_robot_that_cannot_be_looked_at_is_stopped_and_drives_again_when_it_can(fault: str) -> None:
    r = rig(broken=lambda tick: fault if 20 <= tick < 24 else "")
    report = r.run(40)
    assert report.sensor_faults == 4
    for tick in r.ticks[20:24]:
        assert tick.guarded.reasons == ("sensor_fault",)
        assert r.body.sent[tick.number][1] == 0.0
        assert tick.fault
    assert not r.ticks[26].guarded.stopped
    assert r.body.sent[39][1] > 0.0


@pytest.mark.parametrize("speed_mps", [1.0, None])
def test_a_car_that_moves_before_a_picture_that_never_changes_is_stopped_until_it_does(
    speed_mps: float | None,
) -> None:
    r = rig(broken=lambda tick: "frozen" if 20 <= tick < 60 else "")
    r.body.speed_mps = speed_mps
    r.run(80)
    stopped = [t.number for t in r.ticks if "sensor_fault" in t.guarded.reasons]
    assert stopped[0] in (30, 31)  # half a second is ten ticks, or eleven where it is rounded
    assert stopped == list(range(stopped[0], 60))
    assert all(r.body.sent[number][1] == 0.0 for number in stopped)
    assert "same picture" in r.ticks[40].fault
    assert r.body.sent[79][1] > 0.0


def test_a_car_that_stands_before_a_picture_that_never_changes_may_drive_off() -> None:
    r = rig(broken=lambda tick: "frozen at rest" if tick < 60 else "")
    report = r.run(80)
    assert report.sensor_faults == 0
    assert r.body.sent[79][1] > 0.0


def test_a_body_that_must_stand_is_stopped_with_its_reason_in_every_step_and_parked_it_tells() -> None:
    r = rig()

    def battery(tick: LoopTick) -> None:
        r.loop.hold("the battery is at 4%" if 19 <= tick.number < 29 else "")
        if tick.number == 24:
            r.loop.set_mode("park")
        elif tick.number == 26:
            r.loop.set_mode("autopilot")

    report = r.run(50, battery)
    held = [t for t in r.ticks if 20 <= t.number < 30]
    assert all(t.fault == "the battery is at 4%" and t.guarded.throttle == 0.0 for t in held)
    assert all(t.guarded.reasons == ("low_battery",) for t in held if t.mode != "park")
    assert r.ticks[19].guarded.throttle > 0.0
    assert r.ticks[49].guarded.throttle > 0.0
    assert report.sensor_faults == 0
    steps = {step.tick: step for episode in r.episodes for step in episode.steps}
    assert steps[22].reasons == ("low_battery",)
    assert steps[22].command[1] == 0.0


def test_a_path_from_before_a_long_blindness_is_forgotten() -> None:
    r = rig(broken=lambda tick: "blind" if 20 <= tick < 40 else "")
    r.paths.dies_at_s = 100.0 + 20 * PERIOD_S
    r.run(45)
    assert {reason for t in r.ticks[40:] for reason in t.guarded.reasons} == {"no_path"}


def test_without_fresh_paths_the_robot_stops_within_the_chunk_timeout() -> None:
    r = rig()
    r.paths.dies_at_s = 102.0
    r.run(100)
    last_moving = max(t.now_s for t in r.ticks if t.guarded.throttle != 0.0)
    assert 102.0 < last_moving <= 102.0 + 1.0 + PERIOD_S
    assert "stale_path" in r.ticks[-1].guarded.reasons


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
    r.run(60)
    assert r.body.sent[15] == pytest.approx((0.3, 0.4))
    assert r.body.sent[-1][1] == 0.0
    assert r.ticks[-1].guarded.reasons == ("deadman",)
    steps = [s for m in r.episodes for s in m.steps]
    assert {s.source for s in steps} == {"human_teleop_xr"}
    # The policy looks on: what it computes for a step that teaches is kept under that step's time.
    assert r.paths.kept == [s.frame_monotonic_ns for s in steps]
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


def test_nan_from_a_remote_control_is_a_stop_and_is_recorded_as_no_proposal() -> None:
    r = rig()
    r.loop.teleop = lambda: ((math.nan, 0.4), 0.0)
    r.loop.set_mode("teleop")
    r.run(5)
    assert all(sent[1] == 0.0 for sent in r.body.sent)
    steps = [s for m in r.episodes for s in m.steps]
    assert {s.proposed for s in steps} == {None}
    assert "not_finite" in steps[0].reasons


def test_a_remote_control_that_raises_is_a_person_who_has_gone() -> None:
    r = rig()

    def broken() -> tuple[tuple[float, float], float]:
        raise OSError("gamepad unplugged")

    r.loop.teleop = broken
    r.loop.set_mode("teleop")
    r.run(5)
    assert r.ticks[-1].guarded.reasons == ("deadman",)


def test_stop_is_obeyed_although_no_decision_ever_comes() -> None:
    r = rig()
    r.loop.instruct("please stop")
    r.paths.dies_at_s = 0.0
    r.run(10)
    assert all(sent == (0.0, 0.0) for sent in r.body.sent)
    assert "instruction_stop" in r.ticks[-1].guarded.reasons


def test_whatever_ends_the_loop_the_robot_is_stopped_and_the_collector_is_back() -> None:
    r = rig()

    def fail(tick: LoopTick) -> None:
        assert not gc.isenabled()
        if tick.number == 3:
            raise RuntimeError("a defect of ours")

    with pytest.raises(RuntimeError, match="a defect of ours"):
        r.run(10, fail)
    assert r.body.stops == 1
    assert gc.isenabled()


def test_actuators_that_raise_are_counted_and_the_loop_lives_on() -> None:
    r = rig()

    def refuse(_steering: float, _throttle: float) -> None:
        raise OSError("i2c")

    r.body.act = refuse  # type: ignore[method-assign]
    report = r.run(10)
    assert report.actuator_faults == 10
    assert report.ticks == 10
    assert {tick.fault for tick in r.ticks} == {"OSError: i2c"}


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


HEAD = ReflexName("000001-abcdef01", "f" * 64)


def test_an_old_path_is_carried_on_by_the_head_that_its_adapter_came_with_and_recorded_so() -> None:
    heads = Heads(0.8)
    r = rig(heads)
    r.paths.reflex = HEAD
    r.paths.dies_at_s = 101.0
    report = r.run(60)
    first = next(t.number for t in r.ticks if t.reflex)
    assert r.ticks[first].now_s - 101.0 == pytest.approx(0.3, abs=0.11)
    before, carried = r.ticks[first - 1].proposed, r.ticks[first].proposed
    assert before is not None
    assert carried is not None
    assert abs(before[0]) < 0.05
    assert carried[0] > 0.3
    assert set(heads.asked) == {HEAD}
    assert set(heads.intents) == {0.25}
    assert report.reflex_ticks == sum(t.reflex for t in r.ticks) > 5
    assert report.reflex_faults == 0
    steps = {s.tick: s for episode in r.episodes for s in episode.steps}
    assert steps[first].extra == {"path_by": "reflex"}
    assert steps[first - 1].extra == {}
    # The model's word grows old all the same: the head drives nobody who has been left alone.
    assert "stale_path" in r.ticks[-1].guarded.reasons
    assert r.ticks[-1].guarded.throttle == 0.0


def test_fresh_paths_leave_the_head_out() -> None:
    heads = Heads(0.8)
    r = rig(heads)
    r.paths.reflex = HEAD
    assert r.run(40).reflex_ticks == 0
    assert heads.asked == []


def test_an_adapter_without_a_head_follows_its_own_paths() -> None:
    heads = Heads(0.8)
    r = rig(heads)
    r.paths.dies_at_s = 101.0
    assert r.run(40).reflex_ticks == 0
    assert heads.asked == []


def test_a_head_whose_numbers_are_none_is_not_followed_and_the_models_path_goes_on() -> None:
    heads = Heads(math.nan)
    r = rig(heads)
    r.paths.reflex = HEAD
    r.paths.dies_at_s = 101.0
    report = r.run(30)
    assert report.reflex_ticks == 0
    assert report.reflex_faults > 1
    assert all(math.isfinite(v) for command in r.body.sent for v in command)
    assert r.body.sent[-1][1] > 0.0


def test_a_person_at_the_wheel_is_not_carried() -> None:
    heads = Heads(0.8)
    r = rig(heads)
    r.paths.reflex = HEAD
    r.paths.dies_at_s = 101.0
    r.loop.teleop = lambda: ((0.0, 0.1), 0.0)
    r.run(30, lambda tick: r.loop.set_mode("teleop") if tick.number == 20 else None)
    assert not any(t.reflex for t in r.ticks[21:])


@pytest.mark.parametrize("then", [None, ReflexName("000002-abcdef02", "e" * 64)])
def test_after_a_swap_the_head_of_the_old_adapter_is_never_asked_again(then: ReflexName | None) -> None:
    heads = Heads(0.8)
    r = rig(heads)
    r.paths.reflex = HEAD
    r.paths.dies_at_s = 101.0

    def swap(tick: LoopTick) -> None:
        if tick.number == 30:
            assert tick.reflex
            assert set(heads.asked) == {HEAD}
            heads.asked.clear()
            r.paths.reflex, r.paths.dies_at_s = then, 102.0

    r.run(60, swap)
    assert set(heads.asked) == ({then} if then else set())
    assert any(t.reflex for t in r.ticks[45:]) == (then is not None)


def test_a_decision_from_before_a_blindness_is_not_followed_after_it() -> None:
    r = rig(broken=lambda tick: "blind" if 20 <= tick < 40 else "")
    late: list[Answer] = []
    poll = r.paths.poll

    def slow_poll() -> list[Answer]:
        answers = poll()
        if r.loop.ticks == 19:
            late.extend(answers)
            return []
        if r.loop.ticks == 42:
            return late
        return answers if r.loop.ticks < 19 else []

    r.paths.poll = slow_poll  # type: ignore[method-assign]
    r.run(48)
    assert late
    assert all(t.guarded.throttle == 0.0 for t in r.ticks[40:])
    assert r.loop.pilot.tracker.path is None


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


def world_head(logit: float) -> WorldHead:
    """Foresees the same whatever comes."""
    tensors = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    return WorldHead(save(tensors | {"risk1.bias": np.full(1, logit, np.float32)}))


def test_a_vetoed_chunk_is_counted_and_stands_in_the_steps_until_a_fresher_one_is_followed() -> None:
    veto = Veto(world_head(-9.0))
    safety = SafetyHead.from_file(shipped_safety_head() / SAFETY_HEAD_FILE)
    limits = Limits(chunk_timeout_s=1.0)
    r = rig(pilot=Pilot(calibration=Calibration(), limits=limits, watch=Watch(safety), veto=veto))

    def turn(tick: LoopTick) -> None:
        veto.head = world_head(9.0 if 10 <= tick.number < 20 else -9.0)
        if tick.number == 14:
            r.paths.calibration = Calibration(steering_trim_rad=0.1)
        if tick.number == 15:
            assert r.loop.pilot.tracker.calibration == r.paths.calibration, (
                "the robot's, whatever is followed"
            )

    report = r.run(30, turn)
    assert report.world_vetoes == 10
    assert report.world_faults == 0
    assert report.chunks == 29 - 10
    steps = [step for memory in r.episodes for step in memory.steps]
    vetoed = [s.tick for s in steps if "world_head_veto" in s.reasons]
    assert vetoed == list(range(11, 21))
    assert [s.tick for s in steps if float(s.extra["world_head"]) > 0.99] == vetoed
    assert report.reasons["world_head_veto"] == 10
    assert FastReport.from_json(report.to_json()) == report


def test_after_a_change_of_who_drives_no_grid_of_before_counts() -> None:
    veto = Veto(world_head(-9.0))
    safety = SafetyHead.from_file(shipped_safety_head() / SAFETY_HEAD_FILE)
    r = rig(pilot=Pilot(calibration=Calibration(), limits=Limits(), watch=Watch(safety), veto=veto))
    r.run(10)
    assert len(veto) == 10
    r.loop.set_mode("park")
    assert len(veto) == 0


def test_a_safety_head_that_raises_stops_the_car_and_is_counted_and_drives_on_when_it_works_again() -> None:
    head = SafetyHead.from_file(shipped_safety_head() / SAFETY_HEAD_FILE)
    road = np.full((13, 17), -20.0, np.float32)

    class Broken:
        sha256, logits = head.sha256, head.logits

        def grids(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
            if 10 <= r.loop.ticks < 20:
                raise RuntimeError("oops")
            return np.repeat(road[None], len(frames), 0)

    watch = Watch(Broken())  # type: ignore[arg-type]
    r = rig(pilot=Pilot(calibration=Calibration(), limits=Limits(chunk_timeout_s=1.0), watch=watch))
    report = r.run(60)
    assert report.safety_faults == 10
    steps = {step.tick: step for memory in r.episodes for step in memory.steps}
    blind = [tick for tick, step in steps.items() if "sensor_fault" in step.reasons]
    assert len(blind) == 10
    assert all("safety_head_block" in steps[tick].reasons for tick in blind)
    assert all(steps[tick].command[1] <= 0.0 for tick in blind)
    assert all(steps[tick].extra["safety_head"] == "1.0000" for tick in blind)
    assert not steps[max(steps)].reasons


@pytest.mark.parametrize("periods", [1.2, 1.5, 1.99, 2.1])
def test_a_loop_that_is_never_done_in_time_stands(periods: float) -> None:
    r = rig(look_s=lambda tick: periods * PERIOD_S if tick >= 20 else 0.002)
    report = r.run(60)
    assert report.overrun_stops > 30
    assert r.body.sent[-1][1] == 0.0


def test_one_long_tick_now_and_then_stops_nobody() -> None:
    r = rig(look_s=lambda tick: 1.5 * PERIOD_S if tick % 4 == 0 else 0.002)
    assert r.run(80).overrun_stops == 0


def test_after_a_body_that_refused_the_throttle_comes_up_from_rest() -> None:
    r = rig()
    act, refusing = r.body.act, [False]

    def refuse(steering: float, throttle: float) -> None:
        if refusing[0]:
            raise OSError("arming")
        act(steering, throttle)

    r.body.act = refuse  # type: ignore[method-assign]
    r.run(30)
    assert r.body.sent[-1][1] > 0.2
    refusing[0] = True
    r.run(10)
    refusing[0] = False
    before = len(r.body.sent)
    r.run(3)
    assert r.body.sent[before][1] <= 0.11
