"""The world head: its file, its twin in torch, and that it can refuse a path and do nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.doctor_brain import check_world_head
from continuonbrain.config import ConfigError
from continuonbrain.errors import BrainError
from continuonbrain.loops.control_process import ControlOptions, ControlProcess
from continuonbrain.model.world_net import world_bytes
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.open_world import open_vetoes
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.response import Response
from continuonbrain.policy.safety_head import (
    GRID_AHEAD_M,
    GRID_LEFT_M,
    POINTS,
    SAFETY_HEAD_FILE,
    SafetyHead,
)
from continuonbrain.policy.veto import Foreseen, Veto, plan_of
from continuonbrain.policy.watch import Watch
from continuonbrain.policy.world_head import (
    FORESEEN_POINTS,
    SHAPES,
    WORLD_HEAD_FILE,
    WorldHead,
    WorldHeadError,
    later_ways,
    moved_grids,
)
from continuonbrain.safety.guards import Limits
from continuonbrain.safety.reasons import Reason
from continuonbrain.storage.layout import BrainLayout, init_brain_root, shipped_safety_head
from continuonbrain.storage.manifest import manifest_from_settings
from continuonbrain.trainer.build_world import foreseen_by, mirrored, new_net, tensors_of
from continuonbrain.trainer.foresight import Foresights

LIMITS = Limits(throttle_min=-0.5, steering_rate_per_s=10.0, throttle_rate_per_s=5.0, chunk_timeout_s=1.0)
SHAPE = (len(GRID_AHEAD_M), len(GRID_LEFT_M))
ROAD = np.full(SHAPE, -4.0, np.float32)


def head_of(**numbers: float) -> WorldHead:
    """Random weights; tensors named are filled with one number."""
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in SHAPES.items()}
    for name, number in numbers.items():
        tensors[name] = np.full(SHAPES[name], number, np.float32)
    return WorldHead(save(tensors))


def answering(logit: float) -> WorldHead:
    """Always the same logit."""
    return head_of(**{"risk1.weight": 0.0, "risk1.bias": logit})


@pytest.fixture(scope="module")
def safety() -> SafetyHead:
    return SafetyHead.from_file(shipped_safety_head() / SAFETY_HEAD_FILE)


def states(n: int = 6) -> Foresights:
    rng = np.random.default_rng(1)
    f32 = np.float32
    plans = np.cumsum(rng.normal((0.1, 0, 0), 0.03, (n, FORESEEN_POINTS, 3)), 1).astype(f32)
    return Foresights(
        rng.normal(0, 5, (n, *SHAPE)).astype(f32),
        plans,
        rng.normal(1, 0.3, (n, 2)).astype(f32),
        rng.normal(0, 0.5, (n, 10)).astype(f32),
        rng.random((n, *SHAPE)) < 0.5,
        plans[:, POINTS - 1],
        rng.random(n) < 0.5,
    )


def test_numpy_and_torch_agree() -> None:
    torch.manual_seed(0)
    net = new_net()
    torch.nn.init.normal_(net.feature1.weight, std=0.1)
    head = WorldHead(world_bytes(net))
    net.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in load(head.data).items()})
    for told in (states(), mirrored(states())):
        later, risk = head.foresee(told.grids, told.plans, told.motions, told.chunks)
        with torch.no_grad():
            grids, logits = foreseen_by(net, tensors_of(told))
        assert np.abs(later - grids.numpy()).max() < 1e-3
        assert np.abs(risk - logits.numpy()).max() < 1e-3


def test_a_new_net_foresees_what_moving_says() -> None:
    told = states()
    later, _ = WorldHead(world_bytes(new_net())).foresee(told.grids, told.plans, told.motions, told.chunks)
    seen = told.grids.clip(-8, 8)
    assert np.abs(later - moved_grids(seen, told.plans[:, POINTS - 1])).max() < 1e-5


def test_grids_move_as_the_ground_does() -> None:
    grid = np.broadcast_to(np.asarray(GRID_AHEAD_M, np.float32)[:, None], SHAPE)[None]
    straight = moved_grids(grid, np.array([[0.4, 0, 0]], np.float32))
    assert straight[0, :-3] == pytest.approx(grid[0, 2:-1], abs=1e-3)
    left = np.broadcast_to(np.asarray(GRID_LEFT_M, np.float32), SHAPE)[None]
    turned = moved_grids(left, np.array([[0, 0, math.pi / 2]], np.float32))
    # What is ahead of a car that has turned left was to its left.
    assert turned[0, :8, 8] == pytest.approx(np.asarray(GRID_AHEAD_M[:8]), abs=1e-3)


def test_the_second_second_is_seen_from_where_the_car_is_then() -> None:
    plan = np.zeros((1, FORESEEN_POINTS, 3), np.float32)
    plan[0, POINTS - 1] = (1.0, 0.5, math.pi / 2)
    plan[0, POINTS:] = (1.0, 0.8, 0.0)
    assert later_ways(plan)[0, 0] == pytest.approx((0.3, 0.0), abs=1e-6)


def test_the_plan_follows_the_chunk() -> None:
    told = {"speed_mps": 1.0, "yaw_rate_rps": 0.0, "calibration": Calibration(), "response": Response()}
    straight = plan_of(ActionChunk((0.0,) * 8, (1.0, 1.0), 5.0), **told)  # type: ignore[arg-type]
    assert len(straight) == FORESEEN_POINTS
    assert straight[POINTS - 1] == pytest.approx((1.0, 0.0, 0.0), abs=0.1)
    left = plan_of(ActionChunk((0.8,) * 8, (1.0, 1.0), 5.0), **told)  # type: ignore[arg-type]
    right = plan_of(ActionChunk((-0.8,) * 8, (1.0, 1.0), 5.0), **told)  # type: ignore[arg-type]
    assert left[-1][1] > 0.5
    assert left[-1] == pytest.approx([right[-1][0], -right[-1][1], -right[-1][2]], abs=1e-6)


@pytest.mark.parametrize("spoilt", ["empty", "cut", "text", "missing", "other", "shape", "nan", "int"])
def test_a_damaged_head_is_refused(spoilt: str, tmp_path: Path) -> None:
    good = answering(0.0).data
    tensors = dict(load(good))
    name = "feature1.weight"
    if spoilt == "missing":
        del tensors[name]
    elif spoilt == "other":
        tensors["more"] = tensors[name]
    elif spoilt == "shape":
        tensors[name] = tensors[name][:-1].copy()
    elif spoilt == "nan":
        tensors[name] = np.full_like(tensors[name], np.nan)
    elif spoilt == "int":
        tensors[name] = np.zeros(SHAPES[name], np.int32)
    data = {"cut": good[:-100], "text": b"not a head"}.get(spoilt) or (
        b"" if spoilt == "empty" else save(tensors)
    )
    path = tmp_path / WORLD_HEAD_FILE
    path.write_bytes(data)
    with pytest.raises(WorldHeadError, match="world_head") as refused:
        WorldHead.from_file(path)
    assert "build-world" in refused.value.remedy


# ------------------------------------------------------------------------------------------------- the veto


def chunk_at(tick: int, bend: float = 0.6, speed: float = 1.0) -> ActionChunk:
    return ActionChunk((bend,) * 8, (speed, speed), tick * 0.05)


def drive(pilot: Pilot, ticks: range, *, offers: bool = True, bend: float = 0.6) -> list:
    """Ticks on a road; each tick's frame is answered one tick later."""
    out = []
    for tick in ticks:
        pilot.observe(now_s=tick * 0.05, speed_mps=1.0, yaw_rate_rps=0.1)
        if offers and tick > ticks[0]:
            pilot.accept(chunk_at(tick - 1, bend))
        out.append(pilot.tick(now_s=tick * 0.05, grid=None if pilot.watch is None else ROAD))
    return out


def pilot_with(safety: SafetyHead, veto: Veto | None) -> Pilot:
    return Pilot(calibration=Calibration(), limits=LIMITS, watch=Watch(safety), veto=veto)


def test_a_path_that_leads_off_is_not_taken_up_and_the_earlier_one_ends(safety: SafetyHead) -> None:
    pilot = pilot_with(safety, Veto(answering(-9.0)))
    drive(pilot, range(6))
    followed = pilot.tracker.path
    assert followed is not None
    assert pilot.vetoed is None
    assert pilot.veto is not None
    pilot.veto.head = answering(9.0)
    ticks = drive(pilot, range(6, 40), bend=-0.9)
    assert pilot.tracker.path is followed
    for tick in ticks[1:]:
        assert Reason.WORLD_HEAD_VETO in tick.guarded.reasons
        assert tick.foreseen.probability > 0.99
    assert not ticks[1].guarded.stopped, "the earlier path goes on"
    assert ticks[1].guarded.steering > 0
    assert ticks[-1].guarded.stopped
    assert Reason.STALE_PATH in ticks[-1].guarded.reasons
    assert ticks[-1].guarded.throttle == 0.0
    pilot.veto.head = answering(-9.0)
    after = drive(pilot, range(40, 43))
    assert Reason.WORLD_HEAD_VETO not in after[-1].guarded.reasons
    assert not after[-1].guarded.stopped


def test_the_first_path_of_all_may_be_refused(safety: SafetyHead) -> None:
    ticks = drive(pilot_with(safety, Veto(answering(9.0))), range(4))
    assert ticks[0].guarded.reasons == (Reason.NO_PATH,)
    assert ticks[-1].guarded.reasons == (Reason.NO_PATH, Reason.WORLD_HEAD_VETO)
    assert ticks[-1].guarded.stopped


@pytest.mark.parametrize(("logit", "followed"), [(-0.1, True), (0.1, False)])
def test_the_threshold_is_the_block_threshold(safety: SafetyHead, logit: float, followed: bool) -> None:
    pilot = pilot_with(safety, Veto(answering(logit), block=0.5))
    drive(pilot, range(3))
    assert (pilot.tracker.path is not None) is followed


@given(st.floats(-12, 12), st.floats(-1.5, 1.5), st.floats(0.0, 1.8))
@settings(max_examples=40, deadline=None)
def test_it_never_steers(safety: SafetyHead, logit: float, bend: float, speed: float) -> None:
    """The same car that was never offered what was refused steers the same and is not slower."""
    pilots = [pilot_with(safety, Veto(answering(-12.0))), pilot_with(safety, None)]
    for pilot in pilots:
        drive(pilot, range(6))
    judged, plain = pilots
    assert judged.veto is not None
    judged.veto.head = answering(logit)
    for tick in range(6, 10):
        for pilot in pilots:
            pilot.observe(now_s=tick * 0.05, speed_mps=1.0, yaw_rate_rps=0.1)
        followed = judged.accept(chunk_at(tick - 1, bend, speed))
        if followed:
            plain.accept(chunk_at(tick - 1, bend, speed))
        seen, free = (p.tick(now_s=tick * 0.05, grid=ROAD) for p in pilots)
        assert seen.proposed == free.proposed
        assert seen.guarded.steering == free.guarded.steering
        assert seen.guarded.throttle <= free.guarded.throttle + 1e-9
        if followed:
            assert seen.guarded == free.guarded


def test_a_refused_path_that_brakes_still_brakes(safety: SafetyHead) -> None:
    pilot = pilot_with(safety, Veto(answering(-9.0)))
    drive(pilot, range(6))
    assert pilot.veto is not None
    pilot.veto.head = answering(9.0)
    pilot.observe(now_s=0.3, speed_mps=1.0, yaw_rate_rps=0.1)
    assert not pilot.accept(chunk_at(5, speed=0.0))
    tick = pilot.tick(now_s=0.3, grid=ROAD)
    assert tick.proposed is not None
    assert tick.proposed[1] > 0.2
    assert tick.guarded.throttle < tick.proposed[1] - 0.2


@pytest.mark.parametrize("broken", ["grid", "missing", "weights", "raises", "inf"])
def test_what_is_no_number_is_a_veto(safety: SafetyHead, broken: str) -> None:
    head = answering(-9.0)
    grid = ROAD.copy()
    if broken == "grid":
        grid[3, 3] = np.nan
    elif broken == "inf":
        grid[3, 3] = np.inf
    elif broken == "weights":
        head._wide["feature0.bias"][:] = np.nan
    elif broken == "raises":
        head._wide.clear()
    veto = Veto(head)
    pilot = pilot_with(safety, veto)
    pilot.observe(now_s=0.0, speed_mps=1.0, yaw_rate_rps=0.0)
    pilot.tick(now_s=0.0, grid=None if broken == "missing" else grid)
    pilot.observe(now_s=0.05, speed_mps=1.0, yaw_rate_rps=0.0)
    assert not pilot.accept(chunk_at(0))
    tick = pilot.tick(now_s=0.05, grid=ROAD)
    assert tick.foreseen == Foreseen(1.0, None)
    assert Reason.WORLD_HEAD_VETO in tick.guarded.reasons
    assert veto.faults == (broken == "raises")


def test_grids_are_kept_for_some_seconds_and_found_by_their_frame(safety: SafetyHead) -> None:
    veto = Veto(answering(-9.0))
    pilot = pilot_with(safety, veto)
    drive(pilot, range(400), offers=False)
    assert len(veto) == 128
    assert pilot.accept(chunk_at(300)), "of five seconds ago"
    pilot.forget()
    assert len(veto) == 0
    assert pilot.vetoed is None


def test_other_calibration_other_answer(safety: SafetyHead) -> None:
    pilot = pilot_with(safety, Veto(answering(-9.0)))
    assert pilot.watch is not None
    pilot.watch.response.gain = -1.0
    pilot.recalibrate(Calibration())
    assert pilot.watch.response.gain == -1.0, "nothing has changed"
    pilot.recalibrate(Calibration(steering_gain=-1.0))
    assert pilot.watch.response.gain == 1.0


def test_without_a_safety_head_there_is_no_veto() -> None:
    with pytest.raises(BrainError, match="safety head"):
        Pilot(calibration=Calibration(), limits=LIMITS, veto=Veto(answering(0.0)))


# ------------------------------------------------------------------------------------------------ brain root


@pytest.fixture
def layout(tmp_path: Path) -> BrainLayout:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    set_heads(layout, world={"enabled": True})
    return layout


def set_heads(layout: BrainLayout, **changes: dict[str, object]) -> None:
    config = json.loads(layout.config_path.read_bytes())
    for name, told in changes.items():
        config["heads"][name] |= told
    layout.config_path.write_text(json.dumps(config))


def build(layout: BrainLayout) -> WorldHead:
    """An edge build as `model build-world` leaves it, of random weights."""
    head = answering(-9.0)
    layout.world_dir.mkdir(parents=True)
    (layout.world_dir / WORLD_HEAD_FILE).write_bytes(head.data)
    safety = hashlib.sha256((layout.safety_dir / SAFETY_HEAD_FILE).read_bytes()).hexdigest()
    card = {"sha256": head.sha256, "safety_sha256": safety}
    (layout.world_dir / "card.json").write_text(json.dumps(card))
    return head


def opened(layout: BrainLayout) -> Veto:
    return open_vetoes(layout.world_dir, layout.safety_dir, layout.manifest_path)()


def test_it_is_off_by_default(tmp_path: Path) -> None:
    for preset in ("sim-donkey", "pi5-donkey"):
        layout = init_brain_root(tmp_path / preset, preset)
        assert not open_brain(layout.root).config.heads.world.enabled
        assert not layout.world_dir.exists()
        assert "world_head" not in json.loads(layout.manifest_path.read_bytes())["paths"]
        assert check_world_head(layout.root) == []


def test_enabled_without_an_edge_build_says_how_to_make_it(layout: BrainLayout) -> None:
    with pytest.raises(BrainError, match=r"heads\.world\.enabled") as refused:
        ControlProcess(open_brain(layout.root), ControlOptions(seconds=0.0, record=False))
    assert str(layout.world_dir / WORLD_HEAD_FILE) in refused.value.message
    assert f"continuonbrain model build-world {layout.world_dir}" in refused.value.remedy
    (found,) = check_world_head(layout.root)
    assert not found.ok
    assert found.needed
    assert "build-world" in found.remedy


def test_an_edge_build_is_opened_told_of_and_checked(layout: BrainLayout) -> None:
    head = build(layout)
    manifest = json.loads(layout.manifest_path.read_bytes())
    manifest["safety"]["block_threshold"] = 0.7
    layout.manifest_path.write_text(json.dumps(manifest))
    veto = opened(layout)
    assert veto.head.sha256 == head.sha256
    assert veto.block == 0.7
    (found,) = check_world_head(layout.root)
    assert found.ok
    config = open_brain(layout.root).config.model_dump()
    assert manifest_from_settings(layout, config)["paths"]["world_head"] == str(layout.world_dir)
    process = ControlProcess(open_brain(layout.root), ControlOptions(seconds=0.0, record=False))
    try:
        assert process._loop.pilot.veto is not None
    finally:
        process._client.close()
        process._reflexes.close()


@pytest.mark.parametrize("broken", ["card", "text", "list", "other file", "other safety head", "damaged"])
def test_an_edge_build_that_does_not_belong_together_is_refused(layout: BrainLayout, broken: str) -> None:
    build(layout)
    card = layout.world_dir / "card.json"
    if broken == "card":
        card.unlink()
    elif broken in ("text", "list"):
        card.write_text("no card" if broken == "text" else "[]")
    elif broken == "other file":
        (layout.world_dir / WORLD_HEAD_FILE).write_bytes(answering(1.0).data)
    elif broken == "damaged":
        (layout.world_dir / WORLD_HEAD_FILE).write_bytes(b"")
    else:
        (layout.safety_dir / SAFETY_HEAD_FILE).write_bytes(b"another")
    with pytest.raises(BrainError, match=r"heads\.world\.enabled") as refused:
        opened(layout)
    assert "build-world" in refused.value.remedy


def test_the_world_head_needs_the_safety_head(layout: BrainLayout) -> None:
    set_heads(layout, safety={"enabled": False})
    with pytest.raises(ConfigError, match=r"heads\.safety\.enabled"):
        open_brain(layout.root)
