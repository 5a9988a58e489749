"""Two adapters as one: a slow and a fast one of rank 8 are, side by side, exactly one of rank 16.

LoRA adds `scale * B @ A` to a weight (Hu et al. 2021, arXiv:2106.09685). With A stacked by rows and B by columns,

    [s1 B1 | s2 B2] @ [A1 ; A2]  =  s1 B1 A1 + s2 B2 A2,

so the concatenation is the sum, not an approximation of it. The scales go into B; the result has scale 1. A module
that only one of the two trains gets zeros for the other.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from continuonbrain.model.lora import LoraError

_WEIGHTS, _SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_PLAIN = (
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "trainable_token_indices",
)
"""Settings of PEFT under which an adapter is more than A and B of one rank and scale."""


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        settings, tensors = json.loads((folder / _SETTINGS).read_bytes()), load_file(folder / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise LoraError(
            f"the adapter in {folder} cannot be read: {error}", remedy="train it again"
        ) from error
    odd = [name for name in _PLAIN if settings.get(name)] + (
        [] if settings.get("bias", "none") == "none" else ["bias"]
    )
    if settings.get("peft_type") != "LORA" or odd:
        what = ", ".join(odd) or f"peft_type {settings.get('peft_type')!r}"
        raise LoraError(
            f"{folder / _SETTINGS}: an adapter with {what} cannot be concatenated",
            remedy="use plain LoRA adapters of one rank and alpha each",
        )
    return settings, tensors


def _scale(settings: dict[str, Any]) -> float:
    rank = settings["r"]
    return float(settings["lora_alpha"]) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def concatenated(slow: Path, fast: Path) -> dict[str, bytes]:
    """The sum of two adapters (PEFT folders) as the files of one, of the rank of both together.

    Raises:
        LoraError: one cannot be read, they belong to different bases, or one is not plain LoRA.
    """
    (one, a), (other, b) = _read(slow), _read(fast)
    bases = one.get("base_model_name_or_path"), other.get("base_model_name_or_path")
    if bases[0] != bases[1]:
        raise LoraError(
            f"{slow} belongs to base {bases[0]}, {fast} to {bases[1]}",
            remedy="concatenate adapters of one base",
        )
    ranks = int(one["r"]), int(other["r"])
    scales = _scale(one), _scale(other)
    tensors: dict[str, Tensor] = {}
    for name in sorted(a.keys() | b.keys()):
        known = a[name] if name in a else b[name]
        parts = []
        for source, rank, scale in ((a, ranks[0], scales[0]), (b, ranks[1], scales[1])):
            if "lora_A" in name:
                parts.append(source.get(name, known.new_zeros(rank, known.shape[1])))
            else:
                parts.append(
                    source[name] * scale if name in source else known.new_zeros(known.shape[0], rank)
                )
        tensors[name] = torch.cat(parts, 0 if "lora_A" in name else 1).contiguous()
    total = sum(ranks)
    settings = one | {
        "r": total,
        "lora_alpha": total,
        "use_rslora": False,
        "target_modules": sorted({*one["target_modules"], *other["target_modules"]}),
    }
    with tempfile.TemporaryDirectory() as scratch:
        save_file(tensors, Path(scratch) / _WEIGHTS, metadata={"format": "pt"})
        weights = (Path(scratch) / _WEIGHTS).read_bytes()
    return {_WEIGHTS: weights, _SETTINGS: (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()}
