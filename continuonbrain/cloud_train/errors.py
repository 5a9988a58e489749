"""Errors of this room."""

from __future__ import annotations

from continuonbrain.errors import BrainError


class TrainRefused(BrainError):
    """What was asked for cannot be trained. Nothing was begun."""


class TrainInterrupted(BrainError):
    """A worker ended before its time. What it had saved is still there."""


class FitRefused(BrainError):
    """An adapter cannot be brought into the robot's shape as asked."""
