"""The memory of training Gemma 3n E2B from a checkpoint on disk: caching and steps, each a process of its own.

    python -m benchmarks.train_memory [--json]

int8 weights, the whole vocabulary, batches of 8 prompts of 320 tokens. A synthetic checkpoint with the real key names
(`benchmarks.e2b_shapes`, 9.9 GB for e2b) is written to --folder first unless it is there.

--frames gives every prompt a camera frame of its own (160x120, as 256 of its tokens): the vision tower of the real
shape sees each once before the layers are loaded. It needs the extra [frames].

Keys: peak_rss_mib (the training process), cache_peak_rss_mib (the caching process, its embedding tables mapped from
disk); load_s and seconds a sample of both; vision_s_per_frame; loss of the first and the last step.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.e2b_shapes import SHAPES, write_checkpoint
from benchmarks.lora_step import RANK, TARGETS, prompts
from continuonbrain.model.checkpoint import Checkpoint
from continuonbrain.model.decoder import decoder_of
from continuonbrain.model.head_loss import head_loss
from continuonbrain.model.lora import add_lora, lora_config
from continuonbrain.model.phases import Precision, load_bottom, load_top
from continuonbrain.model.streams import Streams, collate
from continuonbrain.model.suffix import capture, keep, run_suffix
from continuonbrain.trainer.seen import Seen
from continuonbrain.trainer.steps import peak_rss_mib
from continuonbrain.trainer.token_samples import TokenSample

_STEPS = 4
FRAME_TOKENS = 256


def cache(folder: Path, file: Path, batch: int, tokens: int, supervised: int, frames: bool) -> dict[str, Any]:
    """The caching process: one prompt at a time, as a robot with little memory does it."""
    from safetensors.torch import save_file

    checkpoint, precision = Checkpoint(folder), Precision.of_this_machine()
    ids = prompts(4000, batch, tokens)
    shown: list[tuple[Any, ...]] = [() for _ in ids]
    if frames:
        first = tokens - supervised - 8 - FRAME_TOKENS
        ids[:, first : first + FRAME_TOKENS] = checkpoint.raw_config["image_token_id"]
        camera = np.random.default_rng(0).integers(0, 256, (batch, 120, 160, 3), np.uint8)
        shown = [(picture,) for picture in camera]
    samples = [
        TokenSample(tuple(row.tolist()), supervised, pictures)
        for row, pictures in zip(ids, shown, strict=True)
    ]
    place = torch.arange(tokens - supervised - 1, tokens - 1)
    kept = []
    looked = time.perf_counter()
    with Seen(checkpoint, samples, precision, 256, file.parent) as seen:
        started = time.perf_counter()
        decoder = load_bottom(checkpoint, precision)
        loaded = time.perf_counter()
        with torch.no_grad():
            for sample in samples:
                inputs = seen.inputs(decoder.text, sample)
                bottom = capture(decoder, lambda inputs=inputs: decoder.text(**inputs, use_cache=False))  # type: ignore[misc]
                kept += keep(decoder, bottom, [place])
        ended = time.perf_counter()
    labels = ids[:, place + 1]
    save_file({"labels": labels.contiguous()} | collate(kept).tensors(), file)
    return {
        "cache_peak_rss_mib": round(peak_rss_mib(), 1),
        "cache_load_s": round(loaded - started, 1),
        "cache_s_per_sample": round((ended - loaded) / batch, 3),
    } | ({"vision_s_per_frame": round((started - looked) / batch, 3)} if frames else {})


def train(folder: Path, file: Path) -> dict[str, Any]:
    """The training process: it never sees the layers below the cut."""
    from safetensors.torch import load_file

    started = time.perf_counter()
    model, head = load_top(Checkpoint(folder), Precision.of_this_machine())
    torch.manual_seed(0)
    wrapped = add_lora(model, lora_config(model, TARGETS, rank=RANK, alpha=2 * RANK))
    loaded = time.perf_counter()
    stored = load_file(file)
    labels = stored.pop("labels")
    streams, decoder = Streams.from_tensors(stored), decoder_of(wrapped)
    optimiser = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], 1e-3)
    losses = []
    began = time.perf_counter()
    for _ in range(_STEPS):
        optimiser.zero_grad()
        loss = head_loss(run_suffix(decoder, streams), labels, head, soft_cap=decoder.soft_cap)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return {
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "load_s": round(loaded - started, 1),
        "s_per_sample": round((time.perf_counter() - began) / _STEPS / len(streams), 3),
        "loss_first": round(losses[0], 4),
        "loss_last": round(losses[-1], 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="the checkpoint; written first when it is not there")
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="e2b")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=320)
    parser.add_argument("--supervised", type=int, default=4, help="answer tokens of a sample")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--frames", action="store_true", help="every prompt with a camera frame")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--phase", choices=("cache", "train"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    kind = asked.shapes + ("-seeing" if asked.frames else "")
    folder = asked.folder or Path(tempfile.gettempdir()) / f"continuonbrain-synthetic-{kind}"
    torch.set_num_threads(asked.threads)
    if asked.phase == "cache":
        print(
            json.dumps(cache(folder, asked.file, asked.batch, asked.tokens, asked.supervised, asked.frames))
        )
        return 0
    if asked.phase == "train":
        print(json.dumps(train(folder, asked.file)))
        return 0
    if asked.frames and not all(importlib.util.find_spec(name) for name in ("timm", "torchvision")):
        parser.error(
            "--frames needs timm and torchvision, from the index that torch came from: pip install '.[frames]'"
        )
    if not (folder / "config.json").exists():
        write_checkpoint(folder, asked.shapes, vision=asked.frames)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for phase in ("cache", "train"):
            command = [
                sys.executable,
                "-m",
                "benchmarks.train_memory",
                "--phase",
                phase,
                "--folder",
                str(folder),
            ]
            command += ["--file", str(Path(scratch) / "streams.safetensors"), "--threads", str(asked.threads)]
            command += ["--batch", str(asked.batch), "--tokens", str(asked.tokens)]
            command += ["--supervised", str(asked.supervised)] + (["--frames"] if asked.frames else [])
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result |= json.loads(done.stdout)
    result |= {"shapes": asked.shapes, "batch": asked.batch, "tokens": asked.tokens}
    if asked.json:
        print(json.dumps(result))
    else:
        print(
            f"training {result['peak_rss_mib']:.0f} MiB ({result['s_per_sample']} s a sample), caching "
            f"{result['cache_peak_rss_mib']:.0f} MiB ({result['cache_s_per_sample']} s a sample); "
            f"loss {result['loss_first']} to {result['loss_last']} in {_STEPS} steps"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
