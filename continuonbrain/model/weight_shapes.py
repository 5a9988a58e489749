"""Names and shapes in safetensors files, from their headers alone, and what they say about fitting together. No torch.

The format: 8 bytes of length (little-endian), that much JSON, then the numbers
(https://github.com/huggingface/safetensors, "Format"). The library checks offsets against the file's size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from continuonbrain.errors import BrainError

_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_MOST_RANK = 1024

Shapes = dict[str, tuple[int, ...]]


class ShapeError(BrainError):
    """Weights are damaged, or of other shapes than they have to be."""


def shapes_of(path: Path) -> Shapes:
    """Name -> shape of every tensor in a file. Raises ShapeError for a file that is none."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ShapeError(f"{path} is no safetensors file: {error}", remedy="have it made again") from error


def other_shapes(own: Path, grown_from: Path) -> str:
    """Why the weights of a base do not have the shapes of those that it grew from, "" when they do. Raises
    ShapeError."""
    mine, theirs = shapes_of(own), shapes_of(grown_from)
    if odd := sorted(mine.keys() ^ theirs.keys()):
        return f"{own.name}: {odd[0]} is in one of the two bases only"
    for name, shape in sorted(mine.items()):
        if shape != theirs[name]:
            return f"{own.name}: {name} is {list(shape)}, {list(theirs[name])} in the base it grew from"
    return ""


def adapter_refusal(files: Mapping[str, bytes], base: Path) -> str:
    """Why an adapter in memory does not fit the weights of the base in `base`, "" when it does.

    Its tensors must be the A `[rank, in]` and B `[out, rank]` of one rank, of weights `[out, in]` that the base has,
    of finite numbers in fp16, fp32 or fp64.
    """
    try:
        settings = json.loads(files["adapter_config.json"])
        rank = settings["r"] if isinstance(settings, dict) else None
        tensors = load(files["adapter_model.safetensors"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"adapter_model.safetensors or adapter_config.json cannot be read: {error!r}"
    if type(rank) is not int or not 1 <= rank <= _MOST_RANK:
        return f"adapter_config.json: r = {rank!r} is no rank from 1 to {_MOST_RANK}"
    if (kind := settings.get("peft_type", "LORA")) != "LORA":
        return f"adapter_config.json: peft_type = {kind!r} is not LORA"
    weights = shapes_of(base / "model.safetensors")
    sides: dict[str, set[str]] = {}
    for name, array in sorted(tensors.items()):
        shape = tuple(array.shape)
        named = _FACTOR.fullmatch(name)
        if named is None:
            return f"adapter_model.safetensors: {name[:100]} is no LoRA matrix"
        weight = weights.get(f"{named['module']}.weight", ())
        if len(weight) != 2:
            return f"adapter_model.safetensors: the base has no {named['module'][:100]}"
        wanted = (rank, weight[1]) if named["side"] == "A" else (weight[0], rank)
        if shape != wanted:
            return f"adapter_model.safetensors: {name} is {list(shape)}, {list(wanted)} fits this base"
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            return f"adapter_model.safetensors: {name} ({array.dtype}) holds other than finite floating-point numbers"
        sides.setdefault(named["module"], set()).add(named["side"])
    if half := sorted(module for module, both in sides.items() if both != {"A", "B"}):
        return f"adapter_model.safetensors: {half[0]} has one matrix of two"
    return "" if sides else "adapter_model.safetensors holds no tensors"
