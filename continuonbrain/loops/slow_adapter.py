"""Which slow adapter lies below what drives now: said by the cards, so that it follows every promotion and rollback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from continuonbrain.storage.adapter_reader import AdapterReader
from continuonbrain.storage.adapter_version import AdapterError, AdapterVersion

KIND: Final = "kind"
SLOW: Final = "slow"
"""Keys of a card: "slow" for a consolidation; of a fast adapter, the version that lies below it."""


@dataclass(frozen=True, slots=True)
class SlowAdapter:
    """A consolidated adapter, and the episodes that it has learned from, or could have."""

    version: AdapterVersion
    considered: frozenset[str]

    def recent(self, episodes: list[Path], *, least: int) -> list[Path]:
        """Of episodes in order of time those that came since, and at least so many of the newest."""
        since = [p for p in episodes if p.name not in self.considered]
        return since if len(since) >= least else episodes[-least:]


def card_of(version: AdapterVersion | None) -> dict[str, Any]:
    """A version's card; {} where it has none that can be read."""
    try:
        return (version.card() if version is not None else None) or {}
    except AdapterError:
        return {}


def names_in(card: Mapping[str, Any], key: str) -> list[str]:
    """The episodes that a card names under a key; [] where it says something else there."""
    value = card.get(key)
    return [str(name) for name in value] if isinstance(value, list) else []


def standing_slow(store: AdapterReader) -> SlowAdapter | None:
    """The slow adapter of what drives now: itself, or the one below it; None where none has been made, or where it is
    not whole any more: then the next one is trained from the base, on all lessons."""
    current = store.current()
    if current is None:
        return None
    card = card_of(current)
    version = current
    if card.get(KIND) != SLOW:
        named = card.get(SLOW)
        if not isinstance(named, str) or not named:
            return None
        try:
            version = store.get(named)
            card = card_of(version)
        except AdapterError:
            return None
        if card.get(KIND) != SLOW:
            return None
    try:
        version.whole_sha256()
    except AdapterError:
        return None
    return SlowAdapter(version, frozenset(names_in(card, "considered")))
