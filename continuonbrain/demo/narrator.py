"""Where the demo's story is told."""

from __future__ import annotations

from typing import Any

from continuonbrain.trainer.gates import GateReport


class Narrator:
    """Tells the story. The CLI gives one that draws; this one is silent (tests, --json)."""

    def act(self, number: int, title: str) -> None:
        """A new act begins."""

    def say(self, text: str) -> None:
        """One sentence."""

    def progress(self, title: str, done: int, total: int, note: str = "") -> None:
        """A long step moves on."""

    def gates(self, title: str, report: GateReport) -> None:
        """The gates as they stand."""

    def verdict(self, verdict: dict[str, Any]) -> None:
        """The verdict's table."""

    def scores(self, report: dict[str, Any]) -> None:
        """The summary."""
