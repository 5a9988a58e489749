"""Reason codes: why the guard changed or refused a command.

The codes are written to the `safety_violations` key of a recorded step, so they are part of the
episode format: add new ones, never rename one.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """One reason for an intervention of the guard; the value is what is recorded."""

    # Corrections: the command is followed as far as the limits allow.
    STEERING_BOUND = "steering_bound"
    THROTTLE_BOUND = "throttle_bound"
    STEERING_SLEW = "steering_slew"
    STEERING_JERK = "steering_jerk"
    THROTTLE_SLEW = "throttle_slew"
    SAFETY_HEAD_WARN = "safety_head_warn"

    # Stops: the command is not followed at all.
    NOT_FINITE = "not_finite"
    WRONG_KEYS = "wrong_keys"
    WRONG_TYPE = "wrong_type"
    NO_PATH = "no_path"
    STALE_PATH = "stale_path"
    DEADMAN = "deadman"
    CLOCK = "clock"
    EMERGENCY_STOP = "emergency_stop"
    INSTRUCTION_STOP = "instruction_stop"
    SENSOR_FAULT = "sensor_fault"
    LOW_BATTERY = "low_battery"
    SAFETY_HEAD_BLOCK = "safety_head_block"
    WORLD_HEAD_VETO = "world_head_veto"


CORRECTIONS: frozenset[Reason] = frozenset(
    {
        Reason.STEERING_BOUND,
        Reason.THROTTLE_BOUND,
        Reason.STEERING_SLEW,
        Reason.STEERING_JERK,
        Reason.THROTTLE_SLEW,
        Reason.SAFETY_HEAD_WARN,
    }
)
"""Reasons after which the robot still follows the command."""

STOPS: frozenset[Reason] = frozenset(Reason) - CORRECTIONS
"""Reasons that give the safe stop."""

NOBODY_DRIVES: frozenset[Reason] = STOPS - {Reason.INSTRUCTION_STOP}
"""Stops in which no person drives, whatever they ask for: what holds the robot is not what it was told."""

HEADS: frozenset[Reason] = frozenset(
    {Reason.SAFETY_HEAD_WARN, Reason.SAFETY_HEAD_BLOCK, Reason.WORLD_HEAD_VETO}
)
"""Reasons that a head gives, not the guard's own rules."""
