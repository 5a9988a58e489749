"""The doctor's look at what a donkey car needs, on whatever computer it is asked."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from continuonbrain.cli.doctor import Check
from continuonbrain.errors import installing

_CAMERAS = {"picamera2": ("picamera2", "sudo apt install python3-picamera2"), "v4l2": ("cv2", "")}


def check_car(root: Path, *, top: Path = Path("/")) -> list[Check]:
    """Calibration, bus, and the Python modules of the parts that config.json switches on; [] for another robot.

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
            "I2C bus",
            bus.exists(),
            str(bus) if bus.exists() else f"{bus} is not there",
            "enable I2C: sudo raspi-config, or dtparam=i2c_arm=on",
            needed=False,
        ),
    ]
    module, by_apt = _CAMERAS.get(donkey.camera.backend, ("cv2", ""))
    wanted = [("chips", "smbus2", ""), ("camera", module, by_apt)]
    if donkey.gamepad.enabled:
        wanted.append(("gamepad", "evdev", "sudo apt install python3-evdev"))
    if donkey.stop_button.pin is not None:
        wanted.append(("stop button", "gpiozero", ""))
    for what, name, remedy in wanted:
        there = importlib.util.find_spec(name) is not None
        told = name if there else f"the Python module {name} is missing"
        rows.append(Check(what, there, told, remedy or installing("pi"), needed=False))
    return rows
