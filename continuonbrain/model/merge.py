"""A base with an adapter merged into its weights: another base, that drives as the first did with the adapter.

LoRA adds `scale * B @ A` to a weight (Hu et al. 2021, arXiv:2106.09685), so the sum can be the weight. Merged weights
are kept in fp32: in the base's fp16 a small adapter would be lost in the rounding. What comes out is compared with base
and adapter by torch, and nothing is kept that differs. Its graphs are those of another base: `continuonbrain model
export` makes new ones; without any it is served by torch.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from continuonbrain.errors import BrainError
from continuonbrain.model.base import load_base
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.model.decoder import first_shared_layer
from continuonbrain.model.driving import IMAGE_TOKENS, DrivingModel
from continuonbrain.model.lora import load_adapter
from continuonbrain.model.plain_lora import PlainLora, read_plain
from continuonbrain.storage.adapter_version import CARD_FILE, REFLEX_FILE, adapter_sha256_on_disk
from continuonbrain.storage.durable import new_directory_durably

WEIGHTS = "model.safetensors"
_COPIED = ("config.json", "connector.json", "connector.safetensors", "tokenizer.json")
_TOLERANCE = 1e-3
"""Of a logit, as the exports allow in fp32."""
_PROMPTS, _BEFORE, _BEHIND = 4, 8, 12


class MergeError(BrainError):
    """An adapter cannot be merged into this base. Nothing was kept."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What was written. max_logit_diff: largest difference of a logit between the merged base and base and adapter;
    moved: the same between the base alone and with the adapter; reflex: whose reflex head it has, "adapter", "base" or
    "" for none."""

    path: Path
    base_sha256: str
    grown_from: str
    adapter_sha256: str
    modules: int
    max_logit_diff: float
    moved: float
    reflex: str


def merge_adapter(base: Path, adapter: Path, out: Path) -> Merged:
    """Write `base` with `adapter` merged into its weights to the new folder `out`; whole, or not at all.

    Args:
        base: a base that drives.
        adapter: a PEFT folder that was trained on it, on any of its layers; its reflex head, if it has one, becomes the
            new base's.

    Raises:
        MergeError: `out` exists, or the two differ.
        BaseModelError, LoraError, AdapterError, OSError.
    """
    if out.exists():
        raise MergeError(f"{out} exists already", remedy="remove it, or choose another name")
    sha256, adapter_sha256 = base_sha256(base), adapter_sha256_on_disk(adapter)
    lora = read_plain(adapter)
    with new_directory_durably(out) as making:
        for name in _COPIED:
            shutil.copyfile(base / name, making / name)
        save_file(_merged(base, lora), making / WEIGHTS, metadata={"format": "pt"})
        # Some releases of safetensors write for their user alone; a base is copied by whoever carries it.
        shutil.copymode(making / "config.json", making / WEIGHTS)
        head = next((f / REFLEX_FILE for f in (adapter, base) if (f / REFLEX_FILE).is_file()), None)
        if head is not None:
            shutil.copyfile(head, making / REFLEX_FILE)
        (making / CARD_FILE).write_text(json.dumps(_card(base, sha256, adapter_sha256), indent=2) + "\n")
        differs, moved = _compare(making, base, adapter, lora, sha256)
        if not differs <= _TOLERANCE:
            raise MergeError(
                f"the adapter does not merge: logits differ by {differs:.2g}; nothing was kept",
                remedy="use an adapter with smaller numbers",
            )
        merged = base_sha256(making)
    whose = "" if head is None else "adapter" if head.parent == adapter else "base"
    return Merged(out, merged, sha256, adapter_sha256, len(lora.pairs), differs, moved, whose)


def _merged(base: Path, lora: PlainLora) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_file(base / WEIGHTS)
    for module, (a, b) in sorted(lora.pairs.items()):
        name = f"{module}.weight"
        weight = state.get(name)
        if weight is None or weight.shape != (b.shape[0], a.shape[1]):
            raise MergeError(
                f"the base has no weight {name} of this shape", remedy="use an adapter of this base"
            )
        state[name] = (weight.double() + b.double() @ a.double()).float().contiguous()
    return state


def _card(base: Path, sha256: str, adapter_sha256: str) -> dict[str, object]:
    try:
        card = json.loads((base / CARD_FILE).read_bytes())
    except (OSError, ValueError):
        card = {}
    # Whoever grew it stays named: scores are the old base's, and say nothing of this one.
    kept = {k: card[k] for k in ("name", "data") if isinstance(card, dict) and k in card}
    return {**kept, "grown_from": {"base_sha256": sha256, "adapter_sha256": adapter_sha256}}


def _compare(merged: Path, base: Path, adapter: Path, lora: PlainLora, sha256: str) -> tuple[float, float]:
    """(merged beside base and adapter, base alone beside base and adapter), the largest difference of a logit."""
    model: DrivingModel = load_base(base)
    prompts = _prompts(model)
    alone = _answers(model, prompts)
    _attach(model, adapter, lora, sha256)
    wanted = _answers(model, prompts)
    found = _answers(load_base(merged), prompts)
    return float((found - wanted).abs().max()), float((alone - wanted).abs().max())


def _attach(model: DrivingModel, adapter: Path, lora: PlainLora, sha256: str) -> None:
    """The adapter beside the weights: as a robot takes it; or, where it lies below the cut, too, as PEFT does."""
    first = first_shared_layer(model.decoder.config)
    if all(int(m.partition("layers.")[2].partition(".")[0] or first) >= first for m in lora.pairs):
        load_adapter(model, adapter, base_sha256=sha256, name="merged")
        return
    if lora.base != f"continuonbrain:{sha256}":
        raise MergeError(
            f"the adapter was trained on {lora.base[:27]}, this is base {sha256[:12]}",
            remedy="give the base that it was trained on",
        )
    model.language_model = PeftModel.from_pretrained(model.causal_lm, str(adapter), local_files_only=True)
    model.requires_grad_(False)
    model.eval()


def _prompts(model: DrivingModel) -> tuple[Tensor, Tensor]:
    """Token ids `[N, T]` with an image in each, and frames `[N, 120, 160, 3]`, of random content."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.causal_lm.config.vocab_size)

    def words(count: int) -> Tensor:
        drawn = torch.randint(1, vocabulary, (_PROMPTS, count), generator=generator)
        return torch.where(drawn == model.image_token, torch.ones_like(drawn), drawn)

    image = torch.full((_PROMPTS, IMAGE_TOKENS), model.image_token)
    ids = torch.cat([words(_BEFORE), image, words(_BEHIND + model.queries)], 1)
    frames = torch.randint(0, 256, (_PROMPTS, 120, 160, 3), generator=generator).to(torch.uint8)
    return ids, frames


@torch.inference_mode()
def _answers(model: DrivingModel, prompts: tuple[Tensor, Tensor]) -> Tensor:
    found: Tensor = model(*prompts)
    return found
