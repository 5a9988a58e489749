"""What a probation came to, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from continuonbrain.brain_root import BrainRoot
from continuonbrain.storage.adapter_version import AdapterVersion
from continuonbrain.storage.history import HistoryEntry
from continuonbrain.storage.probation_rule import PROBATION


def told_of(brain: BrainRoot) -> dict[str, Any]:
    """How far the probation is. Raises `AdapterError`."""
    from continuonbrain.loops.probation import progress

    return progress(brain)


def in_words(probation: Mapping[str, Any]) -> str:
    """`progress` as one line."""
    words = [f"on probation: {probation['ticks']} of {probation['of_ticks']} ticks"]
    if probation["of_minutes"]:
        words.append(f"{probation['minutes']:.1f} of {probation['of_minutes']:g} minutes of driving")
    words += [f"{count} x {name}" for name, count in probation["incidents"].items()]
    if probation["restarts"]:
        words.append(f"policy process started {probation['restarts']} times")
    return ", ".join(words)


def fate(entries: Sequence[HistoryEntry], version: AdapterVersion) -> str:
    """What became of a version since its last promotion, "" when it was never promoted."""
    told = ""
    for entry in entries:
        mine = entry.to_version == version.version_id
        if entry.event == "promote" and mine:
            again = ", once more by hand" if entry.about.get("again") else ""
            told = f"on probation{again}" if PROBATION in entry.about else f"promoted{again}"
        elif entry.event == "confirm" and mine:
            told = f"confirmed ({_why(entry)})"
        elif entry.about.get("reverted") == version.version_id:
            by = "by hand" if entry.event == "rollback" else _why(entry)
            told = f"taken back ({by})"
        elif entry.event == "rollback" and entry.from_version == version.version_id:
            told = "rolled back"
        elif entry.event == "rollback" and mine:
            told = "rolled back to"
    return told


def _why(entry: HistoryEntry) -> str:
    return str(entry.about.get("words") or entry.about.get("reason") or "no reason noted")
