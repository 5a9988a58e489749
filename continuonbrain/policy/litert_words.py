"""The words of a robot: a base's language bundle in LiteRT. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.model.base_identity import checkpoint_sha256
from continuonbrain.model.serving.adapter_inputs import adapter_inputs
from continuonbrain.model.serving.known_answer import check_known_words
from continuonbrain.model.serving.spec import BundleError
from continuonbrain.model.serving.words import Words
from continuonbrain.policy.engine import must_be_finite, refusing
from continuonbrain.storage.content_hash import sha256_of_adapter


class LiteRTWords:
    """A `WordsEngine`. bundle: what `continuonbrain model export --context N` made of the base.

    Raises:
        BundleError: the bundle is of another base, damaged, or LiteRT is missing.
    """

    def __init__(self, base: Path, bundle: Path, *, threads: int = 1) -> None:
        self._base_sha256 = checkpoint_sha256(base)
        self._words = Words(bundle, base, threads=threads)
        named = self._words.spec.base_sha256
        if named != self._base_sha256:
            raise BundleError(
                f"{bundle} was exported from base {named[:12]}..., this is {self._base_sha256[:12]}...",
                remedy="export it again: continuonbrain model export --context",
            )
        check_known_words(bundle, self._words)
        self._adapter_sha256 = ""

    @property
    def base_sha256(self) -> str:
        return self._base_sha256

    @property
    def adapter_sha256(self) -> str:
        return self._adapter_sha256

    @property
    def context(self) -> int:
        return self._words.spec.context

    @property
    def end(self) -> tuple[int, ...]:
        return self._words.spec.end

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return self._words.logits(ids)

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
        if folder is None:
            self._words.use(None)
            self._adapter_sha256 = ""
            return
        with refusing(folder):  # all that can fail, before anything changes
            inputs = adapter_inputs(folder, self._words.spec.lora, base_sha256=self._base_sha256)
            name = sha256 or sha256_of_adapter(folder)
            adapter = self._words.adapter(inputs)
            must_be_finite(folder, self._words.tried(adapter))
        self._words.use(adapter)
        self._adapter_sha256 = name
