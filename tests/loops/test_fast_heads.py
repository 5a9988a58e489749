"""The heads in the fast loop: the reflex that carries on an old path, and the two that can only slow it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from continuonbrain.loops.fast import LoopTick
from continuonbrain.loops.loop_report import FastReport
from continuonbrain.loops.reflex_keeper import ReflexName
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.safety_head import SAFETY_HEAD_FILE, SafetyHead
from continuonbrain.policy.veto import Veto
from continuonbrain.policy.watch import Watch
from continuonbrain.policy.world_head import SHAPES, WorldHead
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.layout import shipped_safety_head
from tests.loops.fast_rig import Heads, rig

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
