"""Walks a person through the pulses of steering and throttle, with the wheels off the ground.

A new pulse is at most `LARGEST_STEP_US` from the one before. The throttle leaves stopped_us for `SPIN_S` at a time, and
every way out (an answer "quit", an error, Ctrl-C) switches all channels off.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from continuonbrain.config import DonkeyConfig
from continuonbrain.errors import BrainError
from continuonbrain.robot.donkey.pca9685 import Pca9685

LOW_US, HIGH_US = 500.0, 2500.0
LARGEST_STEP_US = 100.0
SPIN_S = 0.7
_MOST_ANSWERS = 200

Ask = Callable[[str], str]


class CalibrationLeft(BrainError):
    """The person left before the end; nothing was changed."""


class Calibration:
    """One walk.

    Args:
        chip: where pulses go. `walk` sets it up and leaves it off.
        config: where the walk begins.
        ask: puts a question to the person and gives the answer.
        say: tells the person something.
    """

    def __init__(
        self,
        chip: Pca9685,
        config: DonkeyConfig,
        *,
        ask: Ask,
        say: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._chip, self._config = chip, config
        self._ask, self._say, self._sleep = ask, say, sleep

    def walk(self) -> dict[str, object]:
        """What was found, by dotted keys of the settings. Raises `CalibrationLeft`, `RobotFault`."""
        self._say("Put the car on a block: all wheels off the ground, nothing near them.")
        if self._ask("Are all wheels off the ground? (yes/quit) ").strip().lower() != "yes":
            raise CalibrationLeft("calibration: not begun", remedy="put the car on a block and start again")
        try:
            self._chip.set_up()
            return {**self._steering(), **self._throttle(), "donkey.calibrated": True}
        finally:
            self._chip.all_off()

    def _steering(self) -> dict[str, object]:
        now = self._config.steering
        self._say("Steering. A number is a pulse in microseconds, +N or -N changes it, Enter takes it.")
        found: dict[str, float] = {}
        for key, told in (
            ("centre_us", "wheels straight ahead"),
            ("left_us", "as far left as it turns without force"),
            ("right_us", "as far right as it turns without force"),
        ):
            begin_us = found.get("centre_us", now.centre_us)
            found[key] = self._find(f"{told} [{key}]", begin_us, lambda us: self._send(now.channel, us))
        return {f"donkey.steering.{key}": value for key, value in found.items()}

    def _throttle(self) -> dict[str, object]:
        now = self._config.throttle
        self._say(f"Throttle. The ESC arms for {now.arming_s:g} s; switch its power on now if it is off.")
        self._send(now.channel, now.stopped_us)
        self._sleep(now.arming_s)
        stopped_us = self._find(
            "wheels at rest, the ESC quiet [stopped_us]",
            now.stopped_us,
            lambda us: self._send(now.channel, us),
        )

        def spin(pulse_us: float) -> None:
            self._send(now.channel, pulse_us)
            self._sleep(SPIN_S)
            self._send(now.channel, stopped_us)

        def back(pulse_us: float) -> None:
            if now.reverse == "double-tap" and pulse_us != stopped_us:
                for tap_us in (pulse_us, stopped_us):
                    self._send(now.channel, tap_us)
                    self._sleep(now.tap_s)
            spin(pulse_us)

        found = {"stopped_us": stopped_us}
        tries = [("forward_us", "the fastest that it may ever go forward", spin)]
        if now.reverse == "none":
            self._say('The car never goes back: donkey.throttle.reverse is "none".')
        else:
            tries.append(("reverse_us", "the fastest that it may ever go back", back))
        for key, told, show in tries:
            self._say(f"Each try turns the wheels for {SPIN_S:g} s.")
            found[key] = self._find(f"{told} [{key}]", stopped_us, show)
        return {f"donkey.throttle.{key}": value for key, value in found.items()}

    def _find(self, told: str, pulse_us: float, show: Callable[[float], None]) -> float:
        """Show pulses until the person takes one."""
        show(pulse_us)
        for _ in range(_MOST_ANSWERS):
            answer = self._ask(f"{told}: {pulse_us:g} us > ").strip().lower()
            if not answer:
                return pulse_us
            if answer in ("quit", "q"):
                break
            try:
                wanted = pulse_us + float(answer) if answer[0] in "+-" else float(answer)
            except ValueError:
                self._say(f"{answer!r} is no number; quit leaves")
                continue
            # Comparisons that NaN fails.
            if not LOW_US <= wanted <= HIGH_US:
                self._say(f"{wanted:g} us is outside {LOW_US:g} to {HIGH_US:g}")
            elif not abs(wanted - pulse_us) <= LARGEST_STEP_US:
                self._say(f"at most {LARGEST_STEP_US:g} us at a time")
            else:
                pulse_us = wanted
                show(pulse_us)
        raise CalibrationLeft("calibration: left before its end, nothing was changed", remedy="start again")

    def _send(self, channel: int, pulse_us: float) -> None:
        self._chip.check()
        self._chip.set_pulse(channel, pulse_us, low_us=LOW_US, high_us=HIGH_US)
