"""The whole car on models: any part's fault stops it, whoever goes silent stops it, and closing always ends at rest."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from bus_models import ModelBus, Pca9685Model
from drive_rig import Rig as TrainRig

from continuonbrain.config import BrainConfig, DonkeyConfig
from continuonbrain.errors import BrainError
from continuonbrain.robot.donkey.camera import Camera
from continuonbrain.robot.donkey.car import SILENCES, DonkeyCar, need_calibration
from continuonbrain.robot.donkey.drive_train import DriveTrain
from continuonbrain.robot.donkey.emergency_stop import EmergencyStop
from continuonbrain.robot.donkey.i2c import RetryingBus
from continuonbrain.robot.donkey.throttle_watchdog import Throttle
from continuonbrain.robot.protocol import RobotFault

CONFIG = (
    BrainConfig()
    .with_overrides({"donkey.throttle.arming_s": 0.1, "donkey.watchdog_s": 0.2, "donkey.calibrated": True})
    .donkey
)


class Rig:
    def __init__(self) -> None:
        self.chip = Pca9685Model()
        self.raw = ModelBus(at_40=self.chip)
        self.plugged = threading.Event()
        self.plugged.set()
        self.covered = False
        self.read_frames = 0
        self.train = DriveTrain(RetryingBus(self.raw, "model"), CONFIG)
        self.stop = EmergencyStop()
        self.camera = Camera(lambda: self, timeout_s=0.15, frozen_s=0.3, backoff_s=(0.02, 0.1))
        self.car = DonkeyCar(self.train, self.camera, self.stop, watchdog_s=CONFIG.watchdog_s)

    # The camera's back end.

    def open(self) -> None:
        pass

    def read(self) -> tuple[np.ndarray, float]:
        if not self.plugged.is_set():
            raise OSError(19, "No such device")
        time.sleep(0.01)
        self.read_frames += not self.covered
        return np.full((120, 160, 3), self.read_frames % 256, np.uint8), time.monotonic()

    def close(self) -> None:
        pass

    def drive(self, seconds: float = 0.0) -> None:
        until = time.monotonic() + seconds
        while True:
            self.car.act(0.2, 0.5)
            if time.monotonic() >= until:
                return
            time.sleep(0.02)

    @property
    def at_rest(self) -> bool:
        pulse = self.chip.pulse_us(0)
        return pulse is None or abs(pulse - 1500) < 5


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    rig.car.open()
    yield rig
    rig.car.close()
    assert rig.chip.pulse_us(0) is None


def test_it_sees_and_drives(rig: Rig) -> None:
    seen = rig.car.observe()
    assert seen.frame.shape == (120, 160, 3)
    assert seen.speed_mps is None
    assert seen.yaw_rate_rps is None
    rig.drive()
    assert not rig.at_rest
    rig.car.stop()
    assert rig.at_rest


def test_a_loop_that_hangs_is_stopped_by_the_watchdog(rig: Rig) -> None:
    rig.drive(0.4)
    assert not rig.at_rest
    time.sleep(0.3)
    assert rig.at_rest
    time.sleep(0.2)
    # Whoever drives believes that it goes on as it was sent: told once, it slews up from rest.
    with pytest.raises(RobotFault, match="no command for"):
        rig.drive()
    assert rig.at_rest
    rig.drive()
    assert not rig.at_rest


def test_a_blind_car_stops(rig: Rig) -> None:
    rig.drive()
    rig.plugged.clear()
    time.sleep(0.2)
    with pytest.raises(RobotFault, match="camera"):
        rig.car.observe()
    assert rig.at_rest
    with pytest.raises(RobotFault, match="camera"):
        rig.drive()
    assert rig.at_rest


def test_a_camera_that_repeats_itself_with_fresh_times_stops_the_car(rig: Rig) -> None:
    rig.drive()
    assert not rig.at_rest
    rig.covered = True
    with pytest.raises(RobotFault, match="camera"):
        rig.drive(1.5)
    assert rig.at_rest
    rig.covered = False
    end = time.monotonic() + 5
    while rig.at_rest:
        assert time.monotonic() < end
        with contextlib.suppress(RobotFault):
            rig.drive()
        time.sleep(0.02)


def test_the_emergency_stop_stops_without_a_tick_and_holds(rig: Rig) -> None:
    rig.drive()
    rig.stop.press("a person")
    time.sleep(0.12)
    assert rig.at_rest
    with pytest.raises(RobotFault, match="emergency stop: a person"):
        rig.drive()
    assert rig.at_rest
    assert rig.stop.release()
    rig.drive()
    assert not rig.at_rest


def test_it_does_not_open_without_a_camera_and_leaves_the_chip_off() -> None:
    rig = Rig()
    rig.plugged.clear()
    rig.camera.wait = lambda patience_s: Camera.wait(rig.camera, 0.1)  # type: ignore[method-assign]
    with pytest.raises(RobotFault, match="no frame yet"):
        rig.car.open()
    assert rig.chip.pulse_us(0) is None


def test_closing_works_in_any_state() -> None:
    rig = Rig()
    rig.car.close()
    assert rig.chip.pulse_us(0) is None
    rig.car.close()
    rig.car.stop()


def test_an_uncalibrated_car_does_not_drive() -> None:
    with pytest.raises(BrainError, match=r"c\.json: donkey\.calibrated = false.*continuonbrain calibrate"):
        need_calibration(DonkeyConfig(), "c.json")
    need_calibration(CONFIG, "c.json")


class Sees:
    """A camera that always sees something new."""

    def start(self) -> None: ...

    def wait(self, patience_s: float) -> None: ...

    def newest(self) -> tuple[np.ndarray, float]:
        return np.zeros((120, 160, 3), np.uint8), 0.0

    def close(self) -> None: ...


class Outside:
    """A process outside that only says how it was ended."""

    def __init__(self) -> None:
        self.ended: list[bool] = []

    def start(self) -> None: ...

    def wait(self) -> None: ...

    def beat(self) -> None: ...

    def look(self) -> None: ...

    def end(self, *, orderly: bool) -> None:
        self.ended.append(orderly)


def test_the_first_stop_after_a_silence_finds_what_was_switched_off_meanwhile() -> None:
    """As when all of the process stood, its thread too, and the one outside had to switch off."""
    model = TrainRig()
    model.arm()
    limit_s = 60.0  # the thread inside does not come in this test's time
    car = DonkeyCar(model.train, Sees(), EmergencyStop(), watchdog_s=limit_s, clock=lambda: model.now)  # type: ignore[arg-type]
    car.open()
    try:
        car.act(0.2, 0.5)
        assert not model.at_rest()
        Throttle(model.raw, 0x40, *model.train.rest_registers).off()
        model.wait(SILENCES * limit_s + 1.0)
        car.stop()
        assert model.throttle_us == pytest.approx(1500, abs=5)
        with pytest.raises(RobotFault, match="arming"):  # it had no pulses, and does not know them yet
            car.act(0.2, 0.5)
        assert model.at_rest()
    finally:
        car.close()


@pytest.mark.parametrize("works", [True, False])
def test_who_could_not_switch_off_leaves_it_to_the_process_outside(works: bool) -> None:
    model, outside = TrainRig(), Outside()
    model.arm()
    car = DonkeyCar(
        model.train,
        Sees(),  # type: ignore[arg-type]
        EmergencyStop(),
        watchdog_s=60.0,
        outside=outside,  # type: ignore[arg-type]
        clock=lambda: model.now,
    )
    car.open()
    car.act(0.2, 0.5)

    def fail(_number: int) -> None:
        raise OSError(121, "Remote I/O error")

    if not works:
        model.raw.trouble = fail
    car.close()
    assert outside.ended == [works]
    assert model.at_rest() == works
