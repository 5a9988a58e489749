"""Do the LiteRT graphs of the tiny base decide as torch does, how fast, and what does an adapter's swap cost?

    python -m benchmarks.engine [--json] [--prompts 120]

Prompts are states of the simulator; adapters are random (ranks 4, 8 and 16, large enough to change every answer). Both
engines decide one frame at a time on one thread, taking turns, so that a busy machine slows both.

Keys:
  max_logit_diff_fp32   largest difference of a logit, base alone and every adapter (goal 1e-3)
  action_agreement_int8 share of the numbers of all decisions within half a bin of torch's: 0.041 1/m of a curvature,
                        0.05 m/s of a speed (goal 0.99)
  zero_adapter_diff     largest difference between a PEFT folder whose B is zero and the base alone, both precisions
                        (goal 0)
  leak_diff             the same between an adapter before and after others were in use (goal 0)
  decision_ms           median by engine: torch, litert_fp32, litert_int8; speedup_fp32, speedup_int8 of the medians of
                        pairs (goal 2)
  swap_ms               median of use_adapter from a PEFT folder, by precision
  rss_growth_mib        resident memory after 1,000 swaps with a decision each, less that after 100 (goal 5)
Takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from benchmarks.engine_swaps import SWAPS
from continuonbrain.model.base import load_base
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.model.lora import SHARED_LAYER_TARGETS, adapter_files, attach_lora, zero_like
from continuonbrain.policy import codec
from continuonbrain.policy.engine import Decisions, Engine
from continuonbrain.policy.litert_engine import LiteRTEngine
from continuonbrain.policy.torch_engine import TorchEngine
from continuonbrain.trainer.states import States, StateSource

RANKS = (4, 8, 16)
PRECISIONS = ("fp32", "int8")
GOALS = {"max_logit_diff_fp32": 1e-3, "action_agreement_int8": 0.99, "speedup": 2.0, "rss_growth_mib": 5.0}
ROADS = range(970_000, 970_016)


def write_adapters(folder: Path) -> list[Path]:
    """PEFT folders with random A and B."""
    base = tiny_base_folder()
    sha256 = base_sha256(base)
    made = []
    for rank in RANKS:
        model = load_base(base)
        generator = torch.Generator().manual_seed(rank)
        parameters = attach_lora(
            model, base_sha256=sha256, rank=rank, alpha=2.0 * rank, targets=SHARED_LAYER_TARGETS
        )
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(0.08 * torch.randn(parameter.shape, generator=generator))
        path = folder / f"rank-{rank}"
        path.mkdir()
        for name, data in adapter_files(model).items():
            (path / name).write_bytes(data)
        made.append(path)
    return made


def decide_all(engine: Engine, states: States) -> Decisions:
    """One frame at a time, as on a robot."""
    parts = [
        engine.decide(states.frames[i : i + 1], [states.phrases[i]], [states.speeds[i]])
        for i in range(len(states.phrases))
    ]
    return Decisions(np.concatenate([p.curvature for p in parts]), np.concatenate([p.speed for p in parts]))


def torch_logits(engine: TorchEngine, states: States) -> NDArray[np.float32]:
    ids = torch.from_numpy(engine.layout.ids(states.phrases, states.speeds))
    first = engine.layout.curvature_first
    with torch.inference_mode():
        logits = engine.model(ids, torch.from_numpy(states.frames))
    found: NDArray[np.float32] = logits[..., first : first + 70].numpy()
    return found


def litert_logits(engine: LiteRTEngine, states: States) -> NDArray[np.float32]:
    ids = engine.layout.ids(states.phrases, states.speeds)
    return np.stack([engine.logits(row, frame) for row, frame in zip(ids, states.frames, strict=True)])


def agreement(found: Decisions, right: Decisions) -> float:
    """Share of numbers within half a bin."""
    near = [
        np.abs(found.curvature - right.curvature) <= codec.CURVATURE_BINS.step / 2,
        np.abs(found.speed - right.speed) <= codec.SPEED_BINS.step / 2,
    ]
    return float(np.concatenate([n.ravel() for n in near]).mean())


def timed(engine: Engine, states: States, i: int) -> float:
    started = time.perf_counter()
    engine.decide(states.frames[i : i + 1], [states.phrases[i]], [states.speeds[i]])
    return (time.perf_counter() - started) * 1000


def measure(prompts: int, progress: Progress) -> dict[str, Any]:
    states = StateSource(ROADS, seed=0, chunk=prompts).draw()
    base = tiny_base_folder()
    reference = TorchEngine(base, threads=1)
    engines = {p: LiteRTEngine(base, base / "serving" / p) for p in PRECISIONS}
    out: dict[str, Any] = {"prompts": prompts, "adapters": len(RANKS), "goals": GOALS}
    with tempfile.TemporaryDirectory() as name:
        adapters: list[Path | None] = [None, *write_adapters(Path(name))]
        nothing = Path(name) / "nothing"
        zero_like(Path(name) / f"rank-{RANKS[-1]}", nothing)
        task = progress.add_task("answers", total=len(adapters))
        logit_diff, near, zero, leak, changed = 0.0, [], 0.0, 0.0, []
        before: dict[tuple[str, Path | None], NDArray[np.float32]] = {}
        plain = torch_logits(reference, states)
        for adapter in adapters:
            reference.use_adapter(adapter)
            right, decisions = torch_logits(reference, states), decide_all(reference, states)
            if adapter is not None:
                changed.append(float(np.abs(right - plain).max(axis=(1, 2)).min()))
            for precision, engine in engines.items():
                engine.use_adapter(adapter)
                before[precision, adapter] = litert_logits(engine, states)
                if precision == "fp32":
                    logit_diff = max(logit_diff, float(np.abs(before[precision, adapter] - right).max()))
                else:
                    near.append(agreement(decide_all(engine, states), decisions))
            progress.advance(task)
        for precision, engine in engines.items():
            for adapter in reversed(adapters):
                engine.use_adapter(adapter)
                difference = float(np.abs(litert_logits(engine, states) - before[precision, adapter]).max())
                leak = max(leak, difference)
            engine.use_adapter(adapters[-1])
            engine.use_adapter(nothing)
            difference = float(np.abs(litert_logits(engine, states) - before[precision, None]).max())
            zero = max(zero, difference)
        out |= {
            "max_logit_diff_fp32": logit_diff,
            "action_agreement_int8": min(near),
            "zero_adapter_diff": zero,
            "leak_diff": leak,
            "least_change_by_an_adapter": min(changed),
        }
        out |= _times(reference, engines, states, adapters, progress)
    return out


def _times(
    reference: TorchEngine,
    engines: dict[str, LiteRTEngine],
    states: States,
    adapters: list[Path | None],
    progress: Progress,
) -> dict[str, Any]:
    everyone: dict[str, Engine] = {"torch": reference} | {f"litert_{p}": e for p, e in engines.items()}
    for engine in everyone.values():
        engine.use_adapter(adapters[-1])
    times: dict[str, list[float]] = {name: [] for name in everyone}
    count = len(states.phrases)
    for i in progress.track(range(-5, count), description="decisions"):
        for name, engine in everyone.items():
            took = timed(engine, states, i % count)
            if i >= 0:
                times[name].append(took)
    out: dict[str, Any] = {"decision_ms": {n: round(median(t), 3) for n, t in times.items()}}
    for precision in engines:
        ratios = [a / b for a, b in zip(times["torch"], times[f"litert_{precision}"], strict=True)]
        out[f"speedup_{precision}"] = round(median(ratios), 2)
    swaps: dict[str, float] = {}
    growth = 0.0
    for precision in progress.track(engines, description="swaps"):
        command = [sys.executable, "-m", "benchmarks.engine_swaps", precision, *map(str, adapters[1:])]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        growth = max(growth, told["rss_growth_mib"])
        swaps[precision] = told["swap_ms"]
    return out | {"swap_ms": swaps, "rss_growth_mib": growth, "swaps": SWAPS}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--prompts", type=int, default=120, help="at least 100 for the goals to count")
    asked = parser.parse_args()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        result = measure(asked.prompts, progress)
    good = (
        result["max_logit_diff_fp32"] <= GOALS["max_logit_diff_fp32"]
        and result["action_agreement_int8"] >= GOALS["action_agreement_int8"]
        and result["zero_adapter_diff"] == 0.0
        and result["leak_diff"] == 0.0
        and min(result["speedup_fp32"], result["speedup_int8"]) >= GOALS["speedup"]
        and result["rss_growth_mib"] < GOALS["rss_growth_mib"]
    )
    if asked.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:28} {value}")
        print("all goals are met" if good else "a goal is missed")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
