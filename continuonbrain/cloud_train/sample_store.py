"""Samples on disk, as all workers read them: frames stay there and are mapped, nothing is pickled.

frames.u8                      uint8 [n, 120, 160, 3], raw
arrays.safetensors             labels, commands, episodes, stamps; speeds with NaN for None
samples.json                   n, the instructions, which sample has which; written last
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from continuonbrain.robot.protocol import FRAME_SHAPE
from continuonbrain.storage.content_hash import sha256_of_files
from continuonbrain.storage.durable import write_json_durably
from continuonbrain.trainer.dataset import Samples

_FRAMES, _ARRAYS, _PAPER = "frames.u8", "arrays.safetensors", "samples.json"
_PLAIN = ("curvature", "speed_ahead", "weights", "command", "previous", "episode", "stamps")


def write_samples(folder: Path, parts: Iterable[Samples]) -> int:
    """Write sets of samples one behind the other, never more than one of them in memory with its frames; how many
    samples there are. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _PAPER).unlink(missing_ok=True)
    light: list[Samples] = []
    with open(folder / _FRAMES, "wb") as frames:
        for part in parts:
            for frame in part.frames:
                frames.write(np.ascontiguousarray(frame, np.uint8).data)
            light.append(replace(part, frames=np.zeros((len(part), 0), np.uint8)))
    said = [i for p in light for i in p.instructions]
    words = sorted(set(said))
    number = {word: i for i, word in enumerate(words)}
    speeds = np.array([np.nan if v is None else v for p in light for v in p.speeds])
    arrays = {}
    if light:
        # safetensors writes the memory as it lies, whatever order numpy has it in.
        columns = {name: np.concatenate([getattr(p, name) for p in light]) for name in _PLAIN}
        arrays = {name: np.ascontiguousarray(column) for name, column in columns.items()}
    which = np.array([number[i] for i in said], np.int64)
    save_file({"speeds": speeds, "which": which, **arrays}, folder / _ARRAYS)
    write_json_durably(folder / _PAPER, {"samples": len(said), "instructions": words})
    return len(said)


def store_sha256(folder: Path) -> str:
    """Of all that `write_samples` wrote. Raises OSError."""
    return sha256_of_files(folder, (_FRAMES, _ARRAYS, _PAPER))


def read_samples(folder: Path) -> Samples | None:
    """The samples at `folder`, frames mapped; None where there are none. Raises OSError, ValueError."""
    try:
        paper = json.loads((folder / _PAPER).read_bytes())
    except FileNotFoundError:
        return None
    count = int(paper["samples"])
    if not count:
        return None
    arrays = load_file(folder / _ARRAYS)
    frames = np.memmap(folder / _FRAMES, np.uint8, "r", shape=(count, *FRAME_SHAPE))
    words: list[str] = paper["instructions"]
    return Samples(
        frames=frames,
        instructions=[words[i] for i in arrays["which"]],
        speeds=[None if np.isnan(v) else float(v) for v in arrays["speeds"]],
        **{name: arrays[name] for name in _PLAIN},
    )
