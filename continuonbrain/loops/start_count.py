"""How often the policy process was started since a change of what drives: counted in a file of `run/`."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from continuonbrain.storage.durable import write_json_durably

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StartCount:
    """Of one change: what the file says of another one counts nothing.

    change: names it. expected: starts that the change itself asks for.
    """

    path: Path
    change: str | int
    expected: int = 0

    @property
    def restarts(self) -> int:
        """Starts beyond the expected ones; 0 where the file says nothing that makes sense."""
        return max(0, self._starts() - self.expected)

    def note(self) -> None:
        """Count one, durably: a start that takes the machine down counts. A full disk is logged."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json_durably(self.path, {"change": self.change, "starts": self._starts() + 1})
        except OSError as error:
            log.error("%s cannot be written: %s", self.path, error)

    def _starts(self) -> int:
        try:
            told = json.loads(self.path.read_bytes())
            return max(0, int(told["starts"])) if told["change"] == self.change else 0
        except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return 0
