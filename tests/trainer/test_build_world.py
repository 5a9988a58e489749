"""What the world head is taught, and that it learns it; and that a rollout knows a veto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from continuonbrain.cli.model import app
from continuonbrain.config import PolicyConfig
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.open_engine import open_engine
from continuonbrain.policy.safety_head import POINTS, SAFETY_HEAD_FILE, SafetyHead
from continuonbrain.policy.veto import Veto
from continuonbrain.policy.watch import Watch
from continuonbrain.policy.world_head import SHAPES, WORLD_HEAD_FILE, WorldHead, moved_grids
from continuonbrain.robot.sim.shifts import BASE
from continuonbrain.robot.sim.track import TrackSet
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.layout import shipped_safety_head
from continuonbrain.trainer import build_world as build_module
from continuonbrain.trainer.build_world import WorldRecipe, build_world, mirrored
from continuonbrain.trainer.foresight import Foresights, foresee_states
from continuonbrain.trainer.rollout import rollout
from continuonbrain.trainer.world_scores import score_states

TRACKS = range(81_000, 81_004)


@pytest.fixture(scope="module")
def safety() -> SafetyHead:
    return SafetyHead.from_file(shipped_safety_head() / SAFETY_HEAD_FILE)


@pytest.fixture(scope="module")
def states(safety: SafetyHead) -> Foresights:
    return foresee_states(safety, TrackSet(TRACKS, BASE), 160, seed=4)


def test_states_are_what_happened(states: Foresights, safety: SafetyHead) -> None:
    assert 0.2 < states.left_road.mean() < 0.8
    assert np.abs(states.plans[:, POINTS - 1] - states.driven).mean() < 0.1, "cars come to where they plan to"
    again = foresee_states(safety, TrackSet(TRACKS, BASE), 160, seed=4)
    assert all(
        np.array_equal(getattr(states, n), getattr(again, n)) for n in ("later_off", "plans", "chunks")
    )


def test_the_mirror_of_the_mirror_is_the_same(states: Foresights) -> None:
    twice = mirrored(mirrored(states))
    for name in ("grids", "plans", "motions", "chunks", "later_off", "driven"):
        assert np.array_equal(getattr(states, name), getattr(twice, name))


def test_the_truth_moved_is_the_truth_of_later(states: Foresights) -> None:
    """Where the car was a second on, and what it stood before then, belong together."""
    standing = np.abs(states.driven[:, 0]) < 0.5
    seen = states.grids[standing]
    moved = moved_grids(seen, states.driven[standing])
    later = states.later_off[standing]
    near = np.s_[:, :8, 4:13]
    assert ((moved > 0)[near] == later[near]).mean() > ((seen > 0)[near] == later[near]).mean()


def test_it_learns_what_it_is_shown(
    states: Foresights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Pool:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...
        def map(self, *_: Any) -> list[Foresights]:
            return [states]

    monkeypatch.setattr(build_module, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(build_module, "score_world_head", lambda *_, **__: {})
    recipe = WorldRecipe(parts=1, epochs=60, batch=64, threads=1)
    card = build_world(tmp_path / "w", shipped_safety_head(), recipe, lambda *_: None)
    head = WorldHead.from_file(tmp_path / "w" / WORLD_HEAD_FILE)
    assert json.loads((tmp_path / "w" / "card.json").read_bytes()) == card
    assert card["sha256"] == head.sha256
    found = score_states(head, states)
    assert found["feature_error"] < found["feature_error_moved"] < found["feature_error_unchanged"] * 1.05
    assert found["auroc"] > 0.9


def test_a_rollout_counts_vetoes() -> None:
    engine = open_engine(tiny_base_folder(), PolicyConfig())
    engine.use_adapter(None)
    safety = SafetyHead.from_file(shipped_safety_head() / SAFETY_HEAD_FILE)
    for logit, share in ((9.0, 1.0), (-9.0, 0.0)):
        tensors = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
        head = WorldHead(save(tensors | {"risk1.bias": np.full(1, logit, np.float32)}))
        result = rollout(
            engine,
            BASE,
            TRACKS[:2],
            ["drive"] * 2,
            calibration=Calibration(),
            limits=Limits(throttle_min=-0.5),
            seed=0,
            laps=False,
            seconds=1.5,
            watch_with=lambda: Watch(safety),
            veto_with=lambda head=head: Veto(head),
        )
        assert (result.vetoed == share).all()
        if share:
            assert (result.mean_speed_mps == 0).all(), "a car that may follow nothing stays where it is"


def test_the_command_builds_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, Path, WorldRecipe]] = []

    def build(out: Path, safety: Path, recipe: WorldRecipe, report: Any) -> dict[str, Any]:
        asked.append((out, safety, recipe))
        report("draw", 1, 2, 0.5)
        return {"scores": {}}

    monkeypatch.setattr(build_module, "build_world", build)
    out = tmp_path / "w"
    for extra in ([], ["--safety", str(tmp_path), "--seed", "2", "--parts", "3"]):
        result = CliRunner().invoke(app, ["build-world", str(out), *extra, "--json"])
        assert result.exit_code == 0, result.output
    assert asked == [
        (out, shipped_safety_head(), WorldRecipe()),
        (out, tmp_path, WorldRecipe(seed=2, parts=3)),
    ]
