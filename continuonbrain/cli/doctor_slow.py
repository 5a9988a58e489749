"""The doctor's look at what the docked robot did last."""

from __future__ import annotations

import json
import time
from pathlib import Path

from continuonbrain.cli.doctor_check import Check

_LATE = 3
"""Times `slow.every_h` after which a robot was not docked for too long."""


def check_slow(root: Path) -> list[Check]:
    """The last docked round: when, what failed, how many episodes stand for all; [] where none was due yet."""
    from continuonbrain.brain_root import open_brain
    from continuonbrain.errors import BrainError
    from continuonbrain.loops.remembering import read_reservoir

    brain = open_brain(root)
    layout, rules = brain.layout, brain.config.slow
    by_hand = "continuonbrain consolidate"
    try:
        kept = len(read_reservoir(layout.reservoir_path).kept)
    except BrainError as error:
        return [Check("docked work", False, error.message, error.remedy)]
    try:
        told = json.loads(layout.slow_path.read_bytes())
        began, parts = (
            float(told["began_unix_s"]),
            [(p["name"], p["outcome"], p["detail"]) for p in told["parts"]],
        )
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [
            Check(
                "docked work",
                False,
                f"{layout.slow_path} cannot be read: {error!r}",
                f"remove it, then: {by_hand}",
            )
        ]
    hours = (time.time() - began) / 3600
    value = f"{hours:.0f} hours ago; {kept} episodes stand for all"
    failed = [f"{name}: {detail}" for name, outcome, detail in parts if outcome == "failed"]
    if failed:
        return [
            Check("docked work", False, f"{value}; failed: {failed[0]}", f"put that right, then: {by_hand}")
        ]
    if rules.enabled and hours > _LATE * rules.every_h:
        return [Check("docked work", False, value, f"dock the robot, or: {by_hand}", needed=False)]
    return [Check("docked work", True, value)]
