"""A brain whose promotions begin a probation, at a named start of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.crash_points import new_root
from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops import probation, promotion
from continuonbrain.storage.event_log import EventLog

BOOT = "boot-1"


def new_brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BrainRoot:
    """A fresh root; two changes need no time between them, and the machine was started once."""
    monkeypatch.setattr(promotion, "_APART_S", 0.0)
    monkeypatch.setattr(probation, "boot_id", lambda: BOOT)
    return new_root(tmp_path / "b")


def kinds(brain: BrainRoot) -> list[str]:
    return [event.kind for event in EventLog(brain.layout.events_dir).after(0)]
