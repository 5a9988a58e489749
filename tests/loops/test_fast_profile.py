"""What the control loop says of its own time, and that it may run for ever."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from continuonbrain.loops.fast import FastLoop
from continuonbrain.loops.loop_report import STAGES, Durations, Profile
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.pilot import Pilot
from continuonbrain.robot.protocol import Observation
from continuonbrain.safety.guards import Limits
from tests.loops.fast_rig import FRAME, Paths, Time


class QuietBody:
    """A robot that remembers nothing, so that whatever grows is the loop's."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self._frames = [FRAME ^ n for n in range(16)]
        self._seen = 0

    def observe(self) -> Observation:
        self._time.now_s += 0.001
        self._seen += 1  # a camera that moves never shows the same picture twice
        return Observation(self._frames[self._seen % 16], 1.0, 0.0, self._time.now_s)

    def act(self, steering: float, throttle: float) -> None:
        pass

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


def make_loop(limits: Limits) -> FastLoop:
    time = Time()
    return FastLoop(
        QuietBody(time),
        Pilot(calibration=Calibration(), limits=limits),
        Paths(time),
        hz=50.0,
        clock=time.clock,
        sleep=time.sleep,
    )


def drive(loop: FastLoop, ticks: int) -> None:
    until = loop.ticks + ticks
    loop.run(lambda: loop.ticks >= until)


def test_an_endless_loop_does_not_grow(limits: Limits) -> None:
    loop = make_loop(limits)
    drive(loop, 2000)
    tracemalloc.start()
    try:
        drive(loop, 500)
        before, _ = tracemalloc.get_traced_memory()
        drive(loop, 6000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert loop.chunks > 6000  # it drove, and not only stood
    assert after - before < 16_384, f"{after - before} bytes in 6000 ticks"


def test_every_stage_of_a_driven_tick_is_timed(limits: Limits) -> None:
    loop = make_loop(limits)
    drive(loop, 100)
    told = loop.profile()
    assert set(told["stages_us"]) == set(STAGES)
    for stage, figures in told["stages_us"].items():
        assert figures["p50"] > 0, stage
        assert figures["p50"] <= figures["p99"] <= figures["p99.9"] <= figures["max"], stage
    assert told["work_us"] == loop.report().work_us


def test_a_stage_is_what_went_by_since_the_one_before() -> None:
    now = [0.0]
    profile = Profile(lambda: now[0])
    for _ in range(3):
        profile.begin()
        now[0] += 0.002
        profile.over("look")
        now[0] += 0.005
        profile.over("act")
        now[0] += 1.0
    told = profile.percentiles()
    assert told["look"]["p50"] == pytest.approx(2000)
    assert told["act"]["max"] == pytest.approx(5000)
    assert told["heads"]["max"] == 0.0


def test_percentiles_are_of_the_newest_and_the_largest_of_all() -> None:
    durations = Durations(kept=100)
    durations.add(9.0)
    for value in np.arange(1, 101):
        durations.add(value / 1e6)
    assert durations.percentiles() == {"p50": 51.0, "p99": 100.0, "p99.9": 100.0, "max": 9e6}
