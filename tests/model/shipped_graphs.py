"""The graphs of the shipped base: where they are, and what torch says beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from continuonbrain.model.base import load_base
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.model.lora import load_adapter
from continuonbrain.model.serving.runtime import Graphs
from continuonbrain.model.serving.spec import DrivingSpec

BASE = tiny_base_folder()
SHA256 = base_sha256(BASE)
FP32, INT8 = BASE / "serving" / "fp32", BASE / "serving" / "int8"


def right(ids: NDArray[np.int64], frames: NDArray[np.uint8], adapter: Path | None) -> NDArray[np.float32]:
    """What torch and PEFT say."""
    model = load_base(BASE)
    if adapter is not None:
        load_adapter(model, adapter, base_sha256=SHA256, name="a")
    prompt = DrivingSpec.read(FP32).prompt
    rows = slice(prompt.answer_first, prompt.answer_first + prompt.answers)
    with torch.inference_mode():
        found: NDArray[np.float32] = model(torch.from_numpy(ids), torch.from_numpy(frames))[..., rows].numpy()
    return found


def ask(graphs: Graphs, ids: NDArray[np.int64], frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    out = []
    for row, frame in zip(ids, frames, strict=True):
        graphs.read(row, frame)
        out.append(graphs.answer())
    return np.stack(out)
