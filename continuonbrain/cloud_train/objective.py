"""The model with an adapter on the layers that were asked for, and the loss of a batch, as one module for an engine.

With LoRA in the KV-shared layers only, what lies below the cut is a constant of the sample, as on the robot. With LoRA
in every layer it is not, and the whole model runs forward and back at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from continuonbrain.cloud_train.errors import TrainRefused
from continuonbrain.cloud_train.recipe import Recipe
from continuonbrain.model.base import load_base
from continuonbrain.model.decoder import decoder_of, unwrapped
from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.lora import attach_lora, lora_targets, peft_files
from continuonbrain.model.streams import Streams
from continuonbrain.policy.prompt import PromptLayout
from continuonbrain.trainer.objective import action_loss, query_weights, soft_targets
from continuonbrain.trainer.pool import Pool

Batch = dict[str, Tensor]
_ENCODE_BATCH = 16
_TARGETS, _WEIGHTS = "answer.targets", "answer.weights"


class Objective(nn.Module):
    """Batch of `batch_of` or `cached` -> mean loss. frozen_below: nothing below the cut is trained."""

    def __init__(self, model: DrivingModel, *, frozen_below: bool) -> None:
        super().__init__()
        self.model = model
        self.frozen_below = frozen_below

    def forward(self, batch: Batch) -> Tensor:
        targets, weights = batch[_TARGETS], batch[_WEIGHTS]
        return action_loss(self.model.decode(self.streams(batch)), targets, weights)

    def streams(self, batch: Batch) -> Streams:
        """What enters the layers above the cut."""
        if "ids" not in batch:
            return Streams.from_tensors({n: t for n, t in batch.items() if not n.startswith("answer.")})
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_below):
            return self.model.encode(batch["ids"], batch["frames"])


def open_model(base: Path, base_sha256: str, recipe: Recipe) -> tuple[DrivingModel, dict[str, nn.Parameter]]:
    """The base with a fresh adapter (B = 0), from the recipe's seed; its trainable parameters by name."""
    model = load_base(base)
    torch.manual_seed(recipe.seed)
    if recipe.layers == "top":
        attach_lora(
            model, base_sha256=base_sha256, rank=recipe.rank, alpha=recipe.alpha, targets=recipe.targets
        )
    else:
        _attach_everywhere(model, recipe)
    return model, {n: p for n, p in model.language_model.named_parameters() if p.requires_grad}


def _attach_everywhere(model: DrivingModel, recipe: Recipe) -> None:
    decoder = decoder_of(model.causal_lm)
    (stem,) = (n for n, module in model.causal_lm.named_modules() if module is decoder.text)
    shared = set(lora_targets([t for t in recipe.targets if t not in ("k_proj", "v_proj")]))
    names = shared | set(recipe.targets)
    wanted = [
        f"{stem}.layers.{layer}.{path}"
        for layer, block in enumerate(decoder.text.layers)
        for path, module in block.named_modules()
        if path.rsplit(".", 1)[-1] in names and isinstance(module, nn.Linear)
    ]
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # PEFT annotates int; it only divides
        lora_dropout=0.0,
        target_modules=wanted,
    )
    wrapped = get_peft_model(model.causal_lm, config)
    attached: Any = wrapped.peft_config[wrapped.active_adapter]
    # PEFT shortens long lists of names to what is unambiguous in the model at hand.
    attached.target_modules = {
        name for name, module in unwrapped(wrapped).named_modules() if isinstance(module, BaseTunerLayer)
    }
    model.language_model = wrapped


def adapter_of(model: DrivingModel, base_sha256: str, scratch: Path) -> dict[str, bytes]:
    """The adapter as a PEFT folder's files. scratch: an empty folder."""
    wrapped = model.language_model
    if not isinstance(wrapped, PeftModel):
        raise TrainRefused("there is no adapter to save")
    return peft_files(wrapped, scratch, base_sha256=base_sha256)


def answers_of(layout: PromptLayout, pool: Pool, rows: NDArray[np.int64]) -> Batch:
    """What is to be answered to the rows of a pool."""
    weights = torch.from_numpy(pool.weights[rows]) * query_weights()
    targets = soft_targets(layout, pool.curvature[rows], pool.speed_ahead[rows])
    return {_TARGETS: targets, _WEIGHTS: weights}


def batch_of(layout: PromptLayout, pool: Pool, rows: NDArray[np.int64]) -> Batch:
    """The rows of a pool as prompts and frames, with their answers."""
    ids = layout.ids([pool.instructions[i] for i in rows], [pool.speeds[i] for i in rows])
    return {
        "ids": torch.from_numpy(ids),
        "frames": torch.from_numpy(pool.frames_at(rows)),
        **answers_of(layout, pool, rows),
    }


class FrozenCache:
    """What the frozen part makes of the samples that a worker needs, computed once: in one order and in the same parts
    for the same plan, so that a run that is taken up again finds the same numbers to the bit."""

    def __init__(
        self,
        objective: Objective,
        layout: PromptLayout,
        pool: Pool,
        rows: NDArray[np.int64],
        device: torch.device,
    ) -> None:
        self._layout, self._pool, self._rows, self._device = layout, pool, rows, device
        streams: Streams | None = None
        for start in range(0, len(rows), _ENCODE_BATCH):
            part = self._encoded(objective, rows[start : start + _ENCODE_BATCH])
            streams = streams or part.room_for(len(rows))
            streams.put(slice(start, min(start + _ENCODE_BATCH, len(rows))), part)
        assert streams is not None
        self._streams = streams

    def _encoded(self, objective: Objective, rows: NDArray[np.int64]) -> Streams:
        batch = {n: t.to(self._device) for n, t in batch_of(self._layout, self._pool, rows).items()}
        with torch.inference_mode():
            found = objective.streams(batch).tensors()
        return Streams.from_tensors({n: t.cpu() for n, t in found.items()})

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """As `batch_of`, with streams instead of prompts and frames."""
        places = torch.from_numpy(np.searchsorted(self._rows, rows))
        return {**self._streams.select(places).tensors(), **answers_of(self._layout, self._pool, rows)}


def mib_of(objective: Objective, layout: PromptLayout, pool: Pool, device: torch.device) -> float:
    """What one sample takes in a `FrozenCache`."""
    cache = FrozenCache(objective, layout, pool, np.array([0]), device)
    return sum(t.nbytes for t in cache.batch(np.array([0])).values()) / 2**20


def plain_pool(samples: Any) -> Pool:
    """Samples in their own order, as a pool."""
    return Pool([samples], np.arange(len(samples)))


def in_parts(count: int, size: int) -> Sequence[NDArray[np.int64]]:
    """Rows 0 to count in parts of at most `size`."""
    return [np.arange(at, min(at + size, count)) for at in range(0, count, size)]
