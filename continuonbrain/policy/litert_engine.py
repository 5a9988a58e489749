"""The engine of a robot: a base's LiteRT graphs with an adapter among their inputs. No torch.

A swap chooses other inputs for the last graph. What has been read of a prompt does not depend on the adapter, and the
instruction's part of it is read once for all frames that follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.model.base_identity import base_sha256
from continuonbrain.model.serving.adapter_inputs import adapter_inputs
from continuonbrain.model.serving.known_answer import check_known_answer
from continuonbrain.model.serving.runtime import Graphs
from continuonbrain.model.serving.spec import BundleError, PromptSpec
from continuonbrain.policy import codec
from continuonbrain.policy.engine import Arrays, Decisions, must_be_finite, refusing
from continuonbrain.policy.prompt import IMAGE_SLOTS, LAYOUT_VERSION, TEXT_SLOTS, PromptLayout
from continuonbrain.policy.reflex import Reflex
from continuonbrain.storage.content_hash import sha256_of_adapter

F32 = NDArray[np.float32]


def prompt_spec(layout: PromptLayout) -> PromptSpec:
    """What graphs must be made for to read this layout's prompts."""
    first = min(layout.curvature_first, layout.speed_first)
    last = max(
        layout.curvature_first + codec.CURVATURE_BINS.count, layout.speed_first + codec.SPEED_BINS.count
    )
    return PromptSpec(
        layout_version=LAYOUT_VERSION,
        length=layout.length,
        prefix=1 + TEXT_SLOTS,
        image_start=2 + TEXT_SLOTS,
        image=IMAGE_SLOTS,
        queries=codec.QUERIES,
        answer_first=first,
        answers=last - first,
    )


class LiteRTEngine:
    """An `Engine`. bundle: what `continuonbrain model export` made of the base.

    Raises:
        BundleError: the bundle is of another base or prompt layout, damaged, or LiteRT is missing.
    """

    def __init__(self, base: Path, bundle: Path, *, threads: int = 1) -> None:
        self._base_sha256 = base_sha256(base)
        self.layout = PromptLayout.from_folder(base)
        self._graphs = Graphs(bundle, base, threads=threads)
        spec = self._graphs.spec
        again = "export it again: continuonbrain model export"
        if spec.base_sha256 != self._base_sha256:
            raise BundleError(
                f"{bundle} was exported from base {spec.base_sha256[:12]}..., this is {self._base_sha256[:12]}...",
                remedy=again,
            )
        if spec.prompt != prompt_spec(self.layout):
            raise BundleError(f"{bundle} reads prompts of another layout", remedy=again)
        check_known_answer(bundle, self._graphs)
        self._adapter_sha256 = ""
        self._base_reflex = self._reflex = Reflex.of_folder(base)
        first = spec.prompt.answer_first
        self._bends = _columns(self.layout.curvature_first - first, codec.CURVATURE_BINS)
        self._speeds = _columns(self.layout.speed_first - first, codec.SPEED_BINS)

    @property
    def precision(self) -> str:
        """ "fp32" or "int8"."""
        return self._graphs.spec.precision

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
        ids = self.layout.ids(instructions, speeds_mps)
        return self._decided([self.logits(row, frame) for row, frame in zip(ids, frames, strict=True)])

    def decide_and_show(
        self, frames: NDArray[np.uint8], instructions: Sequence[str], speeds_mps: Sequence[float | None]
    ) -> tuple[Decisions, NDArray[np.int64], Arrays]:
        if len(frames) != 1:
            raise ValueError(f"{len(frames)} frames: the graphs show one at a time")
        ids = self.layout.ids(instructions, speeds_mps)
        return self._decided([self.logits(ids[0], frames[0])]), ids, self._graphs.streams()

    def _decided(self, answers: Sequence[F32]) -> Decisions:
        logits = np.stack(answers)
        knots = len(codec.CURVATURE_KNOTS_M)
        curvature = codec.decode_curvature(_softmax(logits[:, :knots, self._bends]))
        return Decisions(curvature, codec.decode_speed(_softmax(logits[:, knots:, self._speeds])))

    def logits(self, ids: NDArray[np.int64], frame: NDArray[np.uint8]) -> F32:
        """Logits `[queries, answers]` of a prompt `[T]` with its frame `[120, 160, 3]`."""
        self._graphs.read(ids, frame)
        return self._graphs.answer()

    def use_adapter(self, folder: Path | None, *, sha256: str = "") -> None:
        if folder is None:
            self._graphs.use(None)
            self._adapter_sha256, self._reflex = "", self._base_reflex
            return
        with refusing(folder):  # all that can fail, before anything changes
            reflex = Reflex.of_folder(folder)
            inputs = adapter_inputs(folder, self._graphs.spec.lora, base_sha256=self._base_sha256)
            name = sha256 or sha256_of_adapter(folder)
            adapter = self._graphs.adapter(inputs)
            must_be_finite(folder, self._graphs.tried(adapter))
        self._graphs.use(adapter)
        self._adapter_sha256, self._reflex = name, reflex


def _columns(first: int, bins: codec.Bins) -> slice:
    return slice(first, first + bins.count)


def _softmax(logits: F32) -> F32:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    out: F32 = shifted / shifted.sum(-1, keepdims=True)
    return out
