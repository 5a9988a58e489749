"""Claims about the cars: a fleet is as many single cars, the equations are the bicycle's, labels are the expert's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.ideal import ideal_curvature, ideal_speed
from continuonbrain.robot.sim.robot import SimRobot
from continuonbrain.robot.sim.shifts import BASE, World
from continuonbrain.robot.sim.track import POINTS, TrackSet, bake


def commands(tick: int, car: int) -> tuple[float, float]:
    return 0.5 * np.sin(0.1 * tick + car), 0.3 + 0.05 * car


def test_a_fleet_of_n_is_n_fleets_of_one(noiseless: World) -> None:
    seeds, starts = (11, 12, 13), (0, 100, 200)
    together = Fleet(TrackSet(seeds, noiseless), [0, 1, 2], seed=0)
    together.place(index=starts, lateral_m=(0.0, 0.1, -0.1), speed_mps=0.4)
    alone = []
    for seed, start, lateral in zip(seeds, starts, (0.0, 0.1, -0.1), strict=True):
        one = Fleet(TrackSet([seed], noiseless), [0], seed=0)
        one.place(index=start, lateral_m=lateral, speed_mps=0.4)
        alone.append(one)
    for tick in range(60):
        pairs = [commands(tick, car) for car in range(3)]
        together.step([s for s, _ in pairs], [t for _, t in pairs])
        for one, (steering, throttle) in zip(alone, pairs, strict=True):
            one.step([steering], [throttle])
    for name in ("x", "y", "heading", "speed", "yaw_rate", "lateral_m", "index", "off_road"):
        np.testing.assert_array_equal(
            getattr(together, name), np.concatenate([getattr(one, name) for one in alone]), err_msg=name
        )


def test_same_seed_same_noise_and_another_seed_another(noiseless: World) -> None:
    def poses(seed: int) -> np.ndarray:
        fleet = Fleet(TrackSet([1], replace(BASE, disturbance=0.3)), [0, 0], seed=seed)
        for _tick in range(30):
            fleet.step([0.1, 0.1], [0.4, 0.4])
        return np.stack([fleet.x, fleet.y, *fleet.measured()])

    np.testing.assert_array_equal(poses(1), poses(1))
    assert not np.array_equal(poses(1), poses(2))


def test_full_lock_bends_the_path_to_the_bicycles_radius(noiseless: World) -> None:
    fleet = Fleet(TrackSet([1], noiseless), [0], seed=0)
    fleet.place(index=0)
    for _ in range(60):
        fleet.step([1.0], [0.3])
    assert fleet.yaw_rate[0] / fleet.speed[0] == pytest.approx(np.tan(0.4) / 0.26, rel=1e-3)


def test_a_command_acts_one_delay_later(noiseless: World) -> None:
    late = Fleet(TrackSet([1], replace(noiseless, delay_ticks=3)), [0], seed=0)
    late.place(speed_mps=1.0)
    rates = []
    for _ in range(5):
        late.step([1.0], [0.4])
        rates.append(float(late.yaw_rate[0]))
    assert rates[:3] == [0.0, 0.0, 0.0]
    assert rates[3] > 0


def test_commands_beyond_the_servo_are_clipped(noiseless: World) -> None:
    a, b = (Fleet(TrackSet([1], noiseless), [0], seed=0) for _ in range(2))
    for fleet in (a, b):
        fleet.place(index=0)
    for _ in range(20):
        a.step([7.0], [5.0])
        b.step([1.0], [1.0])
    assert (a.x[0], a.y[0], a.heading[0]) == (b.x[0], b.y[0], b.heading[0])


def test_lateral_is_positive_to_the_left_and_off_road_begins_at_the_edge(noiseless: World) -> None:
    tracks = TrackSet([1], noiseless)
    half = float(tracks.half_m[0])
    fleet = Fleet(tracks, [0] * 5, seed=0)
    offsets = np.array([0.1, -0.1, 0.97 * half, 1.03 * half, -1.03 * half])
    fleet.place(lateral_m=offsets, index=50)
    np.testing.assert_allclose(fleet.lateral_m, offsets, atol=5e-3)
    assert fleet.off_road.tolist() == [False, False, False, True, True]


def test_a_lap_is_as_many_points_as_the_centreline_has(noiseless: World) -> None:
    fleet = Fleet(TrackSet([1], noiseless), [0], seed=0)
    fleet.place(index=0, speed_mps=1.0)
    passed, metres = 0, 0.0
    while passed < POINTS:
        fleet.step(*fleet.expert())
        passed += int(fleet.advanced[0])
        metres += float(fleet.speed[0]) * 0.05
    assert metres == pytest.approx(float(fleet.tracks.length_m[0]), rel=0.02)


def test_a_standing_car_measures_no_speed() -> None:
    fleet = Fleet(TrackSet([1], BASE), [0] * 50, seed=0)
    assert not fleet.measured()[0].any()
    fleet.place(speed_mps=1.0)
    measured = fleet.measured()[0]
    assert abs(measured.mean() - 1.0) < 0.03
    assert measured.std() > 0.005


def test_the_ideal_path_is_the_one_that_the_expert_then_drives(noiseless: World) -> None:
    """Labels for the base come from paper; they must be what an expert without delay really does."""
    exact = replace(noiseless, delay_ticks=0)
    fleet = Fleet(TrackSet([3], exact), [0, 0, 0], seed=0)
    fleet.place(
        index=(0, 150, 300),
        lateral_m=(0.0, 0.15, -0.15),
        speed_mps=0.5,
        instruction=["drive slowly", "drive slowly keep left", "drive slowly keep right"],
    )
    knots = (0.4, 0.8, 1.2, 1.6)
    wanted = ideal_curvature(fleet, knots)
    driven, bends = [], []
    for _ in range(100):
        fleet.step(*fleet.expert())
        driven.append(fleet.speed * 0.05)
        bends.append(fleet.yaw_rate / fleet.speed)
    along, bend = np.cumsum(driven, 0), np.array(bends)
    for car in range(3):
        got = np.interp(knots, along[:, car], bend[:, car])
        np.testing.assert_allclose(got, wanted[car], atol=0.12)


def test_the_ideal_speed_closes_on_the_cruise_speed() -> None:
    speeds = ideal_speed(np.array([1.0, 0.0, 1.5]), np.array([0.0, 1.0, 1.5]), (0.0, 0.5, 3.0))
    np.testing.assert_allclose(speeds[:, 0], [0.0, 1.0, 1.5])
    np.testing.assert_allclose(speeds[:, 2], [1.0, 0.0, 1.5], atol=0.02)
    assert 0.5 < speeds[0, 1] < 1.0
    assert 0.0 <= speeds[1, 1] < 0.5


def test_an_unknown_look_and_an_empty_track_set_are_refused() -> None:
    tracks = TrackSet([1], BASE)
    with pytest.raises(ValueError, match="unknown look 'moss'; known: asphalt, tape"):
        bake(np.random.default_rng(0), tracks.points[0], tracks.tangent[0], 0.4, "moss")
    with pytest.raises(ValueError, match="at least one seed"):
        TrackSet([], BASE)


def test_the_simulated_robot_counts_leaving_the_road_and_is_put_back() -> None:
    robot = SimRobot(BASE, track_seed=1, seed=0)
    for _ in range(200):
        robot.act(1.0, 0.6)
        if robot.off_road:
            break
    assert robot.off_road == 1
    for _ in range(20):
        robot.act(1.0, 0.6)
    assert not robot.fleet.off_road[0]
    assert robot.lane_error_m < 0.01


def test_the_simulated_robot_drives_laps_under_its_expert_and_stops_when_told() -> None:
    robot = SimRobot(BASE, track_seed=1, seed=0, instruction="faster please")
    for _ in range(200):
        robot.act(*robot.expert())
    assert 0.3 < robot.laps < 1.0
    assert robot.off_road == 0
    robot.instruct("halt")
    for _ in range(60):
        robot.act(*robot.expert())
    look = robot.observe()
    assert look.speed_mps == pytest.approx(0.0, abs=0.08)
    assert look.frame.shape == (120, 160, 3)
    robot.close()
    assert robot.fleet.speed[0] == 0.0


@pytest.mark.parametrize("hz", [20, 33, 50])
def test_a_car_is_the_same_car_however_often_it_is_told(hz: int) -> None:
    world = replace(BASE, delay_ticks=4, disturbance=0.0, wheel_noise_rad=0.0)
    tracks = TrackSet([5], world)
    often = Fleet(tracks, [0], seed=1, period_s=1 / hz)
    usual = Fleet(tracks, [0], seed=1)
    for fleet in (often, usual):
        fleet.place(index=0, speed_mps=0.8)
        for tick in range(round(1.5 / fleet.period_s)):
            steering = 0.4 if tick * fleet.period_s < 0.7 else -0.2
            fleet.step([steering], [0.4])
    assert often.x == pytest.approx(usual.x, abs=0.04)
    assert often.y == pytest.approx(usual.y, abs=0.04)
    assert often.heading == pytest.approx(usual.heading, abs=0.05)
    assert often.speed == pytest.approx(usual.speed, abs=0.03)


def test_pushes_are_as_strong_and_last_as_long_at_any_rate() -> None:
    pushes = []
    for hz in (20, 50):
        fleet = Fleet(TrackSet([5], replace(BASE, disturbance=1.0)), [0] * 50, seed=1, period_s=1 / hz)
        seen = []
        for _ in range(20 * hz):
            fleet.step(0.0, 0.0)
            seen.append(fleet._push.copy())
        series = np.array(seen[2 * hz :])
        half_second = hz // 2
        together = float((series[:-half_second] * series[half_second:]).mean() / series.var())
        pushes.append((float(series.std()), together))
    assert pushes[1] == pytest.approx(pushes[0], rel=0.1)
