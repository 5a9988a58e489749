"""continuonbrain: an offline brain for a small robot. See docs/architecture.md for the way through."""

__version__ = "0.1.0"
