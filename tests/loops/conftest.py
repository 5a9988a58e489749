"""What the sidecar's tests are given: brains with lessons, evidence, the threads that torch had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from continuonbrain.loops import at_work, judging
from continuonbrain.loops.teach import lessons, record_expert
from continuonbrain.robot.sim.shifts import BASE
from continuonbrain.safety.guards import Limits
from tests.loops.sidecar import QUICK_SLOW, Brain, Evidences, make_brain


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """The sidecar sets them for its own process."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round passes each of its samples through the frozen layers, and none of these tests is about how many they
    are: from as many lessons, fewer steps of each."""
    monkeypatch.setattr(at_work, "_MAX_SAMPLES", 48)


@pytest.fixture
def brain(tmp_path: Path, untrained_base: Path, taught: Path) -> Brain:
    """brain(episodes=6, **overrides): a fresh root with taught episodes and an untrained base."""
    return lambda **changes: make_brain(tmp_path / "brain", untrained_base, taught, **changes)


@pytest.fixture(scope="session")
def twelve_lessons(tmp_path_factory: pytest.TempPathFactory, limits: Limits) -> Path:
    """A folder of twelve short episodes that the expert drove. Copy before damaging one."""
    folder = tmp_path_factory.mktemp("lessons")
    record_expert(folder, BASE, instructions=lessons(12), steps=50, seed=5, limits=limits)
    return folder


@pytest.fixture
def slow_brain(tmp_path: Path, untrained_base: Path, twelve_lessons: Path) -> Brain:
    """slow_brain(episodes=8, **overrides): as `brain`, of the twelve lessons; every promotion is consolidated."""
    return lambda **changes: make_brain(
        tmp_path / "brain", untrained_base, twelve_lessons, **({"episodes": 8} | QUICK_SLOW | changes)
    )


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> Evidences:
    """What judging finds, without driving anything: it passes unless told otherwise."""
    found = Evidences()
    monkeypatch.setattr(judging, "gather_evidence", found)
    return found
