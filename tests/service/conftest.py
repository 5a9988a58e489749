"""A brain root behind a real service process, and adapters to promote in it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

torch = pytest.importorskip("torch")

from transformers import Gemma3nForCausalLM  # noqa: E402

from benchmarks.small_verdict import judged  # noqa: E402
from continuonbrain.brain_root import BrainRoot, open_brain  # noqa: E402
from continuonbrain.loops.promotion import Promotion, announce, promote_candidate  # noqa: E402
from continuonbrain.loops.teach import record_expert  # noqa: E402
from continuonbrain.model.base import load_base  # noqa: E402
from continuonbrain.model.base_identity import base_sha256, checkpoint_sha256, tiny_base_folder  # noqa: E402
from continuonbrain.model.lora import adapter_files, add_lora, attach_lora, lora_config, peft_files  # noqa: E402
from continuonbrain.policy.calibration import Calibration  # noqa: E402
from continuonbrain.robot.sim.shifts import world  # noqa: E402
from continuonbrain.safety.guards import Limits  # noqa: E402
from continuonbrain.storage.adapters import AdapterStore, AdapterVersion  # noqa: E402
from continuonbrain.storage.layout import BrainLayout, init_brain_root  # noqa: E402

TALKING_BASE = Path(__file__).parents[1] / "talking_base" / "base"


@dataclass(frozen=True)
class Service:
    """A running `continuonbrain serve`."""

    brain: BrainRoot
    process: subprocess.Popen[str]
    addresses: list[str]

    def client(self, timeout_s: float = 20.0) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=self.addresses[0])
        return httpx.Client(transport=transport, base_url="http://brain", timeout=timeout_s)


_ENDS_S = 5.0
"""The service gives connections two seconds to end; what is more is its own work."""


def ends(process: subprocess.Popen[str]) -> None:
    """Have it end, and assert that it does within `_ENDS_S`, but for the time in which its threads were ready and other
    processes had the cores: a busy machine is not a service that hangs."""
    tasks, waited_ns = Path(f"/proc/{process.pid}/task"), dict[str, int]()

    def look() -> None:
        with contextlib.suppress(OSError):  # a thread, or all of it, has ended
            for task in tasks.iterdir():
                waited_ns[task.name] = int((task / "schedstat").read_text().split()[1])

    look()
    before_ns = sum(waited_ns.values())
    process.terminate()
    started = time.monotonic()
    while process.poll() is None and time.monotonic() - started < 60:
        look()
        time.sleep(0.02)
    took_s = time.monotonic() - started
    if process.poll() is None:
        process.kill()
    process.wait(10)
    waited_s = (sum(waited_ns.values()) - before_ns) / 1e9
    assert took_s - waited_s < _ENDS_S, (
        f"it took {took_s:.1f} s to end, {waited_s:.1f} s of them without a core"
    )


class Helpers:
    """For test modules, which cannot import a conftest."""

    talking_base = TALKING_BASE

    @staticmethod
    @contextmanager
    def serving(
        brain: BrainRoot, *arguments: str, program: Sequence[str] = ("-m", "continuonbrain.cli.main")
    ) -> Iterator[Service]:
        command = [sys.executable, *program, "serve", "--json"]
        process = subprocess.Popen(
            [*command, "--root", str(brain.layout.root), *arguments], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            yield Service(brain, process, json.loads(process.stdout.readline())["serving"])
        finally:
            ends(process)

    @staticmethod
    def lessons(brain: BrainRoot, n: int) -> list[Path]:
        """So many short lessons of the simulated teacher."""
        limits = Limits.from_config(brain.config.guards)
        return record_expert(
            brain.layout.episodes_dir,
            world("none"),
            instructions=["drive"] * n,
            steps=5,
            seed=7,
            limits=limits,
        )

    @staticmethod
    def stage(brain: BrainRoot, *, seed: int, rank: int = 4) -> AdapterVersion:
        """Stage an adapter of random numbers for the brain's base, with a passing verdict."""
        folder = brain.layout.base_model_dir
        torch.manual_seed(seed)
        if (folder / "connector.json").exists():
            base = base_sha256(folder)
            model = load_base(folder)
            targets = ("q_proj", "o_proj")
            parameters = attach_lora(model, base_sha256=base, rank=rank, alpha=2.0 * rank, targets=targets)
            with torch.no_grad():
                for parameter in parameters:
                    parameter.normal_(0.0, 0.1)
            files = adapter_files(model)
        else:
            base = checkpoint_sha256(folder)
            words = Gemma3nForCausalLM.from_pretrained(folder, dtype=torch.float32)
            wrapped = add_lora(
                words, lora_config(words, ["o_proj", "up_proj", "down_proj"], rank=rank, alpha=2.0 * rank)
            )
            with torch.no_grad():
                for name, parameter in wrapped.named_parameters():
                    if "lora_" in name:
                        parameter.normal_(0.0, 1.0)
            scratch = brain.layout.run_dir / f"scratch-{seed}"
            scratch.mkdir()
            files = peft_files(wrapped, scratch, base_sha256=base)
            files["lora_adapters.pt"] = b"-"
        store = AdapterStore(brain.layout)
        version = store.stage({**files, "calibration.json": Calibration().to_json()})
        verdict = judged(version, base)
        store.attach(version, "verdict.json", json.dumps(verdict).encode())
        return version

    @staticmethod
    def promote(brain: BrainRoot, version: AdapterVersion) -> Promotion:
        """Promote a staged adapter and tell everybody, whatever base it is of."""
        if (brain.layout.base_model_dir / "connector.json").exists():
            return promote_candidate(brain)
        store = AdapterStore(brain.layout)
        base = checkpoint_sha256(brain.layout.base_model_dir)
        store.promote(version.version_id, version.verdict(), base_sha256=base)
        return announce(brain, "promotion", version.version_id, version.compute_sha256())

    @staticmethod
    def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
        """Server-sent events: {"event", "id", "data"} of each."""
        fields: dict[str, str] = {}
        for line in lines:
            if not line:
                if fields:
                    yield {**fields, "data": json.loads(fields["data"])}
                fields = {}
            elif not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value


@pytest.fixture(scope="session")
def helpers() -> type[Helpers]:
    return Helpers


def without_probation(layout: BrainLayout) -> BrainRoot:
    """These tests promote one adapter after the other, and nobody drives."""
    settings = json.loads(layout.config_path.read_bytes())
    settings["promotion"] |= {"probation_ticks": 0, "probation_minutes": 0.0}
    layout.config_path.write_text(json.dumps(settings))
    return open_brain(layout.root)


@pytest.fixture
def driving(tmp_path: Path) -> BrainRoot:
    """A root with the shipped base."""
    return without_probation(init_brain_root(tmp_path / "d", "sim-donkey", base_model=tiny_base_folder()))


@pytest.fixture
def talking(tmp_path: Path) -> BrainRoot:
    """A root with the base that talks."""
    return without_probation(init_brain_root(tmp_path / "t", "sim-donkey", base_model=TALKING_BASE))


@pytest.fixture
def service(helpers: type[Helpers], driving: BrainRoot) -> Iterator[Service]:
    """A running service on the root with the shipped base."""
    with helpers.serving(driving) as running:
        yield running
