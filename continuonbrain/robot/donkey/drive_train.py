"""Steering servo and ESC behind one PWM chip. The one place that puts pulses on the bus.

What holds whatever happens: no pulse outside the calibrated ranges; nothing but stopped_us on the throttle's channel
before the ESC is armed; after a fault the throttle is at stopped_us or its channel is off, as soon as the bus lets it.

A command is one write of both channels where they are neighbours, and an error of it is a fault at once. The chip is
read back when the throttle leaves or comes to stopped_us, and every `VERIFY_EVERY_S`: one that was reset in between
makes no pulses at all until that is found. `python -m benchmarks.i2c_traffic` prints what that costs the bus.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from continuonbrain.config import DonkeyConfig
from continuonbrain.robot.donkey.actuators import Arming, PulseMap, steering_map, throttle_map
from continuonbrain.robot.donkey.i2c import I2cBus
from continuonbrain.robot.donkey.pca9685 import Pca9685, Pulse
from continuonbrain.robot.donkey.reverse import reverse_of
from continuonbrain.robot.protocol import RobotFault

log = logging.getLogger(__name__)

VERIFY_EVERY_S = 0.09
"""Every second tick of 20 Hz. With a tick's own time a reset is found in less than 0.2 s."""
_PRESCALE_EVERY = 10
"""Verifications to one look at PRE_SCALE: a reset shows without it; only a stranger on the bus changes it alone."""

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
        self._reverse = reverse_of(config.throttle)
        self._clock, self._sleep = clock, sleep
        self._resting, self._verified_s, self._verifications = True, 0.0, 0
        self._lock = threading.RLock()
        self._ready = self._closed = False

    @property
    def rest_registers(self) -> tuple[int, bytes]:
        """The first register of the throttle's channel, and what its four hold at stopped_us."""
        return self._chip.registers(
            self._throttle_channel, self._pulse(self._throttle, self._throttle.rest_us)
        )

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
                turn_us = self._steering.pulse_us(steering)
                drive_us = self._throttle.pulse_us(self._reverse.step(throttle, self._clock()))
                if not self._ready:
                    self._set_up()
                left_s = self._arming.remaining_s
                if left_s > 0 and drive_us != self._throttle.rest_us:
                    raise RobotFault(f"the ESC is arming for another {left_s:.1f} s")
                self._send(drive_us, turn_us)
            except Exception:
                self._rest_after_fault()
                raise

    def stop(self) -> None:
        """stopped_us now; where that cannot be had, no pulses. Raises `RobotFault` when neither can."""
        with self._lock:
            if self._closed:
                return
            try:
                if not self._ready:
                    self._set_up()
                self._rest()
            except Exception:
                self._silence()
                raise

    def stop_after_silence(self) -> None:
        """`stop`, when another process may have stopped the throttle meanwhile: where it makes no pulses any more, the
        chip is set up and the ESC arms anew."""
        with self._lock:
            try:
                if self._ready and self._chip.is_off(self._throttle_channel):
                    self._ready = False
            except Exception:
                self._rest_after_fault()
                raise
            self.stop()

    def close(self) -> None:
        """stopped_us, then off. Raises `RobotFault` when the channels could not be switched off."""
        with self._lock:
            if self._closed:
                return
            try:
                if self._ready:
                    self._rest()
                    self._sleep(_LAST_PULSES_S)
            except Exception as error:
                log.error("closing: %s", error)
            finally:
                self._closed = True
                self._ready = False
                self._arming.cold()
                self._chip.all_off()

    def _set_up(self) -> None:
        """Bring the chip up, the throttle at stopped_us; the ESC begins to arm."""
        self._arming.cold()
        self._chip.set_up()
        self._rest(verify=True)
        self._ready = True
        self._arming.stopped()

    def _rest(self, *, verify: bool = False) -> None:
        self._reverse.step(0.0, self._clock())
        self._send(self._throttle.rest_us, None, verify=verify)

    def _send(self, drive_us: float, turn_us: float | None, *, verify: bool = False) -> None:
        pulses = {self._throttle_channel: self._pulse(self._throttle, drive_us)}
        if turn_us is not None:
            pulses[self._steering_channel] = self._pulse(self._steering, turn_us)
        self._chip.set_pulses(pulses)
        now_s, resting = self._clock(), drive_us == self._throttle.rest_us
        if verify or resting != self._resting or now_s - self._verified_s >= VERIFY_EVERY_S:
            self._chip.verify()
            if self._verifications % _PRESCALE_EVERY == 0:
                self._chip.check_prescale()
            self._verifications += 1
            self._verified_s = now_s
        self._resting = resting

    def _pulse(self, pulses: PulseMap, pulse_us: float) -> Pulse:
        """Where stopped_us is an end of the range, it may still be rounded to the nearest count."""
        half_us = self._chip.count_us / 2
        return Pulse(
            pulse_us,
            min(pulses.low_us, pulses.rest_us - half_us),
            max(pulses.high_us, pulses.rest_us + half_us),
        )

    def _rest_after_fault(self) -> None:
        """Stop with whatever still works. Raises nothing: the fault itself is on its way."""
        try:
            if not self._ready:
                raise RobotFault("the chip is not set up")
            self._rest(verify=True)
        except Exception:
            try:
                self._silence()
            except Exception as error:
                log.error("the throttle cannot be stopped: %s", error)

    def _silence(self) -> None:
        """No pulses: the ESC's own fail-safe stops the car. What comes next sets up and arms again."""
        self._ready = False
        self._arming.cold()
        self._reverse.reset()
        self._chip.all_off()
