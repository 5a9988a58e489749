"""Claims about the servo's calibration: found from an ordinary drive, refused when not plausible."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.policy.calibration import Calibration, CalibrationError, MotionLog, fit_calibration
from continuonbrain.robot.sim.fleet import Fleet
from continuonbrain.robot.sim.shifts import BASE, SHIFTS, World
from continuonbrain.robot.sim.track import TrackSet

TRACKS = TrackSet(range(70_000, 70_008), BASE)


def teleoperated(
    world: World, *, steps: int = 300, seed: int = 0, disturbance: float = 0.25
) -> list[MotionLog]:
    """What eight teleoperated episodes recorded: commands sent, speed and yaw rate measured."""
    fleet = Fleet(TRACKS, np.arange(8), seed=seed)
    fleet.world = replace(world, disturbance=disturbance)
    # A constant error of gyro or wheel sensor cannot be told from a gain: the truth here has none.
    fleet.speed_error[:] = fleet.yaw_error[:] = 1.0
    names = ["drive", "keep left", "drive slowly", "drive fast"] * 2
    fleet.place(instruction=names, speed_mps=0.5)
    rows = []
    for _ in range(steps):
        steering, throttle = fleet.expert()
        speed, yaw_rate = fleet.measured()
        rows.append((steering.copy(), throttle.copy(), speed, yaw_rate))
        fleet.step(steering, throttle)
    return [MotionLog(*(np.array([row[k][car] for row in rows]) for k in range(4))) for car in range(8)]


TRUTH = {
    "none": Calibration(),
    "trim": Calibration(steering_trim_rad=0.2),
    "reverse": Calibration(steering_gain=-1.0),
    "gain": Calibration(steering_gain=0.5),
    "throttle": Calibration(throttle_gain=0.6),
}


@pytest.mark.parametrize("shift", TRUTH)
@pytest.mark.parametrize("seed", [0, 1])
def test_teleoperation_tells_trim_gain_sign_and_throttle_within_three_percent(shift: str, seed: int) -> None:
    truth, found = TRUTH[shift], fit_calibration(teleoperated(SHIFTS[shift], seed=seed))
    assert found.steering_gain == pytest.approx(truth.steering_gain, rel=0.03)
    assert found.steering_trim_rad == pytest.approx(truth.steering_trim_rad, abs=0.03 * 0.4)
    assert found.throttle_gain == pytest.approx(truth.throttle_gain, rel=0.03)
    assert 0.05 <= found.delay_s <= 0.151


def test_a_longer_delay_is_found() -> None:
    short = fit_calibration(teleoperated(BASE)).delay_s
    assert fit_calibration(teleoperated(replace(BASE, delay_ticks=3))).delay_s == pytest.approx(short + 0.1)


def test_control_a_plain_line_through_a_disturbed_drive_underestimates_the_gain() -> None:
    """Why calm blocks are kept: the driver corrects what pushes the car."""
    logs = teleoperated(BASE, disturbance=0.5)
    x = np.concatenate([log.steering[:-2] * 0.4 for log in logs])
    y = np.concatenate(
        [np.arctan(log.yaw_rate_rps[2:] * 0.26 / np.maximum(log.speed_mps[2:], 0.2)) for log in logs]
    )
    plain = float(np.polyfit(x, y, 1)[0])
    assert plain < 0.93
    assert abs(fit_calibration(logs).steering_gain - 1) < abs(plain - 1) / 2


@pytest.mark.parametrize(
    ("shift", "named"),
    [
        (replace(BASE, steering_gain=0.15), "steering_gain"),
        (replace(BASE, steering_trim_rad=0.37), "steering_trim_rad"),
    ],
)
def test_a_fit_that_no_servo_has_is_refused(shift: World, named: str) -> None:
    with pytest.raises(CalibrationError, match=rf"{named} = .* is outside") as caught:
        fit_calibration(teleoperated(shift))
    assert "gyro" in caught.value.remedy


def test_a_dead_gyro_cannot_turn_the_servo_around() -> None:
    dead = [replace(log, yaw_rate_rps=np.zeros(300)) for log in teleoperated(BASE)]
    with pytest.raises(CalibrationError, match="steering_gain"):
        fit_calibration(dead)


def test_a_driver_who_never_turns_or_hardly_drives_tells_nothing() -> None:
    log = teleoperated(BASE)[0]
    assert fit_calibration([]) == Calibration()
    assert fit_calibration([replace(log, steering=np.zeros(300))]) == Calibration()
    assert fit_calibration([replace(log, speed_mps=np.zeros(300))]) == Calibration()
    short = MotionLog(*(getattr(log, f)[:100] for f in ("steering", "throttle", "speed_mps", "yaw_rate_rps")))
    assert fit_calibration([short]) == Calibration()


@given(st.floats(0.35, 1.7), st.floats(-0.3, 0.3), st.booleans(), st.floats(-0.9, 0.9))
def test_steering_and_curvature_are_inverse(gain: float, trim: float, reverse: bool, steering: float) -> None:
    calibration = Calibration(-gain if reverse else gain, trim)
    assert calibration.steering(calibration.curvature(steering)) == pytest.approx(steering, abs=1e-6)


@given(st.floats(-5, 5))
def test_steering_never_leaves_the_servos_range(curvature: float) -> None:
    assert -1 <= Calibration(steering_gain=0.4, steering_trim_rad=0.25).steering(curvature) <= 1


def test_it_survives_the_file(tmp_path: Path) -> None:
    calibration = Calibration(-0.9, 0.1, 1.2, 0.15)
    (tmp_path / "calibration.json").write_bytes(calibration.to_json())
    assert Calibration.from_file(tmp_path / "calibration.json") == calibration
    assert Calibration.from_file(tmp_path / "absent.json") == Calibration()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "3",
        '{"steering_gain": "left"}',
        '{"steering_gain": null}',
        '{"gain": 1.0}',
        '{"steering_gain": 5.0}',
        '{"steering_gain": NaN}',
        '{"steering_trim_rad": Infinity}',
        '{"delay_s": -0.1}',
        '{"throttle_gain": 0.0}',
    ],
)
def test_a_broken_or_implausible_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(CalibrationError):
        Calibration.from_file(tmp_path / "calibration.json")


@pytest.mark.parametrize("field", list(asdict(Calibration())))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 100.0])
def test_no_calibration_holds_a_number_out_of_range(field: str, bad: float) -> None:
    with pytest.raises(CalibrationError, match=field):
        replace(Calibration(), **{field: bad})


def test_the_file_is_plain_json() -> None:
    assert json.loads(Calibration().to_json()) == asdict(Calibration())
