"""The steps of a change of the adapter in use: history first, then links; repeated from there after a crash.

All are idempotent. Whoever calls them holds the store's lock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from continuonbrain.storage import durable
from continuonbrain.storage.adapter_links import AdapterLinks
from continuonbrain.storage.adapter_version import LAST_PROMOTION_FILE, AdapterError
from continuonbrain.storage.history import (
    HistoryCheck,
    HistoryEntry,
    HistoryHead,
    end_problem,
    next_entry,
    parse_history,
)
from continuonbrain.storage.layout import BrainLayout

_READ_TRIES = 20
"""Readers hold no lock."""


class AdapterJournal:
    """The history of one brain root, and the links that follow it."""

    def __init__(
        self, layout: BrainLayout, links: AdapterLinks, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._layout = layout
        self._links = links
        self._wall_clock = wall_clock

    def read(self) -> tuple[tuple[HistoryEntry, ...], HistoryCheck]:
        """The sound entries, and what is wrong behind them. Raises AdapterError when a file cannot be read."""
        try:
            head, told = self._head()
            for _ in range(_READ_TRIES):
                lines = durable.read_whole_lines(self._layout.history_path)
                before, (head, told) = head, self._head()
                if head == before:  # nothing was added while both were read
                    break
            else:
                raise AdapterError(f"{self._layout.history_path} is being changed", remedy="try again")
        except (OSError, UnicodeDecodeError) as error:
            raise AdapterError(
                f"{self._layout.history_path} cannot be read: {error}", remedy=self._remedy
            ) from error
        entries, check = parse_history(lines)
        if check.ok and (problem := told or end_problem(entries, head)):
            check = HistoryCheck(entries=len(entries), problem=problem)
        return entries, check

    @property
    def _remedy(self) -> str:
        return (
            f"what drives stays as it is; restore it and {self._layout.history_head_path.name} from a backup; or move "
            f"both and the link {self._layout.current.name} beside them away: the base drives and a new history begins"
        )

    def _head(self) -> tuple[HistoryHead | None, str]:
        try:
            return HistoryHead.parse(self._layout.history_head_path.read_text(encoding="utf-8")), ""
        except FileNotFoundError:
            return None, ""
        except (ValueError, KeyError, TypeError) as error:  # not UTF-8 is a ValueError, too
            return None, f"may have been cut off: {self._layout.history_head_path.name} is damaged ({error})"

    def _keep_head(self, entry: HistoryEntry) -> None:
        head = HistoryHead.of(entry)
        if self._head()[0] != head:
            durable.write_json_durably(self._layout.history_head_path, head.to_json())

    def _try_to_keep_head(self, entry: HistoryEntry) -> None:
        """On a full disk it stays one behind, which no change is undone for; the next one catches up first."""
        with suppress(OSError):
            self._keep_head(entry)

    def sound(self) -> tuple[HistoryEntry, ...]:
        """All entries. Raises AdapterError when one of them is damaged."""
        entries, check = self.read()
        if not check.ok:
            raise AdapterError(f"{self._layout.history_path} {check.problem}", remedy=self._remedy)
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
        if entries:  # after a crash; never two behind
            self._keep_head(entries[-1])
        durable.append_line_durably(self._layout.history_path, entry.to_json_line())
        self._settle(entry)
        self._try_to_keep_head(entry)
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
        self._try_to_keep_head(last)
        current_id = self._links.target_id(self._layout.current)
        links = (current_id, self._links.own_id(self._layout.previous))
        if links == (last.to_version, last.from_version):
            self._settle(last)  # where `previous` should not be and is something else
            return self.finish_promotion(last)
        if self._links.is_whole(last.to_version, last.sha256):
            self._settle(last)
            self.finish_promotion(last)
            return True
        self._abandon(entries, current_id)
        return True

    def _abandon(self, entries: Sequence[HistoryEntry], current_id: str | None) -> None:
        """What was to drive is gone or damaged. What drove before the change drives on if it is still what the history
        bound; never what the change was to take back, and nothing else that a link may name: then the base does."""
        last = entries[-1]
        before, sha256 = (
            (entries[-2].to_version, entries[-2].sha256) if len(entries) > 1 else (last.from_version, None)
        )
        if last.event in ("revert", "rollback") or current_id != before or not self._is_bound(before, sha256):
            before = None
        previous = self._links.own_id(self._layout.previous)
        if previous is not None and (before is None or not self._is_bound(previous, None)):
            previous = None
        bound = None if before is None else self._links.get(before).compute_sha256()
        self.change("abandon", to=before, previous=previous, sha256=bound)

    def _is_bound(self, version_id: str | None, sha256: str | None) -> bool:
        if version_id is None:
            return True
        try:
            found = self._links.get(version_id).whole_sha256()
        except AdapterError:
            return False
        return sha256 is None or found == sha256

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
        if self._links.own_id(self._layout.candidate) == entry.to_version:
            durable.remove_durably(self._layout.candidate)
            missing = True
        return missing


def _is_of(record: bytes, sha256: str) -> bool:
    try:
        return bool(json.loads(record)["sha256"] == sha256)
    except (ValueError, KeyError, TypeError):
        return False
