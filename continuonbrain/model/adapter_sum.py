"""Two adapters as one: a slow and a fast one of rank 8 are, side by side, exactly one of rank 16.

LoRA adds `scale * B @ A` to a weight (Hu et al. 2021, arXiv:2106.09685). With A stacked by rows and B by columns,

    [s1 B1 | s2 B2] @ [A1 ; A2]  =  s1 B1 A1 + s2 B2 A2,

so the concatenation is the sum, not an approximation of it. The scales go into B; the result has scale 1. A module
that only one of the two trains gets zeros for the other.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from continuonbrain.model.lora import LoraError

_WEIGHTS, _SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_FREE = frozenset(
    {
        "r",
        "lora_alpha",
        "use_rslora",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "base_model_name_or_path",
        "init_lora_weights",
        "lora_dropout",
        "inference_mode",
        "task_type",
        "peft_version",
        "revision",
        "auto_mapping",
    }
)
"""Settings that say nothing beyond what the tensors' names, the rank and the scale say. Any other one has to be at
PEFT's default: it would make an adapter more than A and B."""
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_AGAIN = "use plain LoRA adapters of one rank and alpha each, trained on the same base"


@dataclass(frozen=True, slots=True)
class _Adapter:
    """pairs: module -> (A `[rank, in]`, B `[out, rank]` times the scale), fp32 or wider."""

    settings: dict[str, Any]
    rank: int
    pairs: dict[str, tuple[Tensor, Tensor]]


def _read(folder: Path) -> _Adapter:
    try:
        settings, tensors = json.loads((folder / _SETTINGS).read_bytes()), load_file(folder / _WEIGHTS)
        rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise LoraError(
            f"the adapter in {folder} cannot be read: {error!r}", remedy="train it again"
        ) from error
    default = LoraConfig().to_dict()
    odd = sorted(k for k, v in settings.items() if k not in _FREE and v != _plain(default.get(k)) and v)
    if odd or rank < 1:
        what = ", ".join(f"{k} = {settings[k]!r}" for k in odd) or f"r = {rank}"
        raise LoraError(f"{folder / _SETTINGS}: an adapter with {what} cannot be concatenated", remedy=_AGAIN)
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if found is None or tensor.dim() != 2 or not bool(torch.isfinite(tensor).all()):
            raise LoraError(f"{folder / _WEIGHTS}: {name} is no finite LoRA matrix", remedy=_AGAIN)
        wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        sides.setdefault(found["module"], {})[found["side"]] = wide
    pairs = {}
    for module, side in sides.items():
        if side.keys() != {"A", "B"} or side["A"].shape[0] != rank or side["B"].shape[1] != rank:
            raise LoraError(f"{folder / _WEIGHTS}: {module} has no A and B of rank {rank}", remedy=_AGAIN)
        pairs[module] = side["A"], side["B"] * scale
    if not pairs:
        raise LoraError(f"{folder / _WEIGHTS} holds no tensors", remedy="train it again")
    return _Adapter(settings, rank, pairs)


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set) else getattr(value, "value", value)


def concatenated(slow: Path, fast: Path) -> dict[str, bytes]:
    """The sum of two adapters (PEFT folders) as the files of one, of the rank of both together.

    Raises:
        LoraError: one cannot be read, they belong to different bases or shapes, or one is not plain LoRA.
    """
    one, other = _read(slow), _read(fast)
    bases = [a.settings.get("base_model_name_or_path") for a in (one, other)]
    if bases[0] != bases[1]:
        raise LoraError(
            f"{slow} belongs to base {bases[0]}, {fast} to {bases[1]}",
            remedy="concatenate adapters of one base",
        )
    tensors: dict[str, Tensor] = {}
    for module in sorted(one.pairs.keys() | other.pairs.keys()):
        known_a, known_b = one.pairs[module] if module in one.pairs else other.pairs[module]
        nothing = {
            id(a): (known_a.new_zeros(a.rank, known_a.shape[1]), known_b.new_zeros(known_b.shape[0], a.rank))
            for a in (one, other)
        }
        parts = [a.pairs.get(module, nothing[id(a)]) for a in (one, other)]
        if parts[0][0].shape[1] != parts[1][0].shape[1] or parts[0][1].shape[0] != parts[1][1].shape[0]:
            raise LoraError(f"{module} has another shape in {slow} than in {fast}", remedy=_AGAIN)
        stem = f"base_model.model.{module}"
        tensors[f"{stem}.lora_A.weight"] = torch.cat([a for a, _ in parts]).contiguous()
        tensors[f"{stem}.lora_B.weight"] = torch.cat([b for _, b in parts], 1).contiguous()
    total = one.rank + other.rank
    settings = one.settings | {
        "r": total,
        "lora_alpha": total,
        "use_rslora": False,
        "target_modules": sorted(one.pairs.keys() | other.pairs.keys()),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
    with tempfile.TemporaryDirectory() as scratch:
        save_file(tensors, Path(scratch) / _WEIGHTS, metadata={"format": "pt"})
        weights = (Path(scratch) / _WEIGHTS).read_bytes()
    return {_WEIGHTS: weights, _SETTINGS: (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()}
