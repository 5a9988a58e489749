"""What of `training.json` goes with an adapter to robots, as its card. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

STAYS: Final = ("refused", "left_out")
"""Told to whoever trained: they name files of that machine, which are nothing to the robots that get the adapter."""


def card_of(training: Mapping[str, Any]) -> dict[str, Any]:
    """The card: everything but where bundles lay, and how they were called."""
    return {name: value for name, value in training.items() if name not in STAYS}
