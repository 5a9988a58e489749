"""What became of an episode in training: by cards and verdicts of the adapters that were taught by it."""

from __future__ import annotations

from typing import Literal

from continuonbrain.loops.at_work import paper_of
from continuonbrain.loops.slow_adapter import SLOW, card_of, names_in
from continuonbrain.storage.adapter_reader import AdapterReader

Fate = Literal["", "unjudged", "refused", "passed", "drives"]
FATES: tuple[Fate, ...] = ("", "unjudged", "refused", "passed", "drives")
"""From least to most: no adapter was taught by it; one was and has no verdict yet; one was refused; one passed and does
not drive; what drives now was (the slow adapter below it, too)."""


def fates(store: AdapterReader) -> dict[str, Fate]:
    """Of every episode that an adapter was taught by, by name: the most that became of it. Raises `AdapterError`."""
    current = store.current()
    driving = set() if current is None else {current.version_id, str(card_of(current).get(SLOW, ""))}
    found: dict[str, Fate] = {}
    for version in store.list():
        verdict = paper_of(version.verdict)
        fate: Fate = (
            "unjudged" if verdict is None else "passed" if verdict.get("passed") is True else "refused"
        )
        if version.version_id in driving:
            fate = "drives"
        for name in names_in(card_of(version), "episodes"):
            if FATES.index(fate) > FATES.index(found.get(name, "")):
                found[name] = fate
    return found
