"""The safety head: its file, its twin in torch, and that it can slow and stop the car and do nothing else."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from continuonbrain.errors import BrainError
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.chunk import ActionChunk
from continuonbrain.policy.open_watch import open_watches, read_thresholds
from continuonbrain.policy.pilot import Pilot
from continuonbrain.policy.response import Response
from continuonbrain.policy.safety_head import (
    GRID_AHEAD_M,
    GRID_LEFT_M,
    POINTS,
    SAFETY_HEAD_FILE,
    SHAPES,
    SafetyHead,
    SafetyHeadError,
    along_ways,
    scaled,
    turned_ways,
)
from continuonbrain.policy.watch import HeadCalibration, Watch
from continuonbrain.safety.guards import Limits
from continuonbrain.safety.reasons import Reason
from continuonbrain.storage.layout import init_brain_root, shipped_safety_head
from continuonbrain.trainer.build_safety import along_ways as torch_along_ways
from continuonbrain.trainer.build_safety import new_net

LIMITS = Limits(throttle_min=-0.5, steering_rate_per_s=10.0, throttle_rate_per_s=5.0)
SHAPE = (len(GRID_AHEAD_M), len(GRID_LEFT_M))


@pytest.fixture(scope="module")
def head() -> SafetyHead:
    return SafetyHead.from_file(shipped_safety_head() / SAFETY_HEAD_FILE)


def test_numpy_and_torch_agree(head: SafetyHead) -> None:
    net = new_net()
    net.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in load(head.data).items()})
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 120, 160, 3), np.uint8)
    ways = rng.normal(0, 1, (5, POINTS, 2)).astype(np.float32)
    speeds = rng.uniform(0, 2, 5).astype(np.float32)
    with torch.no_grad():
        grids = net(torch.from_numpy(scaled(frames)).permute(0, 3, 1, 2))
        logits = net.risk(torch_along_ways(grids, torch.from_numpy(ways)), torch.from_numpy(speeds))
    found = head.grids(frames)
    assert np.abs(found - grids.numpy()).max() < 2e-3
    assert np.abs(head.logits(found, ways, speeds) - logits.numpy()).max() < 2e-3


def test_the_grid_is_read_at_its_points() -> None:
    grid = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(1, *SHAPE)
    way = np.array([[(GRID_AHEAD_M[3], GRID_LEFT_M[5])] * POINTS], np.float32)
    assert along_ways(grid, way) == pytest.approx(grid[0, 3, 5], abs=1e-3)
    between = way + np.float32(0.1)
    assert along_ways(grid, between)[0, 0] == pytest.approx(grid[0, 3:5, 5:7].mean(), abs=1e-3)
    beyond = np.full((1, POINTS, 2), 99, np.float32)
    assert along_ways(grid, beyond)[0, 0] == pytest.approx(grid[0, -1, -1], abs=0.1)


def test_a_camera_that_looks_aside_sees_ways_turned() -> None:
    way = np.array([[(1.0, 0.0)] * POINTS], np.float32)
    left = turned_ways(way, math.radians(90))
    assert left[0, 0] == pytest.approx((0.0, 1.0), abs=1e-6)


@pytest.mark.parametrize("spoilt", ["empty", "cut", "text", "missing", "other", "shape", "nan", "int"])
def test_a_damaged_head_is_refused(head: SafetyHead, spoilt: str) -> None:
    tensors = dict(load(head.data))
    name = "grid.weight"
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
    data = {"empty": b"", "cut": head.data[:-100], "text": b"not a head"}.get(spoilt) or (
        b"" if spoilt == "empty" else save(tensors)
    )
    with pytest.raises(SafetyHeadError):
        SafetyHead(data)


def test_a_root_has_the_shipped_head_and_the_thresholds_of_its_manifest(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    watch = open_watches(layout.safety_dir, layout.manifest_path)()
    assert watch.head.data == (shipped_safety_head() / SAFETY_HEAD_FILE).read_bytes()
    manifest = json.loads(layout.manifest_path.read_bytes())
    assert manifest["paths"]["safety_head"] == str(layout.safety_dir)
    manifest["safety"]["warn_threshold"] = 0.1
    layout.manifest_path.write_text(json.dumps(manifest))
    assert read_thresholds(layout.manifest_path).warn == 0.1
    for broken in ({}, {"safety": {}}, {"safety": {"warn_threshold": 0.7, "block_threshold": 0.6}}, []):
        layout.manifest_path.write_text(json.dumps(broken))
        with pytest.raises(BrainError, match=r"manifest\.json"):
            read_thresholds(layout.manifest_path)
    layout.manifest_path.unlink()
    with pytest.raises(BrainError, match="cannot be read"):
        open_watches(layout.safety_dir, layout.manifest_path)


def test_without_its_file_there_is_no_watch(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    (layout.safety_dir / SAFETY_HEAD_FILE).unlink()
    with pytest.raises(SafetyHeadError, match="continuonbrain init"):
        open_watches(layout.safety_dir, layout.manifest_path)
    for file in layout.safety_dir.iterdir():
        file.unlink()
    init_brain_root(tmp_path / "b", "sim-donkey")
    assert open_watches(layout.safety_dir, layout.manifest_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"mount_yaw_rad": 2, "slope": 1, "offset": 0, "head_sha256": "a"}',
        '{"mount_yaw_rad": 0, "slope": 0, "offset": 0, "head_sha256": "a"}',
        '{"mount_yaw_rad": 0, "slope": 1, "offset": -9, "head_sha256": "a"}',
        '{"mount_yaw_rad": NaN, "slope": 1, "offset": 0, "head_sha256": "a"}',
        '{"mount_yaw_rad": "0", "slope": 1, "offset": 0, "head_sha256": "a"}',
    ],
)
def test_a_head_is_not_talked_out_of_seeing(tmp_path: Path, text: str) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(BrainError):
        HeadCalibration.from_folder(tmp_path, "a")


def test_a_calibration_comes_back_for_the_head_that_it_was_fitted_for(tmp_path: Path) -> None:
    told = HeadCalibration(0.2, 1.5, -0.5, "a" * 64)
    assert HeadCalibration.from_folder(tmp_path, "a" * 64) == HeadCalibration(head_sha256="a" * 64)
    (tmp_path / "calibration.json").write_bytes(told.to_json())
    assert HeadCalibration.from_folder(tmp_path, "a" * 64) == told
    assert HeadCalibration.from_folder(tmp_path, "b" * 64) == HeadCalibration(head_sha256="b" * 64)


@pytest.mark.parametrize("kind", ["pipe", "large"])
def test_the_loop_does_not_wait_for_a_calibration(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "calibration.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 1 << 30)
    with pytest.raises(BrainError, match="cannot be read"):
        HeadCalibration.from_folder(tmp_path, "a")


def test_a_head_that_lost_its_bytes_is_refused_and_init_puts_it_back(tmp_path: Path) -> None:
    layout = init_brain_root(tmp_path / "b", "sim-donkey")
    file = layout.safety_dir / SAFETY_HEAD_FILE
    whole = file.read_bytes()
    for damaged in (whole[:4000] + bytes(len(whole) - 4000), whole[:-4096] + bytes(4096), whole[:-10], b""):
        file.write_bytes(damaged)
        with pytest.raises(BrainError, match="continuonbrain init"):
            open_watches(layout.safety_dir, layout.manifest_path)
        init_brain_root(tmp_path / "b", "sim-donkey")
        assert file.read_bytes() == whole
    (layout.safety_dir / "card.json").unlink()
    with pytest.raises(BrainError, match=r"card\.json cannot be read"):
        open_watches(layout.safety_dir, layout.manifest_path)
    own = HeadCalibration(0.1, 1.0, 0.0, "x")
    (layout.safety_dir / "calibration.json").write_bytes(own.to_json())
    init_brain_root(tmp_path / "b", "sim-donkey")
    assert (layout.safety_dir / "calibration.json").read_bytes() == own.to_json(), "what was learned stays"


def test_a_car_that_was_turned_by_hand_believes_its_servo_again(head: SafetyHead) -> None:
    pilot = _driven(Watch(head))
    assert pilot.watch is not None
    for tick in range(12):
        pilot.observe(now_s=0.3 + 0.05 * tick, speed_mps=0.4, yaw_rate_rps=4.0)
    assert abs(pilot.watch.response.gain - 1.0) < 0.3, "no servo turns wheels so far"
    pilot.watch.response.gain = -1.7
    pilot.forget()
    assert pilot.watch.response.gain == 1.0


def test_what_was_learned_of_a_servo_fades_while_the_car_stands(head: SafetyHead) -> None:
    response = Response()
    for tick in range(40):
        response.update(
            now_s=tick * 0.05,
            steering=0.5 * math.sin(tick * 0.5),
            speed_mps=1.0,
            yaw_rate_rps=-1.5 * math.sin((tick - 2) * 0.5),
            calibration=Calibration(),
        )
    assert response.gain < 0.0
    for tick in range(400):
        response.update(
            now_s=2.0 + tick * 0.05, steering=0.0, speed_mps=0.0, yaw_rate_rps=0.0, calibration=Calibration()
        )
    assert response.gain > 0.9


def test_a_speed_sensor_that_hangs_does_not_drive_the_car_backwards(head: SafetyHead) -> None:
    pilot = _driven(None)
    pilot.instruct("stop")
    thrown = []
    for tick in range(80):
        now = 0.3 + 0.05 * tick
        pilot.observe(now_s=now, speed_mps=1.0, yaw_rate_rps=0.0)
        pilot.accept(ActionChunk((0.0,) * 8, (1.0, 1.0), now))
        thrown.append(pilot.tick(now_s=now).guarded)
    assert thrown[10].throttle < 0, "it brakes"
    assert [g.throttle for g in thrown[45:]] == [0.0] * 35
    assert all(g.stopped for g in thrown[45:])


def test_a_car_that_the_head_holds_is_not_driven_backwards_by_a_speed_sensor_that_hangs(
    head: SafetyHead,
) -> None:
    pilot = _driven(Watch(head))
    thrown = []
    for tick in range(80):
        now = 0.3 + 0.05 * tick
        pilot.observe(now_s=now, speed_mps=1.0, yaw_rate_rps=0.0)
        pilot.accept(ActionChunk((0.0,) * 8, (1.0, 1.0), now))
        thrown.append(pilot.tick(now_s=now, grid=None).guarded)
    assert thrown[10].throttle < 0, "it brakes"
    assert [g.throttle for g in thrown[45:]] == [0.0] * 35
    assert all(g.stopped and Reason.SAFETY_HEAD_BLOCK in g.reasons for g in thrown[45:])


def test_a_head_that_only_watches_stops_no_car_that_stands(head: SafetyHead) -> None:
    acting, watching = (_driven(Watch(head, acts=acts), speed=0.0) for acts in (True, False))
    for pilot in (acting, watching):
        pilot.observe(now_s=0.25, speed_mps=0.0, yaw_rate_rps=0.0)
    grid = np.full(SHAPE, 20, np.float32)
    assert acting.tick(now_s=0.25, grid=grid).guarded.stopped
    told = watching.tick(now_s=0.25, grid=grid)
    assert Reason.SAFETY_HEAD_BLOCK in told.guarded.reasons
    assert not told.guarded.stopped
    assert told.guarded.throttle > 0.0


@pytest.mark.parametrize("far", [-1, 1])
def test_a_response_beyond_any_servo_is_bounded(far: int) -> None:
    response = Response()
    for tick in range(200):
        response.update(
            now_s=tick * 0.05,
            steering=0.1 * math.sin(tick * 0.5),
            speed_mps=1.0,
            yaw_rate_rps=far * 2.0 * math.sin((tick - 2) * 0.5),
            calibration=Calibration(),
        )
    assert response.gain == far * 1.7
    for tick in range(200):
        response.update(
            now_s=10 + tick * 0.05,
            steering=0.0,
            speed_mps=1.0,
            yaw_rate_rps=far * 3.0,
            calibration=Calibration(),
        )
    assert response.offset_rad == far * 0.35


def _driven(watch: Watch | None, speed: float = 1.0) -> Pilot:
    pilot = Pilot(calibration=Calibration(), limits=LIMITS, watch=watch)
    for tick in range(5):
        pilot.observe(now_s=tick * 0.05, speed_mps=speed, yaw_rate_rps=0.1)
        pilot.accept(ActionChunk((0.6,) * 8, (1.0, 1.0), tick * 0.05))
        pilot.guard.step((0.2, 0.3), now_s=tick * 0.05, chunk_age_s=0.0)
    return pilot


@given(st.floats(-20, 20), st.floats(0.0, 1.8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_it_slows_and_stops_and_never_steers(
    head: SafetyHead, level: float, speed: float, missing: bool
) -> None:
    grid = None if missing else np.full(SHAPE, level, np.float32)
    with_head, without = _driven(Watch(head), speed), _driven(None, speed)
    now = 0.25
    for pilot in (with_head, without):
        pilot.observe(now_s=now, speed_mps=speed, yaw_rate_rps=0.1)
    watched, free = with_head.tick(now_s=now, grid=grid), without.tick(now_s=now)
    assert watched.proposed == free.proposed, "what the policy asks for is recorded as it was"
    assert watched.guarded.throttle <= free.guarded.throttle + 1e-9
    held = watched.guarded.stopped and not free.guarded.stopped
    if held:
        assert speed < 0.05, "moving, it brakes along the path"
        assert watched.guarded.throttle == 0.0
        assert Reason.SAFETY_HEAD_BLOCK in watched.guarded.reasons
    else:
        assert watched.guarded.steering == free.guarded.steering
    if missing:
        assert watched.risk is not None
        assert watched.risk.probability == 1.0
        assert Reason.SAFETY_HEAD_BLOCK in watched.guarded.reasons


@pytest.mark.parametrize("grid", [np.full(SHAPE, np.nan, np.float32), np.full(SHAPE, np.inf, np.float32)])
def test_a_grid_that_is_no_number_stops(head: SafetyHead, grid: np.ndarray) -> None:
    pilot = _driven(Watch(head))
    pilot.observe(now_s=0.25, speed_mps=1.0, yaw_rate_rps=0.0)
    tick = pilot.tick(now_s=0.25, grid=grid)
    assert Reason.SAFETY_HEAD_BLOCK in tick.guarded.reasons
    assert tick.guarded.throttle < 0
    assert Reason.SENSOR_FAULT in tick.guarded.reasons, "the head's fault, and not the adapter's"


def test_a_person_drives_as_they_like(head: SafetyHead) -> None:
    pilot = _driven(Watch(head))
    pilot.observe(now_s=0.25, speed_mps=1.0, yaw_rate_rps=0.0)
    tick = pilot.teleoperate((0.2, 0.3), now_s=0.25, age_s=0.0, grid=np.full(SHAPE, 20, np.float32))
    assert tick.risk is not None
    assert tick.risk.probability > 0.9
    assert not tick.guarded.reasons
