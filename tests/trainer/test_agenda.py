"""What a verdict measures is announced in its order, all of it and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.robot.sim.shifts import BASE
from continuonbrain.safety.guards import Limits
from continuonbrain.trainer import course
from continuonbrain.trainer.agenda import Place, agenda
from continuonbrain.trainer.course import Course
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.evaluate import Contender, gather_evidence


@pytest.mark.parametrize("driven", [False, True])
def test_the_parts_are_those_that_are_measured(
    recorded: Samples, limits: Limits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driven: bool
) -> None:
    """Nothing is driven: names and their order are what counts."""
    engine = TorchEngine(tiny_base_folder())
    assert engine.reflex is not None
    monkeypatch.setattr(engine, "use_adapter", lambda *_a, **_k: None)

    def scored(*_args: Any, on_tick: Any, **_more: Any) -> Any:
        on_tick(1, 1)
        shares = dict.fromkeys(("completions", "guard_shares", "head_shares", "by_track"), (1.0,))
        means = dict.fromkeys(("completion", "lateral_error_m", "guard_share", "following", "stop"), 1.0)
        return SimpleNamespace(**shares, **means, stop_model=1.0, reasons={})

    monkeypatch.setattr(course, "drive_score", scored)
    monkeypatch.setattr(course, "follow_score", scored)
    seen: list[str] = []
    gather_evidence(
        engine,
        candidate=Contender(tmp_path, "c" * 64, Calibration()),
        current=Contender(None, "", Calibration()),
        train=recorded.select(np.arange(16)),
        held=recorded.select(np.arange(16, 32)),
        limits=limits,
        course=Course(BASE, (1,), (2,), (3,), (4,), (5,)) if driven else None,
        replay=recorded.select(np.arange(4)),
        on_part=lambda part, _done, _total: seen.append(part) if part not in seen else None,
    )
    planned = agenda(
        current=False,
        held=True,
        replay=True,
        exam=False,
        course=driven,
        heads={"base", "candidate"},
        watched=False,
    )
    assert [part for part in seen if ":" in part] == planned


def test_the_place_never_goes_back() -> None:
    place = Place(["base: recorded steps", "base: laps", "candidate: laps"])
    told = [
        place.reach(p) for p in ("frozen states", "base: recorded steps", "candidate: laps", "base: laps")
    ]
    assert told == [0, 1, 3, 3]


def test_an_adapter_that_drives_is_measured_instead_of_the_base() -> None:
    flags = {"held": True, "replay": False, "exam": True, "course": True, "watched": True}
    parts = agenda(current=True, heads={"base"}, **flags)
    assert "current: laps" in parts
    assert "base: laps" not in parts
    assert parts[-3:] == [
        "recorded steps: the safety head",
        "candidate: the guard on recorded steps",
        "current: the guard on recorded steps",
    ]
    assert len(set(parts)) == len(parts)
