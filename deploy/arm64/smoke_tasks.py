"""What `smoke.py` runs in the emulated root that is not a command of the package; the same file runs natively, to say
what the answers have to be.

    python smoke_tasks.py platform
    python smoke_tasks.py answers --adapter FOLDER [--engine NAME]
    python smoke_tasks.py train --to FOLDER
    python smoke_tasks.py store --files FOLDER --root ROOT

Each prints one line of JSON last.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES, STEPS, BATCH = 48, 8, 8
ENGINES = ("torch", "litert_fp32", "litert_int8")
_SAYS = ("drive", "keep left", "drive slowly", "stop")


def versions() -> dict[str, Any]:
    """Where this runs, and which versions are installed."""
    import torch

    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpuinfo": sorted(set(re.findall(r"CPU part\s*: (\S+)", Path("/proc/cpuinfo").read_text()))),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "installed": {found.name: found.version for found in metadata.distributions()},
    }


def opened(name: str, base: Path) -> Any:
    """An engine on the shipped base. LiteRT's needs no torch, and gets none."""
    if name == "torch":
        from continuonbrain.policy.torch_engine import TorchEngine

        return TorchEngine(base)
    from continuonbrain.policy.litert_engine import LiteRTEngine

    return LiteRTEngine(base, base / "serving" / name.removeprefix("litert_"))


def answers(adapter: Path, only: str | None) -> dict[str, Any]:
    """What every engine (or one) answers to fixed frames, by the base alone and with the adapter in `adapter`.

    The frames are drawn natively and kept beside it: cosines of another library would draw other roads.
    """
    from continuonbrain.model.base_identity import tiny_base_folder

    saved = adapter / "frames.npy"
    if not saved.exists():
        from continuonbrain.trainer.states import replay_samples

        np.save(saved, replay_samples(len(_SAYS), seed=7).frames)
    frames = np.load(saved)
    found: dict[str, Any] = {}
    for name in [only] if only else ENGINES:
        engine = opened(name, tiny_base_folder())
        for who, folder in (("base", None), ("adapter", adapter)):
            engine.use_adapter(folder)
            got = [
                engine.decide(frame[None], [says], [0.5]) for frame, says in zip(frames, _SAYS, strict=True)
            ]
            found[f"{name}_{who}"] = [
                [*map(float, g.curvature.ravel()), *map(float, g.speed.ravel())] for g in got
            ]
    return found


def train(to: Path) -> dict[str, Any]:
    """A short LoRA training on the shipped base by the trainer's own job; the adapter's files go to `to`."""
    from tokenizers import Tokenizer

    from continuonbrain.model.base import load_base
    from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
    from continuonbrain.policy.prompt import PromptLayout
    from continuonbrain.trainer.job import JobSettings, train_adapter
    from continuonbrain.trainer.states import replay_samples

    base = tiny_base_folder()
    layout = PromptLayout(Tokenizer.from_file(str(base / "tokenizer.json")))
    settings = JobSettings(rank=4, alpha=8.0, batch_size=BATCH, max_steps=STEPS, max_wall_time_s=1e9)
    samples = replay_samples(SAMPLES, seed=3)
    result = train_adapter(load_base(base), layout, samples, settings, base_sha256=base_sha256(base))
    to.mkdir(parents=True, exist_ok=True)
    for name, data in result.files.items():
        (to / name).write_bytes(data)
    return {"losses": result.losses, "files": sorted(result.files), "ended": result.ended}


def store(files: Path, root: Path) -> dict[str, Any]:
    """Stage the trained adapter, promote it, and have both engines drive what `current` is."""
    from benchmarks.small_verdict import judged
    from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
    from continuonbrain.storage.adapters import AdapterStore
    from continuonbrain.storage.layout import BrainLayout

    base = tiny_base_folder()
    identity = base_sha256(base)
    kept = AdapterStore(BrainLayout(root))
    version = kept.stage(
        {path.name: path.read_bytes() for path in sorted(files.iterdir()) if path.suffix != ".npy"}
    )
    kept.promote(version.version_id, judged(version, identity), base_sha256=identity)
    current = kept.current()
    assert current is not None
    frame = np.zeros((1, 120, 160, 3), np.uint8)
    told = {}
    for name in ("litert_fp32", "torch"):
        engine = opened(name, base)
        alone = engine.decide(frame, ["drive"], [0.5]).curvature
        engine.use_adapter(current.path)
        told[name] = {
            "sha256": engine.adapter_sha256,
            "moved": float(np.abs(engine.decide(frame, ["drive"], [0.5]).curvature - alone).max()),
        }
    return {
        "current": current.version_id,
        "sha256": current.compute_sha256(),
        "history_ok": kept.verify_history().ok,
        "engines": told,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("platform")
    of_answers = tasks.add_parser("answers")
    of_answers.add_argument("--adapter", type=Path, required=True)
    of_answers.add_argument("--engine")
    tasks.add_parser("train").add_argument("--to", type=Path, required=True)
    of_store = tasks.add_parser("store")
    of_store.add_argument("--files", type=Path, required=True)
    of_store.add_argument("--root", type=Path, required=True)
    asked = parser.parse_args()
    match asked.task:
        case "platform":
            told = versions()
        case "answers":
            told = answers(asked.adapter, asked.engine)
        case "train":
            told = train(asked.to)
        case _:
            told = store(asked.files, asked.root)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
