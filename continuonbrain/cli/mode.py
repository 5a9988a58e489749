"""`continuonbrain mode`: who drives now, told to the running control process."""

from __future__ import annotations

from typing import Annotated

import typer

from continuonbrain.brain_root import open_brain
from continuonbrain.cli.root_option import DEFAULT_ROOT, RootOption
from continuonbrain.errors import BrainError
from continuonbrain.loops.drive_session import command_control
from continuonbrain.loops.loop_tick import MODES
from continuonbrain.storage.layout import BrainLayout

_WAYS = (*MODES, "teach", "stop")


def mode(
    wanted: Annotated[str, typer.Argument(help=f"One of {', '.join(_WAYS)}.")],
    root: RootOption = DEFAULT_ROOT,
    instruction: Annotated[
        str | None, typer.Option("--instruction", help='What the autopilot is told, as "keep left".')
    ] = None,
    record: Annotated[
        bool | None,
        typer.Option(
            "--record/--no-record",
            help="Record what a person drives by hand as lessons, until told otherwise.",
        ),
    ] = None,
) -> None:
    """Give the running robot a mode: autopilot, teleop (a person drives), assisted (the autopilot drives, a person
    corrects) or park; stop is an emergency stop. teach lets the simulator's own driver teach a simulated one, and its
    life go on by itself."""
    if wanted not in _WAYS:
        raise BrainError(f"there is no mode {wanted!r}", remedy=f"one of: {', '.join(_WAYS)}")
    # A stop needs no settings that can be read, and nothing here a base that is there.
    layout = BrainLayout(root) if wanted == "stop" else open_brain(root, slot="").layout
    if instruction is not None:
        command_control(layout, {"type": "instruct", "instruction": instruction})
    if record is not None:
        command_control(layout, {"type": "record", "on": record, "what": "lessons"})
    command = {"type": "stop"} if wanted == "stop" else {"type": "mode", "mode": wanted}
    said = command_control(layout, command)
    ended = "the next mode ends the stop" if wanted == "stop" else ""
    typer.echo("; ".join(filter(None, [f"told: {wanted}", said, ended])))
