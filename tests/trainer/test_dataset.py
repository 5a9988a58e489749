"""Claims about labels: what the driver did next, in the world's geometry, and nothing that nobody drove."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from continuonbrain.errors import BrainError
from continuonbrain.policy.calibration import Calibration, fit_calibration
from continuonbrain.policy.codec import CURVATURE_KNOTS_M, SPEED_KNOTS_S
from continuonbrain.rlds.examples import make_metadata_example
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.rlds.recorder import EpisodeRecorder
from continuonbrain.rlds.step import Step
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.ideal import ideal_curvature, ideal_speed
from continuonbrain.robot.sim.shifts import World
from continuonbrain.robot.sim.track import TrackSet
from continuonbrain.trainer.dataset import (
    Drive,
    NoLabelsError,
    Samples,
    build_samples,
    calibrate,
    frame_at,
    join,
    mirrored,
    read_drive,
    sampling_weights,
)

MakeDrive = Callable[..., Drive]
CURVATURES = len(CURVATURE_KNOTS_M)


def record(folder: Path, steps: list[Step]) -> Path:
    recorder = EpisodeRecorder(folder, metadata=make_metadata_example(), queue_size=len(steps) + 1)
    for step in steps:
        assert recorder.append(step)
    return recorder.close()


def step(tick: int, **changes: object) -> Step:
    values: dict[str, object] = {
        "command": (0.2, 0.4),
        "source": "human_teleop_xr",
        "instruction": "drive",
        "frame": np.full((24, 32, 3), tick % 200, np.uint8),
        "speed_mps": 1.0,
        "yaw_rate_rps": 0.1,
        "tick": tick,
    }
    return Step(**(values | changes))  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------- labels


def test_labels_of_a_noise_free_drive_are_the_ideal_geometry(noiseless: World, make_drive: MakeDrive) -> None:
    fleet = Fleet(TrackSet([80_000], noiseless), [0], seed=0)
    fleet.place(index=0, lateral_m=0.1, speed_mps=0.8, instruction="drive")
    rows, wanted, wanted_speed = [], [], []
    for _ in range(240):
        steering, throttle = fleet.expert()
        rows.append((steering[0], throttle[0], fleet.speed[0], fleet.yaw_rate[0]))
        wanted.append(ideal_curvature(fleet, CURVATURE_KNOTS_M)[0])
        wanted_speed.append(ideal_speed(fleet.target_speed, fleet.speed, SPEED_KNOTS_S)[0])
        fleet.step(steering, throttle)
    drive = make_drive(*np.array(rows).T)
    samples = build_samples([drive], fit_calibration([drive.motion]), stride=1)
    ahead = slice(1, CURVATURES)  # at distance 0 the ideal driver turns his wheels in no time
    gap = np.abs(samples.curvature - np.array(wanted))[:, ahead]
    known = samples.weights[:, ahead] > 0
    assert known.sum() > 1000
    assert gap[known].mean() < 0.03
    assert np.quantile(gap[known], 0.99) < 0.15
    speed_gap = np.abs(samples.speed_ahead - np.array(wanted_speed))[samples.weights[:, CURVATURES:] > 0]
    assert speed_gap.max() < 0.1


def test_a_constant_turn_is_one_curvature_at_every_distance(make_drive: MakeDrive) -> None:
    calibration = Calibration(steering_gain=-0.8, steering_trim_rad=0.1)
    yaw_rate = np.full(200, calibration.curvature(0.3))  # at 1 m/s
    drive = make_drive(np.full(200, 0.3), np.full(200, 0.4), np.ones(200), yaw_rate)
    samples = build_samples([drive], calibration, stride=1)
    np.testing.assert_allclose(samples.curvature, calibration.curvature(0.3), rtol=1e-4)
    np.testing.assert_allclose(samples.command, [[0.3, 0.4]] * 200, rtol=1e-6)


def test_a_bend_is_found_at_its_distance_after_the_delay(make_drive: MakeDrive) -> None:
    steering = np.zeros(200)
    steering[40:] = 0.5
    # Commanded at tick 40, in force at tick 42: 42 * 0.05 m ahead of the start.
    bend = Calibration().curvature(0.5)
    yaw_rate = np.where(np.arange(200) >= 42, bend, 0.0)
    drive = make_drive(steering, np.full(200, 0.4), np.ones(200), yaw_rate)
    samples = build_samples([drive], Calibration(delay_s=0.1), stride=1)
    for tick, distance, turned in ((8, 0.7, False), (0, 3.0, True), (35, 0.2, False), (38, 0.4, True)):
        found = samples.curvature[tick, CURVATURE_KNOTS_M.index(distance)]
        # Commands are exact; the path taken is smoothed over 0.4 m.
        slack = 1e-6 if distance < 0.7 else 0.02
        assert found == pytest.approx(bend if turned else 0.0, abs=slack), (tick, distance)


def test_near_the_car_the_driver_is_right_and_far_from_it_the_road_taken(make_drive: MakeDrive) -> None:
    """A push that the driver answers: what he commands is no road, where the car went is."""
    n = 200
    steering, yaw_rate = np.zeros(n), np.zeros(n)
    steering[100:104] = 0.5  # the answer to a push: the car goes straight on
    drive = make_drive(steering, np.full(n, 0.4), np.ones(n), yaw_rate)
    curvature = build_samples([drive], Calibration(delay_s=0.0), stride=1).curvature
    assert curvature[101, 0] == pytest.approx(Calibration().curvature(0.5), rel=1e-5)
    far = curvature[:, [CURVATURE_KNOTS_M.index(d) for d in CURVATURE_KNOTS_M if d >= 0.7]]
    assert np.abs(far).max() < 1e-6


def test_what_somebody_else_drove_afterwards_is_no_part_of_the_label(make_drive: MakeDrive) -> None:
    n, half = 200, np.where(np.arange(200) < 100, 99, 199)
    straight = np.zeros(n)
    turning = np.where(np.arange(n) >= 100, 2.0, 0.0)
    alone, followed = (
        build_samples(
            [make_drive(np.zeros(n), np.full(n, 0.4), np.ones(n), yaw, run_end=half)], Calibration(), stride=1
        )
        for yaw in (straight, turning)
    )
    known = alone.weights[:100, :CURVATURES] > 0
    assert known[:, -1].any()
    np.testing.assert_allclose(followed.curvature[:100][known], alone.curvature[:100][known], atol=1e-6)


def test_the_bias_of_a_gyro_while_standing_does_not_bend_the_road(make_drive: MakeDrive) -> None:
    speed = np.concatenate([np.ones(60), np.zeros(600)])
    drive = make_drive(np.zeros(660), np.zeros(660), speed, np.full(660, 0.02))
    samples = build_samples([drive], Calibration(), stride=1)
    known = samples.weights[:, :CURVATURES] > 0
    assert np.abs(samples.curvature[known]).max() < 0.03


def test_a_car_that_stands_and_one_that_spins_on_the_spot_have_finite_labels(make_drive: MakeDrive) -> None:
    for speed, yaw in ((0.0, 0.0), (0.0, 5.0), (0.01, 30.0)):
        drive = make_drive(np.zeros(80), np.zeros(80), np.full(80, speed), np.full(80, yaw))
        samples = build_samples([drive], Calibration(), stride=1)
        assert np.isfinite(samples.curvature).all()
        assert np.abs(samples.curvature).max() <= 1.8


def test_without_motion_sensors_every_knot_is_the_command(make_drive: MakeDrive) -> None:
    drive = make_drive(np.full(120, 0.2), np.full(120, 0.4), np.ones(120), np.zeros(120), measured=False)
    samples = build_samples([drive], Calibration(), stride=1)
    np.testing.assert_allclose(samples.curvature, Calibration().curvature(0.2), rtol=1e-5)


def test_knots_beyond_the_recording_have_no_weight(make_drive: MakeDrive) -> None:
    n = 100
    drive = make_drive(np.zeros(n), np.full(n, 0.4), np.ones(n), np.zeros(n))
    weights = build_samples([drive], Calibration(), stride=1).weights
    for tick in (0, 50, 90, 99):
        left_m, left_ticks = (n - 1 - tick) * 0.05, n - 1 - tick
        for column, distance in enumerate(CURVATURE_KNOTS_M):
            if abs(distance - left_m) > 1e-6:
                assert weights[tick, column] == (distance < left_m), (tick, distance)
        for column, time_s in enumerate(SPEED_KNOTS_S):
            assert weights[tick, CURVATURES + column] == (time_s / 0.05 <= left_ticks)


def test_labels_end_where_somebody_else_drives_or_another_instruction_is_given(tmp_path: Path) -> None:
    """A stop that the policy made, or that was asked for later, is no lesson about "drive"."""
    handed_over = [step(t) for t in range(60)] + [step(60 + t, source="autopilot") for t in range(60)]
    told_otherwise = [step(t) for t in range(60)] + [step(60 + t, instruction="stop") for t in range(60)]
    for steps in (handed_over, told_otherwise):
        drive = read_drive(record(tmp_path, steps))
        assert drive.run_end[:60].tolist() == [59] * 60
        samples = build_samples([drive], Calibration(), stride=1)
        assert samples.weights[50, CURVATURES] == 0  # 0.5 s later it is tick 60
        assert samples.weights[49, CURVATURES] == 1
        assert samples.weights[50, CURVATURE_KNOTS_M.index(0.7)] == 0
        assert samples.weights[50, CURVATURE_KNOTS_M.index(0.4)] == 1


def test_wheels_of_a_standing_car_say_nothing_about_the_road(make_drive: MakeDrive) -> None:
    speed = np.concatenate([np.zeros(50), np.ones(150)])
    drive = make_drive(np.full(200, 0.9), np.full(200, 0.4), speed, np.zeros(200))
    weights = build_samples([drive], Calibration(), stride=1).weights
    assert not weights[:50, 0].any()
    assert weights[50:150, 0].all()


# ------------------------------------------------------------------------------ which steps count


def test_episodes_without_human_steps_hold_nothing_to_learn_from(tmp_path: Path) -> None:
    drives = [
        read_drive(record(tmp_path, [step(t, source="autopilot") for t in range(30)])) for _ in range(2)
    ]
    with pytest.raises(
        NoLabelsError, match="none of the 2 episodes holds a step that a human drove"
    ) as caught:
        build_samples(drives, Calibration())
    assert "import-tub" in caught.value.remedy


def test_no_episodes_at_all_hold_nothing_either() -> None:
    with pytest.raises(NoLabelsError):
        build_samples([], Calibration())


def test_only_human_steps_with_a_frame_are_samples(tmp_path: Path) -> None:
    steps = [step(t, source="human_teleop" if t < 20 else "autopilot") for t in range(40)]
    steps[4] = step(4, frame=None)
    samples = build_samples([read_drive(record(tmp_path, steps))], Calibration(), stride=1)
    assert len(samples) == 19


@pytest.mark.parametrize("reason", ["emergency_stop", "deadman", "safety_head_block"])
def test_where_the_guard_stands_the_robot_still_nobody_teaches(tmp_path: Path, reason: str) -> None:
    steps = [step(i, reasons=(reason,) if i >= 10 else ()) for i in range(20)]
    drive = read_drive(record(tmp_path, steps))
    assert drive.labelled.tolist() == [True] * 10 + [False] * 10
    assert set(drive.run_end[:10].tolist()) == {9}  # nor is it what the driver did next


def test_a_lesson_in_stopping_is_one(tmp_path: Path) -> None:
    steps = [step(i, reasons=("instruction_stop",)) for i in range(4)]
    assert read_drive(record(tmp_path, steps)).labelled.all()


def test_a_drive_without_labels_among_others_is_passed_over(make_drive: MakeDrive) -> None:
    empty = make_drive([], [], [], [])
    silent = make_drive([0.1] * 50, [0.4] * 50, [1.0] * 50, [0.0] * 50, labelled=[False] * 50)
    good = make_drive([0.1] * 50, [0.4] * 50, [1.0] * 50, [0.0] * 50)
    samples = build_samples([empty, silent, good], Calibration())
    assert set(samples.episode.tolist()) == {2}


def test_the_stride_grows_until_the_samples_fit(make_drive: MakeDrive) -> None:
    drives = [make_drive([0.1] * 200, [0.4] * 200, [1.0] * 200, [0.0] * 200) for _ in range(3)]
    assert len(build_samples(drives, Calibration(), stride=2)) == 300
    assert len(build_samples(drives, Calibration(), stride=2, max_samples=70)) <= 70


def test_frames_are_those_of_their_own_step_and_previous_is_the_step_before(tmp_path: Path) -> None:
    steps = [step(t, command=(0.01 * t, 0.4)) for t in range(40)]
    drive = read_drive(record(tmp_path, steps))
    samples = build_samples([drive], Calibration(), stride=3)
    assert samples.frames.shape[1:] == (120, 160, 3)
    np.testing.assert_allclose(samples.frames.mean((1, 2, 3)), np.arange(0, 40, 3), atol=2)
    np.testing.assert_allclose(samples.command[1:, 0] - samples.previous[1:, 0], 0.01, atol=1e-6)
    assert samples.previous[0, 0] == samples.command[0, 0]
    assert frame_at(drive.episode, 5).dtype == np.uint8


# ------------------------------------------------------------------------------ robots without sensors


def test_a_robot_without_sensors_learns_from_its_commands(tmp_path: Path) -> None:
    steps = [step(t, speed_mps=None, yaw_rate_rps=None) for t in range(120)]
    drive = read_drive(record(tmp_path, steps))
    assert not drive.measured
    assert calibrate([drive]) == Calibration()
    samples = build_samples([drive], Calibration(), stride=1)
    assert samples.speeds == [None] * len(samples)
    np.testing.assert_allclose(samples.curvature, Calibration().curvature(0.2), rtol=1e-5)
    # Throttle 0.4 settles at 1 m/s with the nominal motor.
    np.testing.assert_allclose(samples.speed_ahead, 1.0, atol=0.01)


def test_one_step_without_a_reading_makes_the_episode_an_unmeasured_one(tmp_path: Path) -> None:
    steps = [step(t, yaw_rate_rps=None if t == 7 else 0.1) for t in range(60)]
    assert not read_drive(record(tmp_path, steps)).measured


# ------------------------------------------------------------------------------------------ damage


def test_a_damaged_frame_is_raised_or_told_and_never_learned_from(taught: Path, tmp_path: Path) -> None:
    shutil.copytree(taught, tmp_path / "e")
    paths = list_episodes(tmp_path / "e")
    blob = paths[1] / "blobs" / "000000.tfrecord"
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 0xFF
    blob.write_bytes(data)
    drives = [read_drive(p) for p in paths]
    with pytest.raises(BrainError, match=paths[1].name):
        build_samples(drives, Calibration(), stride=1)
    told: list[tuple[str, str]] = []
    samples = build_samples(
        drives, Calibration(), stride=1, on_damage=lambda d, e: told.append((d.episode.path.name, str(e)))
    )
    assert [name for name, _ in told] == [paths[1].name]
    assert paths[1].name in told[0][1]
    assert set(samples.episode.tolist()) == {0, 2, 3, 4, 5}


# ----------------------------------------------------------------------------------------- samples


def test_the_name_of_an_evaluation_set_changes_with_anything_asked_or_answered(recorded: Samples) -> None:
    speeds = list(recorded.speeds)
    speeds[3] = None
    changed = [
        replace(recorded, frames=recorded.frames ^ 1),
        replace(recorded, instructions=["stop", *recorded.instructions[1:]]),
        replace(recorded, speeds=speeds),
        replace(recorded, curvature=recorded.curvature + 1e-3),
        replace(recorded, speed_ahead=recorded.speed_ahead + 1e-3),
        replace(recorded, weights=1 - recorded.weights),
        replace(recorded, command=recorded.command + 1e-3),
    ]
    names = {s.sha256() for s in [recorded, *changed]}
    assert len(names) == 1 + len(changed)
    assert recorded.select(np.arange(len(recorded))).sha256() == recorded.sha256()


def test_selecting_and_joining_keep_rows_together(recorded: Samples) -> None:
    halves = [recorded.select(np.arange(0, 40)), recorded.select(np.arange(40, len(recorded)))]
    assert join(halves).sha256() == recorded.sha256()


def test_a_mirror_image_twice_is_the_same_drive(recorded: Samples) -> None:
    once = mirrored(recorded)
    np.testing.assert_array_equal(once.frames[0], recorded.frames[0][:, ::-1])
    np.testing.assert_array_equal(once.curvature, -recorded.curvature)
    np.testing.assert_array_equal(once.speed_ahead, recorded.speed_ahead)
    assert [
        i.replace("right", "LEFT").replace("left", "right") for i in recorded.instructions if "left" in i
    ] == [i for i, j in zip(once.instructions, recorded.instructions, strict=True) if "left" in j]
    assert mirrored(once).sha256() == recorded.sha256()


def test_rare_instructions_are_drawn_more_often_but_not_equally() -> None:
    chances = sampling_weights(["drive"] * 90 + ["keep left"] * 10)
    assert chances.sum() == pytest.approx(1.0)
    assert chances[-1] == pytest.approx(3 * chances[0])
    assert 10 / 100 < chances[-10:].sum() < 0.5
