"""The policy process as it runs on a robot: real LiteRT, real adapters, no torch in its memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")

from benchmarks.small_verdict import judged  # noqa: E402
from continuonbrain.brain_root import open_brain  # noqa: E402
from continuonbrain.loops.notices import ask_notice  # noqa: E402
from continuonbrain.loops.policy_client import Answer, PolicyClient  # noqa: E402
from continuonbrain.model.base import load_base  # noqa: E402
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder  # noqa: E402
from continuonbrain.model.lora import SHARED_LAYER_TARGETS, adapter_files, attach_lora  # noqa: E402
from continuonbrain.policy.calibration import Calibration  # noqa: E402
from continuonbrain.policy.torch_engine import TorchEngine  # noqa: E402
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion  # noqa: E402
from continuonbrain.storage.layout import BrainLayout, init_brain_root  # noqa: E402

FRAME = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)
SHA256 = base_sha256(tiny_base_folder())


def new_root(folder: Path, precision: str) -> BrainLayout:
    layout = init_brain_root(folder, "sim-donkey", base_model=tiny_base_folder())
    path = layout.root / "config.json"
    config = json.loads(path.read_text()) | {
        "policy": {"engine": "litert", "precision": precision, "threads": 1}
    }
    path.write_text(json.dumps(config))
    open_brain(layout.root)
    return layout


@dataclass
class Running:
    """A policy process and what asks it."""

    layout: BrainLayout
    process: subprocess.Popen[bytes]
    client: PolicyClient

    def ask(self, instruction: str = "keep left") -> Answer:
        deadline = time.monotonic() + 20
        while not self.client.offer(FRAME, instruction, 0.8, time.monotonic()):
            assert time.monotonic() < deadline, self.client.problem
            self.client.poll()
            time.sleep(0.01)
        while not (answers := self.client.poll()):
            assert time.monotonic() < deadline, self.client.problem
            time.sleep(0.002)
        return answers[0]


@pytest.fixture(params=["fp32", "int8"])
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    layout = new_root(tmp_path / "b", request.param)
    command = [sys.executable, "-m", "continuonbrain.loops.policy_process", "--root", str(layout.root)]
    process = subprocess.Popen(command)
    try:
        yield Running(layout, process, PolicyClient(layout.policy_socket))
    finally:
        process.terminate()
        assert process.wait(10) == 0


def staged(layout: BrainLayout, *, rank: int = 8, base: str = SHA256) -> AdapterVersion:
    model = load_base(tiny_base_folder())
    parameters = attach_lora(
        model, base_sha256=base, rank=rank, alpha=2.0 * rank, targets=SHARED_LAYER_TARGETS
    )
    generator = torch.Generator().manual_seed(rank)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return AdapterStore(layout).stage({**adapter_files(model), "calibration.json": Calibration().to_json()})


def promote(layout: BrainLayout, version: AdapterVersion) -> str:
    sha256 = version.compute_sha256()
    verdict = judged(version, SHA256)
    AdapterStore(layout).promote(version.version_id, verdict, base_sha256=SHA256)
    return sha256


def as_torch_says(layout: BrainLayout, adapter: Path | None, answer: Answer) -> None:
    # A frame of noise is the hardest there is for int8.
    tolerance = {"fp32": 1e-5, "int8": 0.15}[open_brain(layout.root).config.policy.precision]
    engine = TorchEngine(layout.base_model_dir)
    engine.use_adapter(adapter)
    expected = engine.decide(FRAME[None], ["keep left"], [0.8])
    np.testing.assert_allclose(answer.chunk.curvature, expected.curvature[0], atol=tolerance)
    np.testing.assert_allclose(answer.chunk.speed, expected.speed[0], atol=tolerance)


def test_it_decides_and_swaps_as_torch_does_and_holds_no_torch(running: Running) -> None:
    layout = running.layout
    as_torch_says(layout, None, running.ask())
    good = staged(layout)
    sha256 = promote(layout, good)
    told = ask_notice(layout.policy_socket, {"kind": "promotion"})
    assert told.ok, told.detail
    answer = running.ask()
    assert answer.chunk.adapter_sha256 == sha256
    as_torch_says(layout, good.path, answer)
    # Whole for the store, and no input of these graphs: the one in use stays, and the reason is told.
    promote(layout, staged(layout, rank=17))
    told = ask_notice(layout.policy_socket, {"kind": "promotion"})
    assert not told.ok
    assert "rank 17; this bundle takes 16" in told.detail
    after = running.ask()
    assert after.chunk.adapter_sha256 == sha256
    assert after.chunk.curvature == answer.chunk.curvature
    mapped = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert "libLiteRt" in mapped
    assert "libtorch" not in mapped


def test_without_its_bundle_it_ends_with_the_remedy(tmp_path: Path) -> None:
    layout = new_root(tmp_path / "b", "int8")
    shutil.rmtree(layout.base_model_dir / "serving" / "int8")
    command = [sys.executable, "-m", "continuonbrain.loops.policy_process", "--root", str(layout.root)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "serving/int8/bundle.json cannot be read" in ended.stderr
    assert "continuonbrain model export" in ended.stderr
    assert "INFO" not in ended.stderr
