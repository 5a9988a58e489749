"""Errors of this room."""

from __future__ import annotations

from continuonbrain.errors import BrainError


class ExportRefused(BrainError):
    """Nothing leaves, and nothing was written."""


class NothingToExport(ExportRefused):
    """No episode is left that may leave and can be read."""


class BundleRefused(BrainError):
    """A bundle is not exactly what was signed."""
