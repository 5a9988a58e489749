"""The emergency stop: pressed once, it holds until a person releases it in software.

A pin that cannot be read counts as pressed. The state machine is pure; the pin is gpiozero's
(https://gpiozero.readthedocs.io/en/stable/api_input.html#button).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from continuonbrain.config import StopButtonConfig
from continuonbrain.errors import BrainError, installing
from continuonbrain.robot.protocol import RobotFault

log = logging.getLogger(__name__)


class StopPin(Protocol):
    """The switch. `pressed` may raise anything."""

    def pressed(self) -> bool: ...

    def close(self) -> None: ...


class EmergencyStop:
    """The latch. `press` may be called on any thread (an edge on the pin, a gamepad's button).

    pin: None where the car has no switch: the latch then holds what `press` says alone.
    """

    def __init__(self, pin: StopPin | None = None) -> None:
        self._pin = pin
        self._lock = threading.Lock()
        self._why = ""
        self.presses = 0
        """How often it was pressed, also while it was on; a switch that stays pressed counts once."""

    def press(self, why: str) -> None:
        """Stop, and stay stopped. The first reason is kept."""
        with self._lock:
            self.presses += 1
            if not self._why:
                self._why = why
                log.error("emergency stop: %s", why)

    @property
    def why(self) -> str:
        """Who or what pressed it, after looking at the pin; "" while nobody has."""
        held = self._held()
        if held and not self._why:
            self.press(held)
        return self._why

    def check(self) -> None:
        """Raises `RobotFault` while it is pressed or latched."""
        why = self.why
        if why:
            raise RobotFault(
                f"emergency stop: {why}",
                remedy="release the switch, then choose the mode autopilot or teleop",
            )

    def release(self) -> bool:
        """A person says that it is over. False, and nothing changes, while the switch is still pressed."""
        if self._held():
            return False
        with self._lock:
            self._why = ""
        return True

    def close(self) -> None:
        """Release the pin; the latch stays pressed from now on."""
        self.press("closed")
        if self._pin is not None:
            self._pin.close()

    def _held(self) -> str:
        if self._pin is None:
            return ""
        try:
            return "the switch is pressed" if self._pin.pressed() else ""
        except Exception as error:  # whatever a pin raises, nobody can tell any more whether it is pressed
            return f"the switch cannot be read: {type(error).__name__}: {error}"


class GpioStopPin:
    """A switch between a GPIO pin and ground, with the pull-up of the Pi: the pin is low while the switch conducts.

    on_press is called at once when the switch is pressed, however shortly. Raises BrainError when gpiozero is missing
    or the pin cannot be had.
    """

    def __init__(self, config: StopButtonConfig, on_press: Callable[[], None]) -> None:
        try:
            from gpiozero import Button
            from gpiozero.exc import GPIOZeroError
        except ModuleNotFoundError as error:
            raise BrainError(
                "the emergency-stop switch needs the Python module gpiozero, which is not installed",
                remedy=installing("pi"),
            ) from error
        self._conducts_when_pressed = config.wiring == "normally-open"
        try:
            self._button: Any = Button(config.pin, pull_up=True)
        except (GPIOZeroError, OSError, RuntimeError) as error:
            raise BrainError(
                f"donkey.stop_button.pin = {config.pin} cannot be used: {error}",
                remedy="check that nothing else uses that pin, and that this user is in the group gpio",
            ) from error
        if self._conducts_when_pressed:
            self._button.when_pressed = lambda: on_press()
        else:
            self._button.when_released = lambda: on_press()

    def pressed(self) -> bool:
        """Whether the switch is pressed now, or its wire is broken (normally-closed)."""
        return bool(self._button.is_pressed) == self._conducts_when_pressed

    def close(self) -> None:
        """Give the pin back."""
        self._button.close()


def open_emergency_stop(config: StopButtonConfig) -> EmergencyStop:
    """The emergency stop of these settings. Raises BrainError when its pin cannot be had."""
    if config.pin is None:
        return EmergencyStop()
    # The pin's callback needs the latch, and the latch the pin.
    latches: list[EmergencyStop] = []
    pin = GpioStopPin(config, lambda: latches[0].press("the switch was pressed") if latches else None)
    latches.append(EmergencyStop(pin))
    return latches[0]
