"""What of a bundle is done, so that a killed export goes on where it was and ends with the same bytes.

`<bundle>.journal`, one JSON line each, appended durably: first the fingerprint of what is being exported, then every
member that is whole on the disk, with what the manifest will have to say of it. It holds no names of episodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from continuonbrain.cloud.plan import Candidate
from continuonbrain.storage.durable import append_line_durably, read_whole_lines, remove_durably
from continuonbrain.storage.pseudonyms import Pseudonyms
from continuonbrain.storage.zip64 import Member

FORMAT: Final = 2
"""Raised with every new fact of a member, and with everything new in the manifest. An export that an earlier version
began is then begun anew: else what is signed of the whole would be true of its end only."""


@dataclass(frozen=True)
class Done:
    """A member that is whole, and the facts that go with it."""

    member: Member
    facts: dict[str, Any]


class Journal:
    """The journal of one bundle. `done` is what was written so far, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: list[Done] = []

    def is_of(self, fingerprint: str) -> bool:
        """Read it; whether it is there and whole, and of this export."""
        return self.read() == fingerprint

    def read(self) -> str:
        """Read it: the fingerprint of its export, "" when it is not there or not whole."""
        self.done = []
        try:
            lines = [json.loads(line) for line in read_whole_lines(self.path)]
            if not lines:
                return ""
            done = [Done(Member(**line["member"]), dict(line["facts"])) for line in lines[1:]]
            fingerprint = str(lines[0]["fingerprint"])
        except (ValueError, TypeError, KeyError):
            return ""
        self.done = done
        return fingerprint

    def begin(self, fingerprint: str) -> None:
        """Begin anew. Raises OSError."""
        self.done = []
        if self.path.exists():
            remove_durably(self.path)
        append_line_durably(self.path, json.dumps({"fingerprint": fingerprint}))

    def add(self, member: Member, facts: dict[str, Any]) -> None:
        """Note a member, once it is on the disk. Raises OSError."""
        append_line_durably(self.path, json.dumps({"member": asdict(member), "facts": facts}))
        self.done.append(Done(member, facts))

    def contents_of(self, known: Iterable[Candidate], names: Pseudonyms) -> dict[str, str]:
        """Of the episodes in the bundle, by the names that they have here, what their steps were
        (`survey.content_of`), "" where it does not say. known: those that it may know, by their pseudonyms."""
        in_it = {line["episode"] for d in self.done for line in d.facts.get("episodes", ())}
        told = {e: str(content) for d in self.done for e, content in d.facts.get("contents", {}).items()}
        pseudonyms = {c.name: names.episode(c.name) for c in known}
        return {name: told.get(e, "") for name, e in pseudonyms.items() if e in in_it}

    def remove(self) -> None:
        """The bundle has its name. Raises OSError."""
        remove_durably(self.path)
