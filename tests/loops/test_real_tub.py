"""A real donkeycar recording through the same path: import, gates, cached training, verdict."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from continuonbrain.brain_root import open_brain
from continuonbrain.loops.mid import MidLoop
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.rlds.tub import import_tub
from continuonbrain.robot.host import SimulatedHost
from continuonbrain.storage.layout import init_brain_root

TUB = Path(__file__).resolve().parents[3] / "shared" / "data" / "donkeycar_tub" / "tub.tar.gz"


@pytest.mark.long
@pytest.mark.skipif(not TUB.exists(), reason=f"the real recording is not at {TUB}")
def test_an_adapter_learns_to_steer_from_frames_that_no_simulator_made(tmp_path: Path) -> None:
    with tarfile.open(TUB) as archive:
        archive.extractall(tmp_path / "tub", filter="data")
    layout = init_brain_root(tmp_path / "brain", "pi5-donkey", base_model=tiny_base_folder())
    report = import_tub(tmp_path / "tub" / "tub", layout.episodes_dir, max_steps_per_episode=60)
    assert len(report.episodes) >= 16
    brain = open_brain(layout.root)
    host = SimulatedHost()
    host.set(battery_fraction=1.0, cpu_temp_c=45.0, idle_s=3600.0, teleop_active=0.0)
    host.set(throttled=0.0)
    outcome = MidLoop(brain, host=host).round(hold=True)

    assert outcome.phase in ("judged", "refused")
    assert outcome.verdict is not None
    evidence = outcome.verdict["evidence"]
    error = {k: evidence[k]["steering"] for k in ("candidate", "base", "mean", "repeat")}
    assert error["candidate"] < error["base"]
    assert error["candidate"] < error["mean"]
    assert evidence["closed_candidate"] is None  # no simulator stands in for this car
