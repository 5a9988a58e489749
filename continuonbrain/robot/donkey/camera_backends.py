"""Where frames come from: picamera2 for the Pi's own cameras, OpenCV for USB (V4L2).

Either is imported when it is opened. picamera2 comes with Raspberry Pi OS (apt, no wheel).
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from continuonbrain.config import CameraConfig
from continuonbrain.errors import BrainError, installing
from continuonbrain.robot.protocol import RobotFault

CAPTURE_SIZE = (320, 240)
"""Width, height: twice the frame, so that reducing it averages noise."""


class CameraBackend(Protocol):
    """One camera: open, read as often as wanted, close. Every method may raise anything and may hang."""

    def open(self) -> None: ...

    def read(self) -> tuple[NDArray[np.uint8], float]:
        """The next frame, RGB uint8 `[height, width, 3]` of any size, and the monotonic time of its exposure, or a time
        before it. Waits for it."""

    def close(self) -> None: ...


class Picamera2Backend:
    """A camera on the Pi's ribbon cable."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._camera: Any = None

    def open(self) -> None:
        """Raises BrainError when picamera2 is missing."""
        try:
            from picamera2 import Picamera2
        except ModuleNotFoundError as error:
            raise BrainError(
                "the camera needs the Python module picamera2, which is not installed",
                remedy="sudo apt install python3-picamera2, and make the venv with --system-site-packages",
            ) from error
        self._camera = Picamera2(self._index)
        # libcamera names formats by the bytes of a little-endian word: its BGR888 is R, G, B in memory (Picamera2
        # Manual, appendix A).
        configuration = self._camera.create_video_configuration(
            main={"size": CAPTURE_SIZE, "format": "BGR888"}, buffer_count=2, queue=False
        )
        self._camera.configure(configuration)
        self._camera.start()

    def read(self) -> tuple[NDArray[np.uint8], float]:
        """See `CameraBackend.read`."""
        request = self._camera.capture_request()
        try:
            frame, metadata = request.make_array("main"), request.get_metadata()
        finally:
            request.release()
        # CLOCK_BOOTTIME (libcamera's controls::SensorTimestamp): it runs on in a suspend, the monotonic clock does not.
        offset_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        return frame, metadata["SensorTimestamp"] / 1e9 - offset_s

    def close(self) -> None:
        """Release the camera."""
        if self._camera is not None:
            camera, self._camera = self._camera, None
            camera.close()


class V4l2Backend:
    """A USB camera, /dev/videoN."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._capture: Any = None
        self._cv2: Any = None

    def open(self) -> None:
        """Raises BrainError when OpenCV is missing, RobotFault when there is no such camera."""
        try:
            import cv2
        except ModuleNotFoundError as error:
            raise BrainError(
                "a USB camera needs the Python module cv2 (OpenCV), which is not installed",
                remedy=installing("pi"),
            ) from error
        self._cv2 = cv2
        self._capture = cv2.VideoCapture(self._index, cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise RobotFault(
                f"/dev/video{self._index} cannot be opened", remedy="check that the camera is plugged in"
            )
        self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, CAPTURE_SIZE[0])
        self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, CAPTURE_SIZE[1])
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)

    def read(self) -> tuple[NDArray[np.uint8], float]:
        """See `CameraBackend.read`. The time is taken before, so that a slow read yields an old frame, not a fresh
        one."""
        before_s = time.monotonic()
        taken, frame = self._capture.read()
        if not taken:
            raise RobotFault(f"/dev/video{self._index} gave no frame", remedy="check its plug and its cable")
        return self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB), before_s

    def close(self) -> None:
        """Release the camera."""
        if self._capture is not None:
            capture, self._capture = self._capture, None
            capture.release()


def backend_for(config: CameraConfig) -> CameraBackend:
    """The back end that these settings name, not yet opened."""
    return Picamera2Backend(config.index) if config.backend == "picamera2" else V4l2Backend(config.index)
