"""A simulated car that stands anywhere is put back onto its lane."""

from __future__ import annotations

import pytest

from continuonbrain.robot.sim.robot import SimRobot
from continuonbrain.robot.sim.shifts import BASE


@pytest.mark.parametrize("instruction", ["drive", "keep left", "slowly keep right"])
def test_it_stands_on_the_lane_that_is_asked_for_and_drives_from_there(instruction: str) -> None:
    car = SimRobot(BASE, track_seed=9001, seed=0)
    car.instruct(instruction)
    for _ in range(200):
        car.act(0.3, 0.3)
        if car.lane_error_m > 0.1:
            break
    assert car.lane_error_m > 0.1
    laps, off_road = car.laps, car.off_road
    car.put_back()
    assert car.lane_error_m < 0.02
    assert car.fleet.speed[0] == 0.0
    assert (car.laps, car.off_road) == (laps, off_road)
    for _ in range(5):  # the delay of its drive, and no more
        car.act(0.0, 0.3)
    assert car.fleet.speed[0] > 0.0  # also when it had just left the road
    for _ in range(200):
        car.act(*car.expert())
    assert car.off_road == off_road
    assert car.lane_error_m < 0.15
