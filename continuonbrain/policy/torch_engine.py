"""The reference engine: transformers' Gemma 3n with PEFT adapters, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from continuonbrain.model.base import load_base
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.lora import detach_lora, load_adapter
from continuonbrain.policy import codec
from continuonbrain.policy.engine import Arrays, Decisions, must_be_finite, refusing
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.policy.reflex import Reflex
from continuonbrain.storage.content_hash import sha256_of_adapter


def read_answers(layout: PromptLayout, logits: torch.Tensor) -> Decisions:
    """Logits `[B, 10, V]` -> decisions: the expectation over each question's own bins."""
    knots = len(codec.CURVATURE_KNOTS_M)
    bends = slice(layout.curvature_first, layout.curvature_first + codec.CURVATURE_BINS.count)
    speeds = slice(layout.speed_first, layout.speed_first + codec.SPEED_BINS.count)
    curvature = torch.softmax(logits[:, :knots, bends].float(), -1).numpy()
    speed = torch.softmax(logits[:, knots:, speeds].float(), -1).numpy()
    return Decisions(codec.decode_curvature(curvature), codec.decode_speed(speed))


class TorchEngine:
    """An `Engine`. threads: torch's thread count for this process (None leaves it)."""

    def __init__(self, base: Path, *, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._base_sha256 = base_sha256(base)
        self.model: DrivingModel = load_base(base)
        self.layout = PromptLayout.from_folder(base)
        self._adapter_sha256 = ""
        self._base_reflex = self._reflex = Reflex.of_folder(base)

    @property
    def reflex(self) -> Reflex | None:
        return self._reflex

    @property
    def base_sha256(self) -> str:
        return self._base_sha256

    @property
    def adapter_sha256(self) -> str:
        return self._adapter_sha256

    def decide(
        self, frames: NDArray[np.uint8], instructions: Sequence[str], speeds_mps: Sequence[float | None]
    ) -> Decisions:
        return self.decide_and_show(frames, instructions, speeds_mps)[0]

    def decide_and_show(
        self, frames: NDArray[np.uint8], instructions: Sequence[str], speeds_mps: Sequence[float | None]
    ) -> tuple[Decisions, NDArray[np.int64], Arrays]:
        with torch.inference_mode():
            ids = self.layout.ids(instructions, speeds_mps)
            streams = self.model.encode(torch.from_numpy(ids), torch.from_numpy(frames))
            shown = {name: tensor.numpy() for name, tensor in streams.tensors().items()}
            return read_answers(self.layout, self.model.decode(streams)), ids, shown

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
        if folder is None:
            detach_lora(self.model)
            self._adapter_sha256, self._reflex = "", self._base_reflex
            return
        with refusing(folder):
            # Before the adapter is attached: a damaged head must leave everything as it was.
            reflex = Reflex.of_folder(folder)
            name = sha256 or sha256_of_adapter(folder)
            load_adapter(
                self.model,
                folder,
                base_sha256=self._base_sha256,
                name=f"sha_{name[:16]}",
                trial=lambda: must_be_finite(folder, self._tried()),
            )
        # Not the base's: that one has never seen this adapter's roads.
        self._adapter_sha256, self._reflex = name, reflex

    def _tried(self) -> NDArray[np.float32]:
        frame = np.zeros((1, 120, 160, 3), np.uint8)
        return np.concatenate([part.ravel() for part in self.decide(frame, ["drive"], [0.0])])
