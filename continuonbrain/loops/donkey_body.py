"""The body of a donkey car: the car itself, its gamepad, and the Linux machine that it carries."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from continuonbrain.config import BrainConfig, DonkeyConfig
from continuonbrain.loops.loop_tick import LoopTick, Mode, Teleop
from continuonbrain.robot.donkey.absence import Absence
from continuonbrain.robot.donkey.camera import Camera
from continuonbrain.robot.donkey.camera_backends import backend_for
from continuonbrain.robot.donkey.car import SILENCES, DonkeyCar, need_calibration
from continuonbrain.robot.donkey.drive_train import DriveTrain
from continuonbrain.robot.donkey.emergency_stop import open_emergency_stop
from continuonbrain.robot.donkey.gamepad import Gamepad, Press, open_gamepad
from continuonbrain.robot.donkey.i2c import RetryingBus, open_bus
from continuonbrain.robot.donkey.ina219 import Ina219
from continuonbrain.robot.donkey.low_battery import LowBattery
from continuonbrain.robot.donkey.machine import DonkeyMachine
from continuonbrain.robot.donkey.watchdog_process import WatchdogProcess, Watched


class DonkeyBody:
    """One car. Nothing moves, and no thread runs, before `open`.

    bus: another one than the settings' own, which no other process can reach.

    Raises BrainError when the car is not calibrated (config_path: for that error), a Python module is missing, or a bus
    or a pin cannot be had.
    """

    robot_model = "donkeycar"
    environment = "real"
    off_road = 0
    astray = ""

    def __init__(
        self, config: BrainConfig, *, config_path: Path, disk_path: Path, bus: RetryingBus | None = None
    ) -> None:
        donkey: DonkeyConfig = config.donkey
        need_calibration(donkey, config_path)
        self._pad: Gamepad | None = None
        if donkey.gamepad.enabled:
            self._pad = open_gamepad(donkey.gamepad, self._pressed)
        is_own = bus is None
        bus = bus or open_bus(donkey.pwm.i2c_bus)
        drive_train = DriveTrain(bus, donkey)
        outside = None
        if is_own:
            register, rest = drive_train.rest_registers
            outside = WatchdogProcess(
                Watched(donkey.pwm.i2c_bus, donkey.pwm.address, register, rest),
                limit_s=SILENCES * donkey.watchdog_s,
                not_cpu=config.robot.cpu,
            )
        self._stop = open_emergency_stop(donkey.stop_button)
        self.robot = DonkeyCar(
            drive_train,
            Camera(
                lambda: backend_for(donkey.camera),
                timeout_s=donkey.camera.timeout_s,
                frozen_s=donkey.camera.frozen_s,
            ),
            self._stop,
            watchdog_s=donkey.watchdog_s,
            outside=outside,
            also_close=(bus.close,) if self._pad is None else (self._pad.close, bus.close),
        )
        gauged = config.power == "battery" and config.battery == "gauge"
        self._battery = LowBattery(donkey.gauge, now_s=time.monotonic()) if gauged else None
        self.machine = DonkeyMachine(
            disk_path, Ina219(bus, donkey.gauge) if gauged else None, watch=self._battery
        )
        self._mode: Mode = "park"
        self._ticks = Absence()
        self._wanted: tuple[Mode, int] | None = None
        """What the mode button asked for, and how often the emergency stop had been pressed by then."""

    @property
    def teleop(self) -> Teleop | None:
        """The gamepad."""
        return self._pad

    @property
    def presses(self) -> int:
        """See `Body.presses`."""
        return self._stop.presses

    def open(self) -> None:
        """Some seconds: the ESC arms. Raises `RobotFault` when a part does not come up."""
        if self._pad is not None:
            self._pad.start()
        self.robot.open()

    def instruct(self, instruction: str) -> None:
        """Nothing here goes by it."""

    def ticked(self, tick: LoopTick) -> None:
        """Remember the mode, which the gamepad's button changes. What it asked for while the loop hung is nobody's
        wish any more."""
        self._mode = tick.mode
        if self._ticks.is_over(time.monotonic()):
            self._wanted = None
        if self._pad is not None:
            self._pad.ticked()

    def asked(self) -> Mode | Literal["stop"] | None:
        """See `Body.asked`."""
        wanted, self._wanted = self._wanted, None
        if self._stop.why and (wanted is None or wanted[1] != self._stop.presses):
            # A stop that came after the mode button, of the pad or of the switch, wins: nothing is released then.
            return "stop"
        return None if wanted is None else wanted[0]

    def unfit(self) -> str:
        """See `Body.unfit`."""
        return "" if self._battery is None else self._battery.why(time.monotonic())

    def release(self) -> str:
        """See `Body.release`."""
        if self._battery is not None and (refusal := self._battery.release(time.monotonic())):
            return refusal
        return "" if self._stop.release() else f"emergency stop: {self._stop.why}"

    def tell(self) -> dict[str, Any]:
        """See `Body.tell`."""
        pad = self._pad
        return {
            "off_road": 0,
            "gamepad": None if pad is None else {"connected": pad.connected, "problem": pad.problem},
            "emergency_switch": self._stop.why,
            "battery_stop": self.unfit(),
        }

    def _pressed(self, press: Press) -> None:
        """On the gamepad's thread."""
        if press == "stop":
            self._wanted = None
            self._stop.press("the gamepad's stop button")
        else:
            presses, stopped = self._stop.presses, bool(self._stop.why)
            # What ends an emergency stop never drives off by itself: by hand the car waits for a hand.
            mode: Mode = "autopilot" if self._mode == "teleop" and not stopped else "teleop"
            self._wanted = mode, presses
