"""The reference engine of words: transformers' layers with PEFT adapters. Every token runs the whole conversation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from continuonbrain.model.base_identity import checkpoint_sha256
from continuonbrain.model.checkpoint import Checkpoint
from continuonbrain.model.decoder import decoder_of, unwrapped
from continuonbrain.model.lora import with_adapter
from continuonbrain.model.phases import load_plain
from continuonbrain.policy.engine import AdapterError, must_be_finite, refusing
from continuonbrain.storage.content_hash import sha256_of_adapter

_CONTEXT = 4096


class TorchWords:
    """A `WordsEngine`. threads: torch's thread count for this process (None leaves it).

    Raises:
        CheckpointError: the folder is no KV-shared language model, or is damaged.
    """

    def __init__(self, base: Path, *, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        checkpoint = Checkpoint(base)
        self._base_sha256 = checkpoint_sha256(base)
        self._model: Any = load_plain(checkpoint)
        self._end = checkpoint.end_ids()
        self._adapter_sha256 = ""

    @property
    def base_sha256(self) -> str:
        return self._base_sha256

    @property
    def adapter_sha256(self) -> str:
        return self._adapter_sha256

    @property
    def context(self) -> int:
        return _CONTEXT

    @property
    def end(self) -> tuple[int, ...]:
        return self._end

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        decoder = decoder_of(self._model)
        with torch.inference_mode():
            hidden = decoder.text(torch.tensor([ids]), use_cache=False).last_hidden_state
            logits = F.linear(hidden[0, -1], decoder.lm_head.weight)
        cap = decoder.soft_cap
        found: NDArray[np.float32] = (logits if cap is None else torch.tanh(logits / cap) * cap).numpy()
        return found

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
        if folder is None:
            self._model = self._model.unload() if unwrapped(self._model) is not self._model else self._model
            self._adapter_sha256 = ""
            return
        if not folder.is_dir():
            raise AdapterError(
                f"{folder} is no PEFT folder",
                remedy="what an adapter was converted to is for LiteRT: --engine litert",
            )
        with refusing(folder):
            name = sha256 or sha256_of_adapter(folder)
            self._model = with_adapter(
                self._model,
                folder,
                base_sha256=self._base_sha256,
                name=f"sha_{name[:16]}",
                plus_one=True,
                trial=lambda: must_be_finite(folder, self.logits([0])),
            )
        self._adapter_sha256 = name
