"""The camera's life with a back end that hangs, raises, vanishes, lies about time, and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from continuonbrain.robot.donkey.camera import Camera, fitted
from continuonbrain.robot.protocol import RobotFault


class World:
    """What is plugged in. Each back end asks it at every read."""

    def __init__(self) -> None:
        self.plugged, self.go_on = True, threading.Event()
        self.go_on.set()
        self.ahead_s = 0.0
        self.image = np.full((240, 320, 3), 7, np.uint8)
        self.noise = True
        self._count = 0
        self.opened = self.closed = 0

    def picture(self) -> np.ndarray:
        """The image; with noise, one pixel of it differs from one read to the next."""
        if not self.noise or self.image.ndim != 3 or not self.image.size:
            return self.image
        self._count += 1
        noisy = self.image.copy()
        noisy[-1, -2:] = self._count % 200
        return noisy

    def make(self) -> FakeBackend:
        return FakeBackend(self)


class FakeBackend:
    def __init__(self, world: World) -> None:
        self.world = world

    def open(self) -> None:
        if not self.world.plugged:
            raise OSError(19, "No such device")
        self.world.opened += 1

    def read(self) -> tuple[np.ndarray, float]:
        self.world.go_on.wait(20)
        if not self.world.plugged:
            raise OSError(19, "No such device")
        time.sleep(0.005)
        return self.world.picture(), time.monotonic() + self.world.ahead_s

    def close(self) -> None:
        self.world.closed += 1


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def camera(world: World) -> Iterator[Camera]:
    camera = Camera(world.make, timeout_s=0.15, frozen_s=0.3, hang_s=0.3, backoff_s=(0.02, 0.1))
    camera.start()
    camera.wait(5)
    yield camera
    world.go_on.set()
    camera.close()


def _until(over: Callable[[], bool]) -> None:
    end = time.monotonic() + 8
    while not over():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


def _sees(camera: Camera) -> bool:
    try:
        camera.newest()
    except RobotFault:
        return False
    return True


def test_it_keeps_the_newest_frame(camera: Camera) -> None:
    frame, first_s = camera.newest()
    assert frame.shape == (120, 160, 3)
    assert frame.dtype == np.uint8
    _until(lambda: camera.newest()[1] > first_s)
    assert camera.state == "running"


def test_a_camera_that_vanishes_is_a_fault_and_comes_back(camera: Camera, world: World) -> None:
    world.plugged = False
    _until(lambda: not _sees(camera))
    with pytest.raises(RobotFault, match="No such device"):
        camera.newest()
    assert camera.state in ("lost", "reconnecting")
    world.plugged = True
    _until(lambda: _sees(camera))
    assert camera.state == "running"
    assert world.opened >= 2


def test_a_camera_that_hangs_is_given_up_and_opened_anew(camera: Camera, world: World) -> None:
    world.go_on.clear()
    _until(lambda: not _sees(camera))
    _until(lambda: (_sees(camera), world.opened)[1] >= 2)
    world.go_on.set()
    _until(lambda: _sees(camera))
    _until(lambda: world.opened - world.closed == 1)  # the one that hung has closed what it had


def test_threads_that_hang_are_bounded(camera: Camera, world: World) -> None:
    world.go_on.clear()
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        _sees(camera)
        time.sleep(0.02)
    assert world.opened <= 5


def test_a_frame_of_the_future_is_refused(camera: Camera, world: World) -> None:
    world.ahead_s = 3.0
    _until(lambda: not _sees(camera))
    world.ahead_s = 0.0
    _until(lambda: _sees(camera))


def test_a_time_that_stands_still_grows_old(world: World) -> None:
    world.ahead_s = float("nan")
    camera = Camera(world.make, timeout_s=0.1)
    camera.start()
    with pytest.raises(RobotFault, match="no frame yet"):
        camera.wait(0.2)
    camera.close()


@pytest.mark.parametrize(
    "image",
    [np.zeros((240, 320), np.uint8), np.zeros((240, 320, 3), np.float32), np.zeros((0, 3, 3), np.uint8)],
)
def test_what_is_no_picture_is_a_fault(camera: Camera, world: World, image: np.ndarray) -> None:
    world.image = image
    _until(lambda: not _sees(camera))
    with pytest.raises(RobotFault, match="instead of RGB"):
        fitted(image)


@pytest.fixture
def patient(world: World) -> Iterator[Camera]:
    """A camera that a busy machine does not make look lost."""
    camera = Camera(world.make, timeout_s=5.0, frozen_s=0.3, hang_s=5.0, backoff_s=(0.02, 0.1))
    camera.start()
    camera.wait(5)
    yield camera
    camera.close()


def test_the_very_same_picture_for_long_is_a_fault_however_fresh_its_time(
    patient: Camera, world: World
) -> None:
    camera = patient
    began, opened = time.monotonic(), world.opened
    world.noise = False
    _until(lambda: not _sees(camera))
    assert time.monotonic() - began > 0.25
    with pytest.raises(RobotFault, match=r"the very same picture for \d+\.\d s: it is frozen, or covered"):
        camera.newest()
    _until(lambda: world.opened > opened)  # it is opened anew; a cap stays where it is
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        assert not _sees(camera)
        time.sleep(0.01)
    world.noise = True
    _until(lambda: _sees(camera))


def test_one_pixel_that_moves_is_life(patient: Camera) -> None:
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        patient.newest()
        time.sleep(0.01)


def test_closed_is_closed(world: World) -> None:
    camera = Camera(world.make, timeout_s=0.15)
    camera.start()
    camera.wait(5)
    camera.close()
    with pytest.raises(RobotFault, match="closed"):
        camera.newest()
    assert camera.state == "closed"
    _until(lambda: world.closed == 1)


def test_a_wide_picture_loses_its_sides() -> None:
    wide = np.zeros((240, 640, 3), np.uint8)
    wide[:, 160:480] = 200
    assert fitted(wide).min() > 90
    assert fitted(wide)[:, 2:-2].min() == 200
