"""What the control process is told on its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TRACK_SEED = 9001


@dataclass(frozen=True, slots=True)
class ControlOptions:
    """What the command line says. shift None: as config.json says. seconds None: until told to stop."""

    shift: str | None = None
    track: int = TRACK_SEED
    seed: int = 0
    instruction: str = "drive"
    seconds: float | None = None
    record: bool = True
    cycle: bool = False
    park: bool = False


def options_of(arguments: Sequence[str] | None, *, description: str | None) -> tuple[Path, ControlOptions]:
    """The brain root and the options of a command line; None: of this process. Ends it where they make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m continuonbrain.loops.control_process", description=description
    )
    parser.add_argument("--root", type=Path, required=True, help="brain root")
    parser.add_argument(
        "--shift", help="how the simulated robot differs (default: robot.shift of the config)"
    )
    parser.add_argument("--track", type=int, default=TRACK_SEED, help="seed of the track")
    parser.add_argument("--seed", type=int, default=0, help="seed of noise and lessons")
    parser.add_argument("--instruction", default="drive")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--no-record", action="store_true", help="do not write episodes of what is driven")
    parser.add_argument("--cycle", action="store_true", help="teach, park and learn, drive, and again")
    parser.add_argument("--park", action="store_true", help="stand until a person gives it a mode")
    given = parser.parse_args(arguments)
    return given.root, ControlOptions(
        given.shift,
        given.track,
        given.seed,
        given.instruction,
        given.seconds,
        not given.no_record,
        given.cycle,
        given.park,
    )
