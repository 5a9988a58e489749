"""Claims about the shifts: each changes what its name says and nothing else, and the expert masters each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.instructions import BY_NAME, NAMES
from continuonbrain.robot.sim.shifts import BASE, SHIFTS, UnknownShiftError, World, world
from continuonbrain.robot.sim.track import TrackSet

TRACK = 50_001
HELD_OUT_TRACKS = tuple(range(50_000, 50_003))


def still(changed: World) -> World:
    """Without noise and with one camera, so that two worlds can be compared number by number."""
    return replace(changed, wheel_noise_rad=0.0, odometry_error=0.0)


def pushed(changed: World, *, steering: float, ticks: int = 30, throttle: float = 0.4) -> Fleet:
    fleet = Fleet(TrackSet([TRACK], still(changed)), [0], seed=0)
    fleet.place(index=0)
    for _ in range(ticks):
        fleet.step([steering], [throttle])
    return fleet


def first_frame(changed: World) -> NDArray[np.float64]:
    fleet = Fleet(TrackSet([TRACK], changed), [0], seed=0)
    fleet.place(index=0)
    return fleet.render()[0].astype(float)


def test_every_shift_differs_from_the_base_in_what_it_says() -> None:
    said = {
        "tape": {"look"},
        "trim": {"steering_trim_rad"},
        "reverse": {"steering_gain"},
        "pitch": {"camera_pitch_deg"},
        "dark": {"light"},
        "gain": {"steering_gain"},
        "throttle": {"throttle_gain"},
        "wheelbase": {"wheelbase_m"},
        "height": {"camera_height_m"},
        "yaw": {"camera_yaw_deg"},
        "colour": {"look"},
        "invert": {"look"},
        "narrow": {"road_half_m"},
        "none": set(),
    }
    assert set(said) == set(SHIFTS)
    for name, changed in SHIFTS.items():
        differs = {f for f in World.__slots__ if getattr(changed, f) != getattr(BASE, f)}
        assert differs == said[name], name


def test_an_unknown_shift_is_an_error_that_a_person_can_act_on() -> None:
    with pytest.raises(UnknownShiftError, match="unknown shift 'snow'"):
        world("snow")
    with pytest.raises(ValueError, match="snow"):
        world("snow")


def test_trim_turns_a_car_whose_servo_is_told_to_go_straight() -> None:
    assert pushed(BASE, steering=0.0).yaw_rate[0] == pytest.approx(0.0, abs=1e-9)
    assert pushed(SHIFTS["trim"], steering=0.0).yaw_rate[0] > 0.3


def test_reverse_turns_the_other_way_by_the_same_amount() -> None:
    straight, reverse = pushed(BASE, steering=0.4), pushed(SHIFTS["reverse"], steering=0.4)
    assert straight.yaw_rate[0] > 0.3
    assert reverse.yaw_rate[0] == pytest.approx(-straight.yaw_rate[0])


def test_gain_halves_the_wheel_angle() -> None:
    angle = [
        np.arctan(f.yaw_rate[0] * 0.26 / f.speed[0])
        for f in (pushed(SHIFTS["gain"], steering=0.6), pushed(BASE, steering=0.6))
    ]
    assert angle[0] == pytest.approx(angle[1] / 2, rel=1e-3)


def test_a_longer_wheelbase_turns_wider() -> None:
    longer, base = pushed(SHIFTS["wheelbase"], steering=0.5), pushed(BASE, steering=0.5)
    assert longer.yaw_rate[0] == pytest.approx(base.yaw_rate[0] * 0.26 / 0.34)


def test_a_weaker_motor_settles_at_a_lower_speed() -> None:
    weak, base = (pushed(w, steering=0.0, ticks=120).speed[0] for w in (SHIFTS["throttle"], BASE))
    assert base == pytest.approx(0.4 * 3 / 1.2, rel=0.01)
    assert weak == pytest.approx(0.6 * base, rel=0.01)


def test_dark_is_a_tenth_of_the_light() -> None:
    dark, base = first_frame(SHIFTS["dark"]), first_frame(BASE)
    assert 0.05 < dark.mean() / base.mean() < 0.2


def test_a_camera_that_looks_down_sees_less_sky() -> None:
    def sky_rows(w: World) -> float:
        from continuonbrain.robot.sim.camera import Cameras

        return float((~Cameras(w, 1, np.random.default_rng(0)).ground).mean())

    assert sky_rows(SHIFTS["pitch"]) < 0.3 * sky_rows(BASE)


def test_a_turned_camera_sees_the_road_elsewhere_and_a_higher_one_sees_further() -> None:
    from continuonbrain.robot.sim.camera import HEIGHT, WIDTH, ground_rays

    middle = (HEIGHT - 1) * WIDTH + WIDTH // 2
    ahead, _ = ground_rays(20.0, 0.18, 0.0)
    turned, _ = ground_rays(20.0, 0.18, 18.0)
    higher, _ = ground_rays(20.0, 0.285, 0.0)
    assert abs(ahead[1, middle]) < 0.2
    assert np.degrees(np.arctan2(turned[1, middle], turned[0, middle])) == pytest.approx(18.0, abs=1.0)
    assert higher[0, middle] == pytest.approx(ahead[0, middle] * 0.285 / 0.18, rel=1e-4)


def test_narrow_is_a_narrower_road() -> None:
    narrow, base = (TrackSet(range(4), w).half_m for w in (SHIFTS["narrow"], BASE))
    assert narrow.max() <= 0.27 < 0.40 <= base.min()


@pytest.mark.parametrize("look", ["tape", "colour", "invert"])
def test_a_look_repaints_the_same_road(look: str) -> None:
    base, repainted = TrackSet([TRACK], BASE), TrackSet([TRACK], SHIFTS[look])
    np.testing.assert_array_equal(base.points, repainted.points)
    np.testing.assert_array_equal(base.half_m, repainted.half_m)
    assert (base.texture != repainted.texture).mean() > 0.9


def test_the_same_seed_is_the_same_centreline_under_every_shift() -> None:
    roads = {name: TrackSet([TRACK], w) for name, w in SHIFTS.items()}
    for name, road in roads.items():
        np.testing.assert_array_equal(road.points, roads["none"].points, err_msg=name)
        np.testing.assert_array_equal(road.tangent, roads["none"].tangent, err_msg=name)


def test_another_seed_is_another_road() -> None:
    a, b = TrackSet([1], BASE), TrackSet([2], BASE)
    assert np.abs(a.points - b.points).max() > 0.2


@pytest.mark.parametrize("shift", sorted(SHIFTS))
def test_the_expert_stays_on_the_road_and_obeys_every_instruction(shift: str) -> None:
    """A lesson from an expert who cannot drive the shifted robot would teach nothing."""
    tracks = TrackSet(HELD_OUT_TRACKS, SHIFTS[shift])
    names = list(NAMES) * len(HELD_OUT_TRACKS)
    fleet = Fleet(tracks, np.repeat(np.arange(len(HELD_OUT_TRACKS)), len(NAMES)), seed=1)
    fleet.place(instruction=names, speed_mps=0.5)
    left_road = np.zeros(fleet.cars, bool)
    speeds, errors = [], []
    for tick in range(340):
        fleet.step(*fleet.expert())
        left_road |= fleet.off_road
        if tick >= 100:
            speeds.append(fleet.speed.copy())
            errors.append(fleet.lane_error_m.copy())
    assert not left_road.any()
    goal = np.array([BY_NAME[n].speed_mps for n in names])
    assert np.abs(np.mean(speeds, 0) - goal).max() < 0.1
    moving = goal > 0
    assert np.mean(errors, 0)[moving].max() < 0.06
    assert np.max(speeds, 0)[~moving].max() < 0.02
