"""What happened to a brain, numbered, on disk: any process adds to it, any number of readers follow it.

    run/events/events.jsonl      one event a line, with its CRC; `sequence` counts on over restarts of everything
    run/events/events.1.jsonl    the segment before, so that who was away for a while has missed nothing

An event is on disk before `append` returns. Readers hold no lock and wait for nobody: each remembers the last number
that it has seen, which is how a reconnected listener resumes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from continuonbrain.errors import BrainError
from continuonbrain.storage.durable import append_line_durably, sync_directory
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.storage.plain_json import load_plain, plain

log = logging.getLogger(__name__)

EventKind = Literal[
    "promotion", "confirm", "revert", "rollback", "gate", "training", "slow", "safety", "base"
]
KINDS: tuple[EventKind, ...] = get_args(EventKind)
MAX_EVENT_BYTES = 16 * 1024
_SEGMENT_BYTES = 1 << 20
_NOW, _BEFORE, _LOCK = "events.jsonl", "events.1.jsonl", ".lock"
_WAIT_S = 5.0
"""For others who note something; nobody holds the lock for longer than a write."""
_LAST_BYTES = 2 * MAX_EVENT_BYTES
_CRC = b', "crc32": '
_KEYS = {"sequence", "kind", "at_unix_s", "data"}
_MOST = 10**15
"""Numbers and times beyond it are none."""


@dataclass(frozen=True, slots=True)
class Event:
    """sequence: 1, 2, 3, ...; at_unix_s: when; data: what, by kind (see `service/models.py`)."""

    sequence: int
    kind: EventKind
    at_unix_s: float
    data: dict[str, Any]


class EventLog:
    """The events in `folder` (a brain's `run/events`), which is made when something happens."""

    def __init__(self, folder: Path, *, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._folder, self._segment_bytes = folder, segment_bytes

    def append(self, kind: EventKind, data: Mapping[str, object]) -> Event:
        """Add an event.

        Raises:
            ValueError: another kind, or data that is no JSON with finite numbers below 16 KiB.
            OSError, LockHeldError, LockFileError: the file system refused; nothing was added.
        """
        if kind not in KINDS:
            raise ValueError(f"event kind {kind!r} is none of {', '.join(KINDS)}")
        self._folder.mkdir(parents=True, exist_ok=True)
        with ProcessLock(self._folder / _LOCK, purpose="note an event", timeout_s=_WAIT_S):
            now = self._folder / _NOW
            event = Event(self._last_sequence() + 1, kind, time.time(), dict(data))
            json.dumps(event.data, allow_nan=False)  # a number that is none is a fault of the caller
            event = replace(event, data=plain(event.data))
            line = _line(event)
            if len(line) > MAX_EVENT_BYTES:
                raise ValueError(f"an event of {len(line)} bytes is longer than {MAX_EVENT_BYTES}")
            with contextlib.suppress(FileNotFoundError):
                if now.stat().st_size + len(line) > self._segment_bytes:
                    os.replace(now, self._folder / _BEFORE)
                    sync_directory(self._folder)
            append_line_durably(now, line)
        return event

    def note(self, kind: EventKind, data: Mapping[str, object]) -> bool:
        """`append` for those whose work goes on without it: a full disk costs the event, and is logged. Whether it was
        noted."""
        try:
            self.append(kind, data)
        except (OSError, BrainError) as error:
            log.error("the event %s could not be noted: %s", kind, error)
            return False
        return True

    def tells_of(self, change: object, kinds: Collection[str]) -> bool:
        """Whether an event of one of these kinds names this change; no where the log cannot be read now."""
        try:
            kept = self.after(0)
        except OSError:
            return False
        return any(event.kind in kinds and event.data.get("change") == change for event in kept)

    def after(self, sequence: int) -> list[Event]:
        """All that is kept behind a number, in order. The first may be later than `sequence + 1`: what was before it
        is gone. Lines that are no events (a damaged disk) are left out. `OSError`: what is there cannot be read now."""
        # The newer segment first: what is put away in between is then there twice, and not missing.
        now, before = self._read(_NOW), self._read(_BEFORE)
        known = {e.sequence: e for e in (*before, *now)}
        return [known[n] for n in sorted(known) if n > sequence]

    def last_sequence(self) -> int:
        """Number of the newest event, 0 before the first."""
        return self._last_sequence()

    def mark(self) -> tuple[int, int, int]:
        """Changes whenever an event was added: cheap to ask often."""
        try:
            stat = (self._folder / _NOW).stat()
        except OSError:
            return (0, 0, 0)
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns)  # a torn line may be replaced by one as long

    def _last_sequence(self) -> int:
        return max(self._last_of(_NOW), self._last_of(_BEFORE))

    def _last_of(self, name: str) -> int:
        for line in reversed(_last_lines(self._folder / name)):
            event = _event(line)
            if event is not None:
                return event.sequence
        return max((e.sequence for e in self._read(name)), default=0)

    def _read(self, name: str) -> list[Event]:
        try:
            data = (self._folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return []
        return list(_events(data))


def _line(event: Event) -> str:
    """One line of JSON; its last key is the CRC-32 of all that stands before it."""
    body = json.dumps(
        {"sequence": event.sequence, "kind": event.kind, "at_unix_s": event.at_unix_s, "data": event.data},
        allow_nan=False,
    )[:-1]
    return f"{body}{_CRC.decode()}{zlib.crc32(body.encode())}}}"


def _events(data: bytes) -> Iterator[Event]:
    for line in data[: data.rfind(b"\n") + 1].split(b"\n"):  # the rest is still being written, or was torn
        event = _event(line)
        if event is not None:
            yield event


def _event(line: bytes) -> Event | None:
    body, found, crc = line.rpartition(_CRC)
    if found and crc != b"%d}" % zlib.crc32(body):
        return None
    try:
        value = load_plain(body + b"}" if found else line)
        if (
            value.keys() != _KEYS
        ):  # a line without a CRC is an older version's; one whose CRC's name is damaged is not
            return None
        sequence, kind = value["sequence"], value["kind"]
        at, data = value["at_unix_s"], value["data"]
    except (ValueError, TypeError, KeyError, AttributeError):  # text that is no UTF-8 among them
        return None
    sound = type(sequence) is int and 0 < sequence < _MOST and kind in KINDS and isinstance(data, dict)
    timed = type(at) in (int, float) and abs(at) < _MOST
    return Event(sequence, kind, float(at), data) if sound and timed else None


def _last_lines(path: Path) -> list[bytes]:
    """The whole lines at the end of a file, few of them."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(0, size - _LAST_BYTES)
            file.seek(start)
            data = file.read()
    except OSError:
        return []
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")
    return lines if start == 0 else lines[1:]
