"""A line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report. A check that is not `needed` informs, it does not fail."""

    name: str
    ok: bool
    value: str
    remedy: str = ""
    needed: bool = True
