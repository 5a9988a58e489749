"""Adapters as pairs of matrices: what a new one is trained from, or on top of.

LoRA adds `scale * B @ A` to a weight (Hu et al. 2021, arXiv:2106.09685). With A stacked by rows and B by columns,

    [s1 B1 | s2 B2] @ [A1 ; A2]  =  s1 B1 A1 + s2 B2 A2,

so a slow adapter of rank 8 and a fast one of rank 8 side by side are exactly one of rank 16 (`on_top`), and the nearest
adapter of rank 8 to those two is their product's truncated singular value decomposition (`folded`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
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
class PlainLora:
    """pairs: module -> (A `[rank, in]`, B `[out, rank]` times the scale), fp32 or wider; base: the one it names."""

    rank: int
    pairs: dict[str, tuple[Tensor, Tensor]]
    base: str

    @property
    def sha256(self) -> str:
        """Of what it does: names and numbers."""
        digest = hashlib.sha256()
        for module, pair in sorted(self.pairs.items()):
            digest.update(module.encode())
            for tensor in pair:
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def modules(self) -> set[str]:
        """The last parts of its modules' names, as LoRA targets are named."""
        return {module.rsplit(".", 1)[-1] for module in self.pairs}


def read_plain(folder: Path) -> PlainLora:
    """An adapter folder (PEFT). Raises `LoraError` when it cannot be read, or is more than A and B of one rank."""
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
        raise LoraError(f"{folder / _SETTINGS}: an adapter with {what} is more than A and B", remedy=_AGAIN)
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
    return PlainLora(rank, pairs, str(settings.get("base_model_name_or_path")))


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set) else getattr(value, "value", value)


def folded(lora: PlainLora, rank: int) -> tuple[PlainLora, float]:
    """The nearest adapter of a rank (Eckart and Young 1936), and how far it is: the largest relative Frobenius distance
    of a module's product.

    The product itself is never formed: with B = Q1 R1 and A' = Q2 R2, the singular values of B A are those of the small
    R1 R2'. Singular values are shared out evenly, so that both factors train at the same pace.
    """
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    worst = 0.0
    for module, (a, b) in lora.pairs.items():
        q_b, r_b = torch.linalg.qr(b.double())
        q_a, r_a = torch.linalg.qr(a.double().T)
        u, values, v = torch.linalg.svd(r_b @ r_a.T)
        root = values[:rank].sqrt()
        near_b, near_a = q_b @ u[:, :rank] * root, root[:, None] * (q_a @ v.T[:, :rank]).T
        if near_a.shape[0] < rank:  # of a smaller rank than asked: filled up with zeros
            missing = rank - near_a.shape[0]
            near_a = torch.cat([near_a, near_a.new_zeros(missing, near_a.shape[1])])
            near_b = torch.cat([near_b, near_b.new_zeros(near_b.shape[0], missing)], 1)
        total = float(values.norm())
        if total > 0:
            worst = max(worst, float(values[rank:].norm()) / total)
        pairs[module] = near_a.to(a.dtype).contiguous(), near_b.to(b.dtype).contiguous()
    return PlainLora(rank, pairs, lora.base), worst


@dataclass(frozen=True, slots=True)
class Start:
    """What a job begins with instead of nothing. frozen: it stays as it is, and a new adapter is trained on top of it;
    else its own numbers are trained on."""

    lora: PlainLora
    frozen: bool

    @property
    def sha256(self) -> str:
        """Names the start."""
        return f"{'below' if self.frozen else 'from'}:{self.lora.sha256}"


class Begun:
    """A start at its place in a model that PEFT wraps with an adapter of at least the start's rank.

    The first `rank` rows of A and columns of B are the start's. Frozen ones get no gradient; `hold` sets them back to
    what they were, as weight decay changes what has no gradient, too.

    Raises:
        LoraError: the start has modules that the adapter has not, or of other shapes.
    """

    def __init__(self, language_model: Any, start: Start) -> None:
        self._held: list[tuple[torch.nn.Parameter, Tensor, int]] = []
        rank, left = start.lora.rank, dict(start.lora.pairs)
        with torch.no_grad():
            for name, layer in _lora_layers(language_model):
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                pair = left.pop(name, None)
                if pair is None and not start.frozen:
                    continue
                if pair is None:  # nothing lies below here: rows of zeros that stay
                    pair = a.new_zeros(rank, a.shape[1]), b.new_zeros(b.shape[0], rank)
                if pair[0].shape != a[:rank].shape or pair[1].shape != b[:, :rank].shape:
                    raise LoraError(f"{name} of the adapter has another shape in this base", remedy=_AGAIN)
                a[:rank] = pair[0]
                b[:, :rank] = pair[1] / layer.scaling["default"]
                if start.frozen:
                    self._hold(a, rank, 0)
                    self._hold(b, rank, 1)
        if left:
            raise LoraError(
                f"the adapter has {len(left)} modules that lora_layers does not name, e.g. {sorted(left)[0]}",
                remedy="name them in lora_layers of config.json again",
            )

    def hold(self) -> None:
        """Set what is frozen back."""
        with torch.no_grad():
            for parameter, value, axis in self._held:
                parameter.narrow(axis, 0, value.shape[axis]).copy_(value)

    def _hold(self, parameter: torch.nn.Parameter, rank: int, axis: int) -> None:
        def without(gradient: Tensor) -> Tensor:
            changed = gradient.clone()
            changed.narrow(axis, 0, rank).zero_()
            return changed

        parameter.register_hook(without)
        self._held.append((parameter, parameter.detach().narrow(axis, 0, rank).clone(), axis))


def _lora_layers(language_model: Any) -> list[tuple[str, Any]]:
    return [
        (name.removeprefix("base_model.model."), module)
        for name, module in language_model.named_modules()
        if isinstance(module, LoraLayer) and "default" in module.lora_A
    ]
