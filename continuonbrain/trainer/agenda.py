"""What a verdict will measure, in its order, so that who waits can be told how far it is. No I/O."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field


def agenda(
    *, current: bool, held: bool, replay: bool, exam: bool, course: bool, heads: Set[str], watched: bool
) -> list[str]:
    """The parts that `evaluate.gather_evidence` names, in order.

    current: an adapter drives now, else the base is the rival; heads: which of "base", "current" and "candidate" have a
    reflex head; watched: a safety head is installed.
    """
    rival = "current" if current else "base"
    parts: list[str] = []
    for run in ["base", "current", "candidate"] if current else ["base", "candidate"]:
        mine, rivals = run == "candidate", run in ("candidate", rival)
        told = {
            "recorded steps": True,
            "frozen states": replay and run in ("candidate", "base"),
            "the exam": exam and rivals,
            "the reflex head": held and run in heads,
            "slow decisions": course and rivals,
            "slow instructions": course and rivals,
            "paths alone": course and mine and run in heads,
            "laps": course and rivals,
            "instructions": course and rivals,
            "unshifted tracks": course and run in ("candidate", "base"),
        }
        parts += [f"{run}: {name}" for name, measured in told.items() if measured]
    if held:
        parts += ["recorded steps: the safety head"] if watched else []
        parts += [f"{run}: the guard on recorded steps" for run in ("candidate", rival)]
    return parts


@dataclass(slots=True)
class Place:
    """Where in an agenda it is. It never goes back: a part that was left out is over, one that is not listed is told
    under the number of the one before."""

    parts: list[str]
    at: int = field(default=0, init=False)

    def reach(self, part: str) -> int:
        """The number of this part, from 1; 0 before the first."""
        if part in self.parts:
            self.at = max(self.at, self.parts.index(part) + 1)
        return self.at
