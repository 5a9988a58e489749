"""What an engine of words is: token ids in, logits of the next one out.

`torch_words.TorchWords` is the reference, `litert_words.LiteRTWords` is what a robot runs. Both stand on one base and
change adapters as the driving engines do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class WordsEngine(Protocol):
    """A language model that can be asked and re-adapted."""

    @property
    def base_sha256(self) -> str:
        """Identity of the base."""

    @property
    def adapter_sha256(self) -> str:
        """Identity of the adapter in use, "" for the base alone."""

    @property
    def context(self) -> int:
        """Tokens that a conversation may have, its answer among them."""

    @property
    def end(self) -> tuple[int, ...]:
        """Ids that end an answer."""

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits `[vocabulary]` of the token after `ids`, which begin with <bos>. `ValueError`: too many."""

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
        """Switch to the adapter in a PEFT folder, or to the base alone. `AdapterError` leaves all as it was."""
