"""`history.jsonl`: every change of the adapter in use, append-only and hash-chained.

An entry is the *intent*, durable before any symlink moves: its `to` and `from` are what `current` and
`previous` become. A crash in between is finished from the last entry (`AdapterStore.recover`).

Each entry carries `hash`, the sha256 of its own canonical JSON without that key, and `prev_hash`, the `hash`
of the entry before it. Editing, removing or reordering an entry breaks the chain. What the chain cannot show, that
its newest entries were cut off, `history.head` shows: number and hash of the last entry, written after it, so that
after a crash it may name the entry before. Whoever rewrites both files at once is not found out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from continuonbrain.storage.canonical_json import canonical_json
from continuonbrain.storage.plain_json import load_strict

FIRST_PREV_HASH = "0" * 64


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One change of the adapter in use.

    Attributes:
        seq: 1, 2, 3, ...
        event: "promote", "confirm", "revert" (by the probation), "rollback" (by a person) or "abandon" (a change
            whose adapter was lost before it finished).
        to_version, from_version: version ids; None is the base model alone.
        sha256: of the behavioural files of `to_version`; None for the base alone.
        verdict_sha256: of the verdict's canonical JSON, for "promote".
        time_unix_s: wall clock, a label only.
        prev_hash, hash: the chain.
        about: what else belongs to the change: the terms of a probation, why it was made and by whom. Not written
            when empty, so that entries from before it existed keep their hash.
    """

    seq: int
    event: str
    to_version: str | None
    from_version: str | None
    sha256: str | None
    verdict_sha256: str | None
    time_unix_s: float
    prev_hash: str
    hash: str
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json_line(self) -> str:
        return canonical_json({**self._chained(), "hash": self.hash})

    def _chained(self) -> dict[str, Any]:
        return {
            "seq": self.seq,
            "event": self.event,
            "to": self.to_version,
            "from": self.from_version,
            "sha256": self.sha256,
            "verdict_sha256": self.verdict_sha256,
            "time_unix_s": self.time_unix_s,
            "prev_hash": self.prev_hash,
            **({"about": dict(self.about)} if self.about else {}),
        }


@dataclass(frozen=True, kw_only=True)
class HistoryCheck:
    """What checking the chain found.

    Attributes:
        entries: how many entries are sound, from the first.
        problem: what is wrong with the next one; "" when all are sound.
    """

    entries: int
    problem: str

    @property
    def ok(self) -> bool:
        return not self.problem


@dataclass(frozen=True, slots=True)
class HistoryHead:
    """Where a history ended when something was last added to it: number and hash of that entry."""

    seq: int
    hash: str

    @classmethod
    def of(cls, entry: HistoryEntry) -> HistoryHead:
        return cls(entry.seq, entry.hash)

    @classmethod
    def parse(cls, text: str) -> HistoryHead:
        """Raises ValueError, KeyError, TypeError for what `to_json` did not write."""
        raw = load_strict(text)
        return cls(_whole(raw["seq"]), str(raw["hash"]))

    def to_json(self) -> dict[str, Any]:
        return {"seq": self.seq, "hash": self.hash}


def end_problem(entries: Sequence[HistoryEntry], head: HistoryHead | None) -> str:
    """What is wrong with where a sound chain ends, "" when nothing is. head: None where there is none yet."""
    if head is None:
        # The first entry is written before the first head.
        return "" if len(entries) <= 1 else "has no history.head beside it, so nobody can say where it ends"
    if head.seq > len(entries):
        missing = head.seq - len(entries)
        return (
            f"ends after {len(entries)} entries, history.head names entry {head.seq}: "
            f"{'the newest was' if missing == 1 else f'the newest {missing} were'} cut off"
        )
    if head.seq < max(1, len(entries) - 1) or entries[head.seq - 1].hash != head.hash:
        return f"is not the one whose entry {head.seq} history.head names"
    return ""


def next_entry(
    last: HistoryEntry | None,
    *,
    event: str,
    to_version: str | None,
    from_version: str | None,
    sha256: str | None,
    time_unix_s: float,
    verdict: Mapping[str, object] | None = None,
    about: Mapping[str, object] | None = None,
) -> HistoryEntry:
    """The entry that follows `last` in the chain."""
    verdict_sha256 = None if verdict is None else _sha256_text(canonical_json(verdict))
    body: dict[str, Any] = {
        "seq": 1 if last is None else last.seq + 1,
        "event": event,
        "to": to_version,
        "from": from_version,
        "sha256": sha256,
        "verdict_sha256": verdict_sha256,
        "time_unix_s": time_unix_s,
        "prev_hash": FIRST_PREV_HASH if last is None else last.hash,
        **({"about": dict(about)} if about else {}),
    }
    return _entry_from_json({**body, "hash": _sha256_text(canonical_json(body))})


def parse_history(lines: Sequence[str]) -> tuple[tuple[HistoryEntry, ...], HistoryCheck]:
    """The sound entries from the first on, and what is wrong with the one after them, if any."""
    entries: list[HistoryEntry] = []
    for number, line in enumerate(lines, start=1):
        problem = ""
        try:
            raw = load_strict(line)
            entry = _entry_from_json(raw)
            problem = _chain_problem(raw, entry, entries[-1] if entries else None)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            problem = f"is not a history entry ({error})"
        else:
            if not problem:
                entries.append(entry)
        if problem:
            return tuple(entries), HistoryCheck(entries=len(entries), problem=f"line {number} {problem}")
    return tuple(entries), HistoryCheck(entries=len(entries), problem="")


def _chain_problem(raw: dict[str, Any], entry: HistoryEntry, last: HistoryEntry | None) -> str:
    body = {key: value for key, value in raw.items() if key != "hash"}
    if _sha256_text(canonical_json(body)) != entry.hash:
        return "was changed after it was written (its hash does not match)"
    if entry.prev_hash != (FIRST_PREV_HASH if last is None else last.hash):
        return "does not follow the line before it (a line was removed, added or moved)"
    if entry.seq != (1 if last is None else last.seq + 1):
        return f"has number {entry.seq} out of order"
    return ""


def _entry_from_json(raw: dict[str, Any]) -> HistoryEntry:
    return HistoryEntry(
        seq=_whole(raw["seq"]),
        event=str(raw["event"]),
        to_version=_optional_text(raw["to"]),
        from_version=_optional_text(raw["from"]),
        sha256=_optional_text(raw["sha256"]),
        verdict_sha256=_optional_text(raw["verdict_sha256"]),
        time_unix_s=float(raw["time_unix_s"]),
        prev_hash=str(raw["prev_hash"]),
        hash=str(raw["hash"]),
        about=_about(raw.get("about", {})),
    )


def _about(value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise TypeError(f"about must be an object, found {value!r}")


def _whole(value: object) -> int:
    if type(value) is int:
        return value
    raise TypeError(f"expected a whole number, found {value!r}")


def _optional_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"expected text or null, found {value!r}")


def _sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
