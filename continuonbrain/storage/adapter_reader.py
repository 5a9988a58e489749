"""Reading the adapter store: versions, slots, history, and what drives."""

from __future__ import annotations

from typing import Literal

from continuonbrain.storage.adapter_journal import AdapterJournal
from continuonbrain.storage.adapter_links import AdapterLinks
from continuonbrain.storage.adapter_version import AdapterError, AdapterVersion
from continuonbrain.storage.history import HistoryCheck, HistoryEntry
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.probation_rule import Standing, standing


class AdapterReader:
    """What one brain root's store says. Reading needs no lock: a version never changes, a name changes in one step."""

    def __init__(self, layout: BrainLayout) -> None:
        self._layout = layout
        self._links = AdapterLinks(layout)
        self._journal = AdapterJournal(layout, self._links)

    @property
    def layout(self) -> BrainLayout:
        """The root whose adapters these are."""
        return self._layout

    def list(self) -> tuple[AdapterVersion, ...]:
        """All versions, oldest first. Raises AdapterError when the folder cannot be read."""
        return self._links.versions()

    def get(self, version_id: str) -> AdapterVersion:
        """The version with this id. Raises AdapterError when there is none."""
        return self._links.get(version_id)

    def current(self) -> AdapterVersion | None:
        """The adapter that drives; None is the base model alone. Raises AdapterError when damaged."""
        return self._links.version(self._layout.current)

    def current_id(self) -> str | None:
        """What `current` names, whether that is there or not. Raises AdapterError for a link of somebody else."""
        return self._links.target_id(self._layout.current)

    def candidate_id(self) -> str | None:
        """What `candidate` names, whether that is there or not. Raises AdapterError for a link of somebody else."""
        return self._links.target_id(self._layout.candidate)

    def candidate(self) -> AdapterVersion | None:
        """The adapter that waits for a verdict or a promotion. Raises AdapterError when damaged."""
        return self._links.version(self._layout.candidate)

    def previous(self) -> AdapterVersion | None:
        """What `rollback` returns to; None is the base model alone. Raises AdapterError when damaged."""
        return self._links.version(self._layout.previous)

    def find(self, name: str) -> AdapterVersion:
        """A version by its id, or by the slot that it stands in. `AdapterError` when there is none."""
        slots = {"current": self.current, "candidate": self.candidate, "previous": self.previous}
        if name not in slots:
            return self.get(name)
        found = slots[name]()
        if found is None:
            raise AdapterError(
                f"there is no {name} adapter"
                + (": the base model drives alone" if name == "current" else ""),
                remedy=f"continuonbrain adapters list --root {self.layout.root}",
            )
        return found

    def history(self) -> tuple[HistoryEntry, ...]:
        """The sound entries of the history, oldest first. Raises AdapterError when it cannot be read."""
        return self._journal.read()[0]

    def verify_history(self) -> HistoryCheck:
        """Check the hash chain from its first entry on. Raises AdapterError when it cannot be read."""
        return self._journal.read()[1]

    def last_change(self) -> HistoryEntry | None:
        """The newest entry of the history, also one that a crash interrupted. Raises AdapterError."""
        entries = self._journal.sound()
        return entries[-1] if entries else None

    def standing(self) -> Standing:
        """What drives and whether it is on probation, as the history says; of a root that has none, as the links say.

        Raises AdapterError when either is damaged.
        """
        entries = self._journal.sound()
        if entries:
            return standing(entries)
        current, previous = (
            self._links.target_id(slot) for slot in (self._layout.current, self._layout.previous)
        )
        kind: Literal["base", "confirmed"] = "base" if current is None else "confirmed"
        return Standing(kind, current, None, previous)
