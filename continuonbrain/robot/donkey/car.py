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
from continuonbrain.robot.donkey.watchdog_process import WatchdogProcess
from continuonbrain.robot.protocol import Observation, RobotFault

log = logging.getLogger(__name__)

_FIRST_FRAME_S = 10.0

SILENCES = 2.0
"""Times `donkey.watchdog_s` without a command, the process outside stops the car. The thread inside comes first, as it
knows the ESC: it looks four times in watchdog_s, so it acts at 1.25 times at the latest, and then needs the bus."""


class DonkeyCar:
    """See `Robot`. Any part's fault stops the throttle at once and is raised as `RobotFault`.

    A watchdog thread stops the throttle when no command came for `donkey.watchdog_s`: the PWM chip would go on with the
    last pulse for ever. It stands or ends with this process, so a process of its own stops the throttle when no command
    came for `SILENCES` times as long, or this one is gone. After such a silence the first command is refused: the car
    stands, whatever was sent last.

    outside: that process; None only where no other process can reach the chip (a model of it).
    also_close: what else is released with the car.
    """

    def __init__(
        self,
        drive_train: DriveTrain,
        camera: Camera,
        emergency_stop: EmergencyStop,
        *,
        watchdog_s: float,
        outside: WatchdogProcess | None = None,
        also_close: Sequence[Callable[[], None]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drive_train, self._camera, self.emergency_stop = drive_train, camera, emergency_stop
        self._watchdog_s, self._clock = watchdog_s, clock
        self._also_close = tuple(also_close)
        self._outside = outside
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
            if self._outside is not None:
                self._outside.start()
            self._camera.wait(_FIRST_FRAME_S)
            while (left_s := self._drive_train.arming_left_s) > 0:
                self._closing.wait(min(left_s, 0.05))
                self._drive_train.stop()
            if self._outside is not None:
                self._outside.wait()
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
        """See `Robot.act`. Refused while the emergency stop is on, while the camera does not see or nobody outside
        watches, and once after a silence."""
        silent_s = self._commanded()
        try:
            if self._outside is not None:
                self._outside.beat()
            if silent_s > self._watchdog_s * SILENCES:
                self._drive_train.stop_after_silence()
                raise RobotFault(f"no command for {silent_s:.2f} s: the car was stopped meanwhile")
            self.emergency_stop.check()
            self._camera.newest()
        except RobotFault:
            self._stop_for_a_fault()
            raise
        self._drive_train.act(steering, throttle)

    def stop(self) -> None:
        """See `Robot.stop`."""
        silent_s = self._commanded()
        if self._outside is not None:
            with suppress(RobotFault):  # it stops without being watched, too
                self._outside.beat()
        if silent_s > self._watchdog_s * SILENCES:
            self._drive_train.stop_after_silence()
        else:
            self._drive_train.stop()

    def close(self) -> None:
        """Throttle at stopped_us, then off; every part released. What fails is logged: the rest is released all the
        same."""
        self._closing.set()
        is_off = self._released(self._drive_train.close)
        if self._outside is not None:  # where this one could not switch off, the other tries
            self._outside.end(orderly=is_off)
        for release in (self._camera.close, self.emergency_stop.close, *self._also_close):
            self._released(release)

    def _released(self, release: Callable[[], None]) -> bool:
        try:
            release()
        except Exception as error:  # the other parts must be released whatever this one does
            log.error("closing the car: %s: %s", type(error).__name__, error)
            return False
        return True

    def _commanded(self) -> float:
        """There is a command now; how long there was none."""
        now_s = self._clock()
        silent_s, self._commanded_s = now_s - self._commanded_s, now_s
        return silent_s

    def _stop_for_a_fault(self) -> None:
        # The fault that is being raised is the one to tell; and the watchdog must outlive whatever a driver raises.
        with suppress(Exception):
            self._drive_train.stop_after_silence()

    def _watch(self) -> None:
        told = False
        while not self._closing.wait(self._watchdog_s / 4):
            silent = self._clock() - self._commanded_s > self._watchdog_s
            if silent or self.emergency_stop.why:
                if silent and not told:
                    log.error("no command for %.2f s: stopped", self._watchdog_s)
                self._stop_for_a_fault()
            told = silent
            if self._outside is not None:
                self._outside.look()


def need_calibration(config: DonkeyConfig, where: object) -> None:
    """Raises BrainError when nobody has calibrated the car. where: the settings' file, for the error."""
    if not config.calibrated:
        raise BrainError(
            f"{where}: donkey.calibrated = false: the pulses of this car's steering and throttle are not known",
            remedy="run `continuonbrain calibrate` with the wheels off the ground",
        )
