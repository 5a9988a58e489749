"""The camera: a thread that keeps the newest frame, and connects again when the camera is lost.

    opening -> running -> lost -> reconnecting -> running ... closed

A back end that hangs cannot be interrupted: its thread is given up, and another one opens the camera anew; whenever the
old one comes back, it closes what it had and ends.

A sensor that sees has noise. Frames that are the same to the last bit for a while, however fresh their times, come from
a driver that repeats itself, or from under a lens cap: a fault either way, and the camera is opened anew.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from continuonbrain.robot.donkey.camera_backends import CameraBackend
from continuonbrain.robot.protocol import FRAME_SHAPE, Frame, RobotFault

log = logging.getLogger(__name__)

CameraState = Literal["opening", "running", "lost", "reconnecting", "closed"]

_MOST_GIVEN_UP = 4
"""Threads that hang at one time. With more the camera stays lost until one of them comes back."""

_AHEAD_S = 0.05
"""By how much an exposure may lie in the future: two clocks are compared."""


def fitted(image: NDArray[np.uint8]) -> Frame:
    """An RGB uint8 image `[height, width, 3]` as a frame: the largest middle part of the frame's shape, reduced.

    Raises RobotFault for anything else.
    """
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise RobotFault(f"the camera gave {array.dtype} {list(array.shape)} instead of RGB uint8 [h, w, 3]")
    height, width = FRAME_SHAPE[:2]
    if array.shape == FRAME_SHAPE:
        return np.array(array)  # a copy: the camera may use its buffer again
    scale = min(array.shape[0] / height, array.shape[1] / width)
    left, top = (array.shape[1] - width * scale) / 2, (array.shape[0] - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    resized = Image.fromarray(np.ascontiguousarray(array)).resize(
        (width, height), Image.Resampling.BILINEAR, box=box
    )
    return np.array(resized, dtype=np.uint8)


class Camera:
    """One camera.

    Args:
        make: gives a back end that is not yet opened; asked again for every connection.
        timeout_s: a frame older than this is a fault.
        frozen_s: frames that are all the same for longer than this are a fault, seconds.
        hang_s: a back end that takes longer to open or to read is given up, seconds.
        backoff_s: first and longest wait between two connections, seconds.
    """

    def __init__(
        self,
        make: Callable[[], CameraBackend],
        *,
        timeout_s: float,
        frozen_s: float = 0.5,
        hang_s: float = 5.0,
        backoff_s: tuple[float, float] = (0.2, 5.0),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._timeout_s, self._hang_s, self._backoff_s = make, timeout_s, hang_s, backoff_s
        self._frozen_s, self._clock = frozen_s, clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._frame: Frame | None = None
        self._exposed_s = self._changed_s = -np.inf
        self._state: CameraState = "opening"
        self._problem = "no frame has come yet"
        self._reader: threading.Thread | None = None
        self._given_up: list[threading.Thread] = []
        self._moved_s = clock()
        self._closing = threading.Event()

    @property
    def state(self) -> CameraState:
        """Where in its life it is."""
        return self._state

    def start(self) -> None:
        """Begin to connect."""
        with self._lock:
            self._begin()

    def wait(self, patience_s: float) -> None:
        """Until the first frame. Raises `RobotFault` when none came in so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._closing.is_set(), patience_s)
        self.newest()

    def newest(self) -> tuple[Frame, float]:
        """The newest frame and the monotonic time of its exposure; never waits. Raises `RobotFault` when it is too old,
        from the future, or the same as all before it for too long."""
        now = self._clock()
        with self._lock:
            if self._reader is not None and now - self._moved_s > self._hang_s:
                self._give_up()
            frame, age_s = self._frame, now - self._exposed_s
            if self._state == "closed":
                raise RobotFault("the camera is closed")
            if frame is None or not -_AHEAD_S <= age_s <= self._timeout_s:
                if self._state == "running":
                    self._state = "lost"
                told = "no frame yet" if frame is None else f"the newest frame is {age_s:.2f} s old"
                raise RobotFault(
                    f"camera {self._state}: {told} ({self._problem or 'it does not answer'})",
                    remedy="check the camera's cable",
                )
            if self._exposed_s - self._changed_s > self._frozen_s:
                raise self._frozen()
            return frame, self._exposed_s

    def close(self) -> None:
        """End the thread and release the camera; a back end that hangs is left to itself."""
        with self._changed:
            self._closing.set()
            self._state = "closed"
            reader, self._reader = self._reader, None
            self._changed.notify_all()
        if reader is not None and reader is not threading.current_thread():
            reader.join(1.0)

    def _begin(self) -> None:
        self._moved_s = self._clock()
        self._reader = threading.Thread(target=self._run, name="camera", daemon=True)
        self._reader.start()

    def _give_up(self) -> None:
        """The reader hangs: another one takes its place. The lock is held."""
        self._given_up = [thread for thread in self._given_up if thread.is_alive()]
        if len(self._given_up) >= _MOST_GIVEN_UP or self._closing.is_set():
            return
        assert self._reader is not None
        self._given_up.append(self._reader)
        self._state, self._problem = "reconnecting", f"it did not answer for {self._hang_s:g} s"
        log.error("camera: %s; connecting anew", self._problem)
        self._begin()

    def _mine(self) -> bool:
        """Whether the calling thread is still the one that reads; tells that it lives."""
        with self._lock:
            if self._reader is not threading.current_thread():
                return False
            self._moved_s = self._clock()
            return True

    def _run(self) -> None:
        wait_s, longest_s = self._backoff_s
        while self._mine():
            backend: CameraBackend | None = None
            try:
                backend = self._make()
                backend.open()
                while self._mine():
                    image, exposed_s = backend.read()
                    self._take(fitted(image), exposed_s)
                    wait_s = self._backoff_s[0]
            except Exception as error:  # whatever a driver raises, the camera is lost and is tried again
                self._lose(f"{type(error).__name__}: {error}")
            finally:
                if backend is not None:
                    self._release(backend)
            # In pieces: a reader that waits must not look like one that hangs.
            if self._closing.wait(min(wait_s, self._hang_s / 2)):
                return
            wait_s = min(longest_s, wait_s * 2)
            with self._lock:
                if self._reader is threading.current_thread():
                    self._state = "reconnecting"

    def _take(self, frame: Frame, exposed_s: float) -> None:
        ahead_s = exposed_s - self._clock()
        if ahead_s > _AHEAD_S:
            raise RobotFault(f"a frame was exposed {ahead_s:.2f} s from now: its clock is another one")
        with self._changed:
            # A frame that is not newer is the same one again: a camera that froze must grow old.
            if self._reader is not threading.current_thread() or not exposed_s > self._exposed_s:
                return
            # The whole frame: 57 kB take microseconds, and a part of it may rightly stand still.
            if self._frame is None or not np.array_equal(frame, self._frame):
                self._changed_s = exposed_s
            self._frame, self._exposed_s = frame, exposed_s
            if exposed_s - self._changed_s > self._frozen_s:
                raise self._frozen()
            self._state, self._problem = "running", ""
            self._changed.notify_all()

    def _frozen(self) -> RobotFault:
        return RobotFault(
            f"the camera shows the very same picture for {self._exposed_s - self._changed_s:.1f} s: it is frozen, or "
            "covered",
            remedy="take off the lens cap; check the camera's cable",
        )

    def _lose(self, problem: str) -> None:
        with self._lock:
            if self._reader is threading.current_thread():
                if problem != self._problem:
                    log.error("camera lost: %s", problem)
                self._state, self._problem = "lost", problem

    def _release(self, backend: CameraBackend) -> None:
        try:
            backend.close()
        except Exception as error:  # it is lost anyway
            log.warning("camera: cannot be closed: %s: %s", type(error).__name__, error)
