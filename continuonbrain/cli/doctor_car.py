"""The doctor's look at what a donkey car needs, on whatever computer it is asked."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cli.doctor_check import Check
from continuonbrain.errors import BrainError, installing
from continuonbrain.robot.donkey.i2c import RetryingBus, asked_chip, open_bus
from continuonbrain.robot.donkey.ina219 import CONFIGURATION
from continuonbrain.robot.donkey.pca9685 import MODE1
from continuonbrain.storage.lock import is_held

_CAMERAS = {"picamera2": ("picamera2", "sudo apt install python3-picamera2"), "v4l2": ("cv2", "")}


def check_car(
    root: Path, *, top: Path = Path("/"), opened: Callable[[int], RetryingBus] = open_bus
) -> list[Check]:
    """Calibration, bus, chips, and the Python modules of the parts that config.json switches on; [] for another robot.

    None of them fails the doctor: a root may be looked at, or learn from recordings, away from its car.
    """
    from continuonbrain.brain_root import open_brain

    brain = open_brain(root)
    if brain.config.robot.kind != "donkey":
        return []
    donkey = brain.config.donkey
    bus = top / f"dev/i2c-{donkey.pwm.i2c_bus}"
    by_hand = "run it on the car, wheels off the ground: continuonbrain calibrate"
    rows = [
        Check(
            "calibration",
            donkey.calibrated,
            "done" if donkey.calibrated else "not yet",
            by_hand,
            needed=False,
        ),
        Check(
            "i2c",
            bus.exists(),
            str(bus) if bus.exists() else f"{bus} is not there",
            "sudo raspi-config nonint do_i2c 0 (or dtparam=i2c_arm=on), then reboot",
            needed=False,
        ),
    ]
    module, by_apt = _CAMERAS.get(donkey.camera.backend, ("cv2", ""))
    wanted = [("i2c module", "smbus2", ""), ("camera module", module, by_apt)]
    if donkey.gamepad.enabled:
        wanted.append(("gamepad", "evdev", "sudo apt install python3-evdev"))
    if donkey.stop_button.pin is not None:
        wanted.append(("stop button", "gpiozero", ""))
    for what, name, remedy in wanted:
        there = importlib.util.find_spec(name) is not None
        told = name if there else f"the Python module {name} is missing"
        rows.append(Check(what, there, told, remedy or installing("pi"), needed=False))
    return rows + (_chips(brain, opened) if bus.exists() else [])


def _chips(brain: BrainRoot, opened: Callable[[int], RetryingBus]) -> list[Check]:
    """Whether the chips answer; asked only while no process drives the car."""
    config, donkey = brain.config, brain.config.donkey
    wanted = [("motor chip", "PCA9685", donkey.pwm.address, MODE1, 1, "check its wires and power")]
    if config.power == "battery" and config.battery == "gauge":
        remedy = 'check its wires; a car without one: "battery": "none" in config.json'
        wanted.append(("battery gauge", "INA219", donkey.gauge.address, CONFIGURATION, 2, remedy))
    if is_held(brain.layout.brain_lock_path):
        words = "not asked: a process holds the car, and has a fault of its own when a chip is silent"
        return [Check(name, True, words, needed=False) for name, *_ in wanted]
    try:
        bus = opened(donkey.pwm.i2c_bus)
    except BrainError as error:
        return [Check(name, False, error.message, error.remedy, needed=False) for name, *_ in wanted]
    rows = []
    with closing(bus):
        for name, chip, address, register, n, remedy in wanted:
            silence = asked_chip(bus, address, register, n)
            told = silence or f"{chip} answers at {address:#04x}"
            rows.append(Check(name, not silence, told, remedy, needed=False))
    return rows
