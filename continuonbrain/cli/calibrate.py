"""`continuonbrain calibrate`: find the pulses of a car's steering and throttle, and write them into config.json."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.root_option import DEFAULT_ROOT, RootOption
from continuonbrain.config import BrainConfig, PwmConfig, edited_config
from continuonbrain.errors import BrainError
from continuonbrain.robot.donkey.calibration import Calibration, CalibrationLeft
from continuonbrain.robot.donkey.i2c import RetryingBus, asked_chip, open_bus
from continuonbrain.robot.donkey.ina219 import CONFIGURATION as GAUGE_REGISTER
from continuonbrain.robot.donkey.pca9685 import Pca9685
from continuonbrain.storage.durable import write_json_durably
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.lock import ProcessLock, is_held


def calibrate(
    root: RootOption = DEFAULT_ROOT,
    off: Annotated[
        bool,
        typer.Option("--off", help="Only switch all pulses off: a car that a killed process left driving."),
    ] = False,
) -> None:
    """Find the pulses of a car's steering and throttle, wheels off the ground. Writes them into config.json."""
    console = Console(highlight=False, soft_wrap=True)
    if off:
        _switch_off(root, console)
        return
    brain = open_brain(root, slot="")  # which base drives is nothing to a servo
    config, layout = brain.config, brain.layout
    _need_donkey(config, layout.config_path)
    with (
        ProcessLock(layout.brain_lock_path, purpose=f"calibrate the car of {layout.root}"),
        closing(open_bus(config.donkey.pwm.i2c_bus)) as bus,
    ):
        found = Calibration(
            _chip(bus, config.donkey.pwm),
            config.donkey,
            ask=_ask,
            say=lambda text: console.print(text, markup=False),
        ).walk()
        if config.power == "battery" and config.battery == "gauge":
            found |= _gauge(bus, config, console)
        # Read again: a person may have edited it meanwhile. It is checked whole before the file is touched.
        write_json_durably(layout.config_path, edited_config(layout.config_path, found))
    console.print(f"calibrated: {layout.config_path}", markup=False)


def _gauge(bus: RetryingBus, config: BrainConfig, console: Console) -> dict[str, object]:
    """What is to be set where no gauge answers: a car without one would stop after seconds, as if its battery were
    empty."""
    address = config.donkey.gauge.address
    if told := asked_chip(bus, address, GAUGE_REGISTER, 2):
        console.print(f"No battery gauge (INA219) answers at {address:#04x}: {told}", markup=False)
    else:
        console.print(f"battery gauge: answers at {address:#04x}")
        return {}
    try:
        answer = _ask('Has this car one? (no: sets "battery" to "none"; Enter: leaves it as it is) ')
    except CalibrationLeft:  # nobody is there any more: what was found is kept all the same
        answer = ""
    if answer.strip().lower() in ("no", "n"):
        console.print("Nothing tells when the battery is empty: look at it yourself.")
        return {"battery": "none"}
    console.print("Until it answers, the car stops some seconds after each start.")
    return {}


def _switch_off(root: Path, console: Console) -> None:
    """No pulses, whatever state the settings are in: off is always safe."""
    layout, pwm = BrainLayout(root), PwmConfig()
    try:
        config = open_brain(root, slot="").config  # a base that is not there is no reason to miss the chip
    except BrainError as error:
        console.print(
            f"{error}\n"
            f"--off goes on with bus {pwm.i2c_bus} and address {pwm.address:#04x}, where a car's chip usually is",
            markup=False,
        )
    else:
        _need_donkey(config, layout.config_path)
        pwm = config.donkey.pwm
    with closing(open_bus(pwm.i2c_bus)) as bus:
        _chip(bus, pwm).all_off()
    console.print("all pulses are off")
    if is_held(layout.brain_lock_path):
        raise BrainError(
            f"a control process still drives the car of {root} and may set pulses again",
            remedy="end it: systemctl stop continuonbrain-control, or Ctrl-C where it was started",
        )


def _chip(bus: RetryingBus, pwm: PwmConfig) -> Pca9685:
    return Pca9685(bus, pwm.address, frequency_hz=pwm.frequency_hz, oscillator_hz=pwm.oscillator_hz)


def _need_donkey(config: BrainConfig, config_path: Path) -> None:
    if config.robot.kind != "donkey":
        raise BrainError(
            f"{config_path}: robot.kind = {config.robot.kind!r} has nothing to calibrate",
            remedy='set robot.kind to "donkey", or make a root with: continuonbrain init --preset pi5-donkey',
        )


def _ask(question: str) -> str:
    try:
        return input(question)
    except EOFError:
        raise CalibrationLeft(
            "calibration: there is nobody to ask, nothing was changed", remedy="run it in a terminal"
        ) from None
