"""The base that talks, what it is asked, the library's own model of it, and adapters for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Gemma3nForCausalLM

from continuonbrain.model.base_identity import checkpoint_sha256
from continuonbrain.model.lora import add_lora, lora_config, peft_files

BASE = Path(__file__).parents[1] / "talking_base" / "base"
BUNDLE = BASE / "language" / "fp32"
BASE_SHA256 = checkpoint_sha256(BASE)
ASKED = [
    [2],
    [2, 4, 293, 291, 306],
    list(range(3, 40)),
    list(range(3, 120)),
    [2, 4, 293, 291, 307],
    list(range(3, 41)),
]


def library() -> Any:
    """The library's own model of the base, in fp32, its scales rounded to the type that the base is stored in: so does
    the library itself when it loads a base as it stands."""
    model = Gemma3nForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("scale"):
            buffer.copy_(buffer.half().float())
    return model


def make_adapter(folder: Path, *, seed: int, rank: int = 4, base: str = BASE_SHA256) -> Path:
    """A PEFT folder of random numbers, saved by PEFT."""
    torch.manual_seed(seed)
    model = Gemma3nForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    config = lora_config(model, ["q_proj", "o_proj", "up_proj", "linear_left"], rank=rank, alpha=2.0 * rank)
    wrapped = add_lora(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.6)
    folder.mkdir(parents=True)
    scratch = folder.parent / f".{folder.name}"
    scratch.mkdir()
    for name, data in peft_files(wrapped, scratch, base_sha256=base).items():
        (folder / name).write_bytes(data)
    return folder


def whole(model: Any, ids: list[int]) -> Any:
    with torch.inference_mode():
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1].numpy()


def damaged(change: Callable[[Path], None], tmp_path: Path) -> Path:
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    change(base)
    return base


def edited(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        settings = json.loads((base / name).read_text())
        (base / name).write_text(json.dumps({k: v for k, v in (settings | changes).items() if v is not None}))

    return change
