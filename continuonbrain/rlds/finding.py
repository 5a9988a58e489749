"""What the doctor says: findings, and a collection of them that stays small whatever an episode holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from continuonbrain.rlds.errors import EpisodeError
from continuonbrain.rlds.linescan import MAX_NAMED

ERROR, WARNING, INFO = "error", "warning", "info"
ASIDE: Final = "continuonbrain episodes repair PATH OUT keeps its whole steps and sets the rest aside"
_MAX_TEXT = 1000
"""Characters of a finding's text: a line may hold a name of a megabyte, and a thousand findings name it."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        file: the file that it is in.
        step: index of the step, or None.
        field: dotted name of the field, or "".
        problem: what is wrong.
        severity: "error" (data are lost or untrue), "warning" (readable, but look at it) or "info".
        remedy: what to do, "" when nothing is needed.
    """

    file: str
    step: int | None
    field: str
    problem: str
    severity: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return asdict(self)


def finding_of(error: EpisodeError, path: Path, step: int | None = None, field: str = "step") -> Finding:
    """`error` as a finding; `path`, `step` and `field` stand in for what it does not say itself."""
    return Finding(
        file=str(error.file if error.file is not None else path),
        step=error.step if error.step is not None else step,
        field=error.field or field,
        problem=error.problem,
        severity=ERROR,
        remedy=ASIDE if "doctor" in error.remedy or not error.remedy else error.remedy,
    )


class Findings:
    """Findings in their order: of one field and severity the first `MAX_NAMED`, and how many more there were."""

    def __init__(self) -> None:
        self._named: list[Finding] = []
        self._counts: dict[tuple[str, str], int] = {}
        self._unnamed: dict[tuple[str, str], Finding] = {}  # the first one of a kind that is not named

    def add(self, *findings: Finding) -> None:
        """Put `findings` behind those that are there."""
        self.extend(findings)

    def extend(self, findings: Iterable[Finding]) -> None:
        """As `add`, one at a time as they come."""
        for finding in findings:
            if len(finding.problem) > _MAX_TEXT or len(finding.field) > _MAX_TEXT:
                finding = replace(finding, problem=_short(finding.problem), field=_short(finding.field))
            kind = finding.field, finding.severity
            self._counts[kind] = self._counts.get(kind, 0) + 1
            if self._counts[kind] <= MAX_NAMED:
                self._named.append(finding)
            else:
                self._unnamed.setdefault(kind, finding)

    def listed(self) -> list[Finding]:
        """All of them, and one for the rest of each kind."""
        rest = [
            replace(
                first, problem=f"{self._counts[kind] - MAX_NAMED} more of these from here on: {first.problem}"
            )
            for kind, first in self._unnamed.items()
        ]
        return self._named + rest


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
