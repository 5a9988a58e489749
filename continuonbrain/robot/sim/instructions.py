"""The instructions that the simulated driver understands, and what obeying each one means.

An instruction has a cruise speed, a place on the road and several phrasings. The phrasings under `HELD_OUT`
are never used to build the base model: they show whether it reads, or has only memorised.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instruction:
    """name: key. speed_mps: cruise speed. lateral: place on the road in half-widths, +1 the left edge."""

    name: str
    speed_mps: float
    lateral: float
    phrasings: tuple[str, ...]


_LEFT, _RIGHT = 0.45, -0.45

INSTRUCTIONS: tuple[Instruction, ...] = (
    Instruction("drive", 1.0, 0.0, ("drive", "drive on the road", "go", "follow the road", "drive on")),
    Instruction(
        "drive slowly", 0.5, 0.0, ("drive slowly", "go slowly", "slowly please", "slow down", "drive slow")
    ),
    Instruction(
        "drive fast", 1.5, 0.0, ("drive fast", "go fast", "faster please", "speed up", "drive faster")
    ),
    Instruction(
        "keep left",
        1.0,
        _LEFT,
        ("keep left", "drive on the left", "stay left", "keep to the left", "left side please"),
    ),
    Instruction(
        "keep right",
        1.0,
        _RIGHT,
        ("keep right", "drive on the right", "stay right", "keep to the right", "right side please"),
    ),
    Instruction(
        "drive slowly keep left",
        0.5,
        _LEFT,
        (
            "drive slowly keep left",
            "go slowly on the left",
            "slowly keep left",
            "keep left slowly",
            "slow down and stay left",
        ),
    ),
    Instruction(
        "drive slowly keep right",
        0.5,
        _RIGHT,
        (
            "drive slowly keep right",
            "go slowly on the right",
            "slowly keep right",
            "keep right slowly",
            "slow down and stay right",
        ),
    ),
    Instruction("stop", 0.0, 0.0, ("stop", "please stop", "stop now", "halt", "stand still")),
)

HELD_OUT: dict[str, tuple[str, ...]] = {
    "drive": ("go on", "drive please"),
    "drive slowly": ("go slow", "drive slowly please"),
    "keep left": ("keep on the left", "stay on the left side"),
    "keep right": ("keep on the right", "stay on the right side"),
    "stop": ("stop please", "halt now"),
}

NAMES: tuple[str, ...] = tuple(i.name for i in INSTRUCTIONS)
BY_NAME: dict[str, Instruction] = {i.name: i for i in INSTRUCTIONS}
BY_PHRASING: dict[str, Instruction] = {
    **{p: i for i in INSTRUCTIONS for p in i.phrasings},
    **{p: BY_NAME[n] for n, ps in HELD_OUT.items() for p in ps},
}
