"""`continuonbrain calibrate`: find the pulses of a car's steering and throttle, and write them into config.json."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer
from rich.console import Console

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.root_option import DEFAULT_ROOT, RootOption
from continuonbrain.errors import BrainError
from continuonbrain.robot.donkey.calibration import Calibration, CalibrationLeft
from continuonbrain.robot.donkey.i2c import open_bus
from continuonbrain.robot.donkey.pca9685 import Pca9685
from continuonbrain.storage.durable import write_json_durably
from continuonbrain.storage.lock import ProcessLock


def calibrate(
    root: RootOption = DEFAULT_ROOT,
    off: Annotated[
        bool,
        typer.Option("--off", help="Only switch all pulses off: a car that a killed process left driving."),
    ] = False,
) -> None:
    """Find the pulses of a car's steering and throttle, wheels off the ground. Writes them into config.json."""
    console = Console(highlight=False, soft_wrap=True)
    brain = open_brain(root)
    config, layout = brain.config, brain.layout
    if config.robot.kind != "donkey":
        raise BrainError(
            f"{layout.config_path}: robot.kind = {config.robot.kind!r} has nothing to calibrate",
            remedy='set robot.kind to "donkey", or make a root with: continuonbrain init --preset pi5-donkey',
        )
    pwm = config.donkey.pwm
    with (
        ProcessLock(layout.brain_lock_path, purpose=f"calibrate the car of {layout.root}"),
        closing(open_bus(pwm.i2c_bus)) as bus,
    ):
        chip = Pca9685(bus, pwm.address, frequency_hz=pwm.frequency_hz, oscillator_hz=pwm.oscillator_hz)
        if off:
            chip.all_off()
            console.print("all pulses are off")
            return
        found = Calibration(
            chip, config.donkey, ask=_ask, say=lambda text: console.print(text, markup=False)
        ).walk()
        # The config is checked whole before the file is touched: an order that makes no sense is said here.
        wanted = config.with_overrides(found)
        write_json_durably(layout.config_path, wanted.model_dump(mode="json"))
    console.print(f"calibrated: {layout.config_path}", markup=False)


def _ask(question: str) -> str:
    try:
        return input(question)
    except EOFError:
        raise CalibrationLeft(
            "calibration: there is nobody to ask, nothing was changed", remedy="run it in a terminal"
        ) from None
