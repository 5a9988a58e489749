"""Steering servo and ESC behind one PWM chip. The one place that puts pulses on the bus.

What holds whatever happens: no pulse outside the calibrated ranges; nothing but stopped_us on the throttle's channel
before the ESC is armed; after a fault the throttle is at stopped_us or its channel is off, as soon as the bus lets it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from continuonbrain.config import DonkeyConfig
from continuonbrain.robot.donkey.actuators import Arming, PulseMap, steering_map, throttle_map
from continuonbrain.robot.donkey.i2c import I2cBus
from continuonbrain.robot.donkey.pca9685 import Pca9685
from continuonbrain.robot.protocol import RobotFault

log = logging.getLogger(__name__)

_LAST_PULSES_S = 0.1
"""How long stopped_us is held before the channels go off: some ESCs coast on when pulses end while they drive."""


class DriveTrain:
    """For threads to share: the control loop, and the watchdog that stops it."""

    def __init__(
        self,
        bus: I2cBus,
        config: DonkeyConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        pwm = config.pwm
        self._chip = Pca9685(
            bus,
            pwm.address,
            frequency_hz=pwm.frequency_hz,
            oscillator_hz=pwm.oscillator_hz,
            sleep=sleep,
        )
        self._steering, self._throttle = steering_map(config.steering), throttle_map(config.throttle)
        self._steering_channel, self._throttle_channel = config.steering.channel, config.throttle.channel
        self._arming = Arming(config.throttle.arming_s, clock=clock)
        self._sleep = sleep
        self._lock = threading.RLock()
        self._ready = self._closed = False

    @property
    def arming_left_s(self) -> float:
        """Seconds until the ESC is armed, 0 when it is."""
        with self._lock:
            return self._arming.remaining_s

    def act(self, steering: float, throttle: float) -> None:
        """Send both. Raises `RobotFault`, with the throttle stopped, for what is no number, for a chip that does not
        answer or was reset, and for a throttle before the ESC is armed."""
        with self._lock:
            if self._closed:
                raise RobotFault("the car is closed")
            try:
                turn_us, drive_us = self._steering.pulse_us(steering), self._throttle.pulse_us(throttle)
                self._prepare()
                left_s = self._arming.remaining_s
                if left_s > 0 and drive_us != self._throttle.rest_us:
                    raise RobotFault(f"the ESC is arming for another {left_s:.1f} s")
                self._send(self._steering_channel, self._steering, turn_us)
                self._send(self._throttle_channel, self._throttle, drive_us)
            except Exception:
                self._rest_after_fault()
                raise

    def stop(self) -> None:
        """stopped_us now; where that cannot be had, no pulses. Raises `RobotFault` when neither can."""
        with self._lock:
            if self._closed:
                return
            try:
                self._prepare()
                self._send(self._throttle_channel, self._throttle, self._throttle.rest_us)
            except Exception:
                self._silence()
                raise

    def close(self) -> None:
        """stopped_us, then off. Raises `RobotFault` when the channels could not be switched off."""
        with self._lock:
            if self._closed:
                return
            try:
                if self._ready:
                    self._send(self._throttle_channel, self._throttle, self._throttle.rest_us)
                    self._sleep(_LAST_PULSES_S)
            except Exception as error:
                log.error("closing: %s", error)
            finally:
                self._closed = True
                self._ready = False
                self._arming.cold()
                self._chip.all_off()

    def _prepare(self) -> None:
        """The chip is set up and the throttle at stopped_us, or the chip has been looked at and is still well."""
        if self._ready:
            self._chip.check()
            return
        self._arming.cold()
        self._chip.set_up()
        self._send(self._throttle_channel, self._throttle, self._throttle.rest_us)
        self._ready = True
        self._arming.stopped()

    def _send(self, channel: int, pulses: PulseMap, pulse_us: float) -> None:
        self._chip.set_pulse(channel, pulse_us, low_us=pulses.low_us, high_us=pulses.high_us)

    def _rest_after_fault(self) -> None:
        """Stop with whatever still works. Raises nothing: the fault itself is on its way."""
        try:
            if not self._ready:
                raise RobotFault("the chip is not set up")
            self._chip.check()
            self._send(self._throttle_channel, self._throttle, self._throttle.rest_us)
        except Exception:
            try:
                self._silence()
            except Exception as error:
                log.error("the throttle cannot be stopped: %s", error)

    def _silence(self) -> None:
        """No pulses: the ESC's own fail-safe stops the car. What comes next sets up and arms again."""
        self._ready = False
        self._arming.cold()
        self._chip.all_off()
