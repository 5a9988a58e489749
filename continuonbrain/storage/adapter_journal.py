"""The steps of a change of the adapter in use: history first, then links; repeated from there after a crash.

All are idempotent. Whoever calls them holds the store's lock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping

from continuonbrain.storage import durable
from continuonbrain.storage.adapter_links import AdapterLinks
from continuonbrain.storage.adapter_version import LAST_PROMOTION_FILE, AdapterError
from continuonbrain.storage.history import HistoryCheck, HistoryEntry, next_entry, parse_history
from continuonbrain.storage.layout import BrainLayout


class AdapterJournal:
    """The history of one brain root, and the links that follow it."""

    def __init__(
        self, layout: BrainLayout, links: AdapterLinks, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._layout = layout
        self._links = links
        self._wall_clock = wall_clock

    def read(self) -> tuple[tuple[HistoryEntry, ...], HistoryCheck]:
        """The sound entries, and what is wrong behind them. Raises AdapterError when the file cannot be read."""
        try:
            return parse_history(durable.read_whole_lines(self._layout.history_path))
        except (OSError, UnicodeDecodeError) as error:
            raise AdapterError(
                f"{self._layout.history_path} cannot be read: {error}",
                remedy="look at the file; restore it from a backup, or move it away to start a new history",
            ) from error

    def sound(self) -> tuple[HistoryEntry, ...]:
        """All entries. Raises AdapterError when one of them is damaged."""
        entries, check = self.read()
        if not check.ok:
            raise AdapterError(
                f"{self._layout.history_path} {check.problem}",
                remedy="what drives stays as it is; look at the file, then move it away to start a new history",
            )
        return entries

    def change(
        self,
        event: str,
        *,
        to: str | None,
        previous: str | None,
        sha256: str | None,
        verdict: Mapping[str, object] | None = None,
        about: Mapping[str, object] | None = None,
    ) -> HistoryEntry:
        """Write a change down and make it. Raises AdapterError, OSError."""
        entries = self.sound()
        entry = next_entry(
            entries[-1] if entries else None,
            event=event,
            to_version=to,
            from_version=previous,
            sha256=sha256,
            verdict=verdict,
            about=about,
            time_unix_s=round(self._wall_clock(), 3),
        )
        durable.append_line_durably(self._layout.history_path, entry.to_json_line())
        self._settle(entry)
        return entry

    def _settle(self, entry: HistoryEntry) -> None:
        self._links.point(self._layout.previous, entry.from_version)
        self._links.point(self._layout.current, entry.to_version)

    def recover(self) -> bool:
        """Finish what a crash interrupted; whether there was something. Raises AdapterError, OSError."""
        entries = self.sound()
        if not entries:
            return False
        last = entries[-1]
        current_id = self._links.target_id(self._layout.current)
        previous_id = self._links.target_id(self._layout.previous)
        if (current_id, previous_id) == (last.to_version, last.from_version):
            return self.finish_promotion(last)
        if self._links.is_whole(last.to_version, last.sha256):
            self._settle(last)
            self.finish_promotion(last)
            return True
        # What was to drive is gone or damaged: stay with what drives, and say so in the history.
        current = None if current_id is None else self._links.get(current_id)
        self.change(
            "abandon",
            to=current_id,
            previous=previous_id,
            sha256=None if current is None else current.compute_sha256(),
        )
        return True

    def finish_promotion(self, entry: HistoryEntry) -> bool:
        """What comes after the links: the ecosystem's record beside the adapter, and no candidate any more that drives
        already. Whether any of it was missing."""
        if entry.event != "promote" or entry.to_version is None or entry.sha256 is None:
            return False
        missing = False
        path = self._layout.versions_dir / entry.to_version / LAST_PROMOTION_FILE
        if path.parent.is_dir() and not _is_of(path.read_bytes() if path.is_file() else b"", entry.sha256):
            record = {
                "timestamp_unix_s": int(self._wall_clock()),
                "current_path": str(self._layout.current),
                "sha256": entry.sha256,
            }
            durable.write_json_durably(path, record)
            missing = True
        if self._links.target_id(self._layout.candidate) == entry.to_version:
            durable.remove_durably(self._layout.candidate)
            missing = True
        return missing


def _is_of(record: bytes, sha256: str) -> bool:
    try:
        return bool(json.loads(record)["sha256"] == sha256)
    except (ValueError, KeyError, TypeError):
        return False
