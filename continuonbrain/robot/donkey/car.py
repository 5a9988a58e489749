"""The car: the `Robot` of camera, drive train and emergency stop. It measures neither speed nor yaw rate."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from continuonbrain.config import DonkeyConfig
from continuonbrain.errors import BrainError
from continuonbrain.robot.donkey.camera import Camera
from continuonbrain.robot.donkey.drive_train import DriveTrain
from continuonbrain.robot.donkey.emergency_stop import EmergencyStop
from continuonbrain.robot.protocol import Observation, RobotFault

log = logging.getLogger(__name__)

_FIRST_FRAME_S = 10.0


class DonkeyCar:
    """See `Robot`. Any part's fault stops the throttle at once and is raised as `RobotFault`.

    A watchdog thread stops the throttle when no command came for `donkey.watchdog_s`: the PWM chip would go on with the
    last pulse for ever. It lives in this process: when it dies, the chip goes on until the next
    control process sets it up, or `continuonbrain calibrate --off` is run.

    also_close: what else is released with the car.
    """

    def __init__(
        self,
        drive_train: DriveTrain,
        camera: Camera,
        emergency_stop: EmergencyStop,
        *,
        watchdog_s: float,
        also_close: Sequence[Callable[[], None]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drive_train, self._camera, self.emergency_stop = drive_train, camera, emergency_stop
        self._watchdog_s, self._clock = watchdog_s, clock
        self._also_close = tuple(also_close)
        self._commanded_s = clock()
        self._closing = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="car-watchdog", daemon=True)

    def open(self) -> None:
        """Start the parts, wait for the first frame and until the ESC is armed (some seconds, at rest).

        Raises `RobotFault`, with everything released again, when a part does not come up.
        """
        try:
            self._camera.start()
            self._drive_train.act(0.0, 0.0)
            self._camera.wait(_FIRST_FRAME_S)
            while (left_s := self._drive_train.arming_left_s) > 0:
                self._closing.wait(min(left_s, 0.05))
                self._drive_train.stop()
        except BaseException:
            self.close()
            raise
        self._commanded_s = self._clock()
        self._watchdog.start()

    def observe(self) -> Observation:
        """See `Robot.observe`."""
        try:
            frame, exposed_s = self._camera.newest()
        except RobotFault:
            self._stop_for_a_fault()
            raise
        return Observation(frame, None, None, exposed_s)

    def act(self, steering: float, throttle: float) -> None:
        """See `Robot.act`. Refused while the emergency stop is on, and while the camera does not see."""
        self._commanded_s = self._clock()
        try:
            self.emergency_stop.check()
            self._camera.newest()
        except RobotFault:
            self._stop_for_a_fault()
            raise
        self._drive_train.act(steering, throttle)

    def stop(self) -> None:
        """See `Robot.stop`."""
        self._commanded_s = self._clock()
        self._drive_train.stop()

    def close(self) -> None:
        """Throttle at stopped_us, then off; every part released. What fails is logged: the rest is released all the
        same."""
        self._closing.set()
        parts = (self._drive_train.close, self._camera.close, self.emergency_stop.close, *self._also_close)
        for release in parts:
            try:
                release()
            except Exception as error:  # the other parts must be released whatever this one does
                log.error("closing the car: %s: %s", type(error).__name__, error)

    def _stop_for_a_fault(self) -> None:
        # The fault that is being raised is the one to tell; and the watchdog must outlive whatever a driver raises.
        with suppress(Exception):
            self._drive_train.stop()

    def _watch(self) -> None:
        told = False
        while not self._closing.wait(self._watchdog_s / 4):
            silent = self._clock() - self._commanded_s > self._watchdog_s
            if silent or self.emergency_stop.why:
                if silent and not told:
                    log.error("no command for %.2f s: stopped", self._watchdog_s)
                self._stop_for_a_fault()
            told = silent


def need_calibration(config: DonkeyConfig, where: object) -> None:
    """Raises BrainError when nobody has calibrated the car. where: the settings' file, for the error."""
    if not config.calibrated:
        raise BrainError(
            f"{where}: donkey.calibrated = false: the pulses of this car's steering and throttle are not known",
            remedy="run `continuonbrain calibrate` with the wheels off the ground",
        )
