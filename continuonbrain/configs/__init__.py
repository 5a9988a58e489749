"""The presets that ship with the package: one complete `config.json` for each kind of robot.

This room only finds the files; `continuonbrain.config` says what a valid one looks like.
"""

from __future__ import annotations

from importlib import resources

from continuonbrain.errors import BrainError

PRESET_NAMES: tuple[str, ...] = ("sim-donkey", "pi5-donkey")


class UnknownPresetError(BrainError):
    """The named preset does not ship with the package."""


def preset_bytes(name: str) -> bytes:
    """The JSON text of a shipped preset.

    Raises:
        UnknownPresetError: no preset has this name.
    """
    if name not in PRESET_NAMES:
        raise UnknownPresetError(
            f"preset {name!r} does not exist", remedy=f"use one of: {', '.join(PRESET_NAMES)}"
        )
    return resources.files(__package__).joinpath(f"{name}.json").read_bytes()
