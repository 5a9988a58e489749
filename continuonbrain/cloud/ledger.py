"""What left in bundles: `trainer/exports.jsonl`, one JSON line each, appended durably. It stays on the robot.

    {"signed": sha256 of the manifest, "key_id": ..., "counter": ...}      before the signature is seen by anybody
    {"delivered": name of the file in the outbox, "episodes": {...}}       when the file has its name

The first kind gives the same content the same counter again, so that an export that is made anew, or goes on after it
was killed, ends with the same bytes. The second says which episodes need not go into the outbox once more, each
by its name and a name of its content (`survey.content_of`): one that was labelled anew goes again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from continuonbrain.storage.durable import append_line_durably, read_whole_lines
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.signing import Document, sign
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys


class Ledger:
    """The exports of one root."""

    def __init__(self, layout: BrainLayout) -> None:
        self._layout = layout
        self._path = layout.exports_path

    def delivered(self) -> dict[str, str]:
        """The episodes that were in a bundle of the outbox, and which content each had in the last one; "" where that
        is not known: an earlier version did not note it."""
        found: dict[str, str] = {}
        for line in self._lines():
            told = line.get("episodes", {})
            found |= {
                str(n): str(c)
                for n, c in (told if isinstance(told, dict) else dict.fromkeys(told, "")).items()
            }
        return found

    def deliveries(self) -> int:
        """How many bundles the outbox has had."""
        return sum("delivered" in line for line in self._lines())

    def note_delivery(self, file_name: str, episodes: Mapping[str, str]) -> None:
        """Say that a bundle is in the outbox, with these episodes of these contents. Raises OSError."""
        self._append({"delivered": file_name, "episodes": dict(sorted(episodes.items()))})

    def signed(self, key_name: str, manifest_sha256: str, document: Document) -> bytes:
        """The envelope of `document`, whose counter is replaced by the one that belongs to this content.

        Raises:
            KeyFileError, CounterLostError, FileNotSafeError, LockHeldError, OSError.
        """
        own = PrivateKeys(self._layout)
        private, key_id = own.load(key_name), own.key_id(key_name)
        with TrustedKeys(self._layout).lock("sign an export"):
            counter = self._counter_of(key_id, manifest_sha256)
            if counter is None:
                counter = own.next_counter(key_id)
                own.issue(key_id, counter)
                self._append({"signed": manifest_sha256, "key_id": key_id, "counter": counter})
        return sign(
            Document(
                kind=document.kind,
                key_id=key_id,
                counter=counter,
                base_sha256=document.base_sha256,
                files=document.files,
            ),
            private,
        )

    def _counter_of(self, key_id: str, manifest_sha256: str) -> int | None:
        for line in self._lines():
            if line.get("signed") == manifest_sha256 and line.get("key_id") == key_id:
                counter = line.get("counter")
                return counter if isinstance(counter, int) and counter > 0 else None
        return None

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        for text in read_whole_lines(self._path):
            try:
                value = json.loads(text)
            except ValueError:
                continue  # a line that is lost makes an episode leave once more, and no more than that
            if isinstance(value, dict):
                found.append(value)
        return found

    def _append(self, line: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append_line_durably(self._path, json.dumps(line))
