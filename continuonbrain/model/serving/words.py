"""A language bundle's graphs in LiteRT: the next token after a conversation. No torch.

The cache of keys and values belongs to layers that no adapter touches: what has been read stays read when the adapter
changes, and of a longer conversation only what is new is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from continuonbrain.model.serving.litert import Buffers, Compiled, LoraInputs, Quiet, read_buffer, unheard
from continuonbrain.model.serving.spec import BundleError, LanguageSpec
from continuonbrain.model.serving.tables import EmbeddingTables

F32 = NDArray[np.float32]
SIGNATURES = ("prefill", "next")
_CACHE = "cache_"
_WORKING = ("embeds", "per_layer", "start")


class Words(Quiet):
    """The graphs of a language bundle, ready to run on `threads` threads.

    base: the folder whose tables the embeddings come from.

    Raises:
        BundleError: LiteRT is missing or refuses the file, or the graphs lack what the bundle promises.
    """

    def __init__(self, bundle: Path, base: Path, *, threads: int = 1) -> None:
        self.spec = LanguageSpec.read(bundle)
        self._tables = EmbeddingTables(base, self.spec.model)
        with unheard():
            self._run = run = Compiled(bundle / LanguageSpec.graph_file, SIGNATURES, threads=threads)
            _check_sizes(run, self.spec)
            self._lora = LoraInputs(run, "next", self.spec.lora)
            self._inputs = {s: {n: run.input_buffer(s, n) for n in _WORKING} for s in SIGNATURES}
            kept = run.signatures["prefill"]["outputs"]
            # A graph reads one and writes the other: what it is reading must not change under it.
            self._now, self._then = ({n: run.output_buffer("prefill", n) for n in kept} for _ in range(2))
            self._logits = run.output_buffer("next", "logits")
        for name, shape in run.output_shapes("prefill").items():
            self._now[name].write(np.zeros(shape, np.float32))
        self._read: tuple[int, ...] = ()

    def adapter(self, inputs: Mapping[str, F32]) -> Buffers:
        """An adapter's inputs (see `adapter_inputs`) as buffers of the runtime."""
        return self._lora.adapter(inputs)

    def use(self, adapter: Buffers | None) -> None:
        """Answer with an adapter from now on; None: the base alone. What has been read stays read."""
        self._lora.use(adapter)

    def logits(self, ids: Sequence[int]) -> F32:
        """Logits `[vocabulary]` of the token after `ids`. What they share with the last ones is not read again.

        Raises:
            ValueError: no ids, more than the context holds, or one that the base does not have.
        """
        spec = self.spec
        if not 0 < len(ids) <= spec.context:
            raise ValueError(f"{len(ids)} tokens: this bundle holds 1 to {spec.context}")
        if not 0 <= min(ids) <= max(ids) < spec.vocabulary:
            raise ValueError(f"token ids are from 0 to {spec.vocabulary - 1}")
        start = min(_common(self._read, ids), len(ids) - 1)
        while start < len(ids) - 1:
            part = ids[start : min(start + spec.chunk, len(ids) - 1)]
            # Slots behind the last token hold a filler that the next token overwrites before anything looks at it.
            self._step("prefill", [*part, *([0] * (spec.chunk - len(part)))], start)
            start += len(part)
            self._read = tuple(ids[:start])
        self._step("next", ids[-1:], start)
        self._read = tuple(ids)
        return read_buffer(self._logits, (spec.vocabulary,)).copy()

    def tried(self, adapter: Buffers) -> F32:
        """Logits after what was read last (one token where nothing was), with an adapter that is not in use, and is
        not afterwards. What has been read stays read."""
        before = self._lora.in_use
        self._lora.use(adapter)
        try:
            return self.logits(self._read or (0,))
        finally:
            self._lora.use(before)

    def _step(self, graph: str, tokens: Sequence[int], start: int) -> None:
        embeds, per_layer = self._tables.rows(np.asarray(tokens, np.int64))
        given = self._inputs[graph]
        for name, value in (
            ("embeds", embeds),
            ("per_layer", per_layer),
            ("start", np.array([start], np.int32)),
        ):
            given[name].write(np.ascontiguousarray(value))
        self._read = self._read[:start]  # until the graph has run to its end
        more = self._lora.in_use if graph == "next" else {}
        out = self._then | ({"logits": self._logits} if graph == "next" else {})
        self._run.run(graph, given | {_CACHE + n: b for n, b in self._now.items()} | more, out)
        self._now, self._then = self._then, self._now


def _check_sizes(run: Compiled, spec: LanguageSpec) -> None:
    """`BundleError` unless the graphs have the sizes that `bundle.json` says."""
    model = spec.model
    kept = {
        n: (*shape[:2], spec.context, shape[3])
        for n, shape in run.output_shapes("prefill").items()
        if n.startswith(("keys_", "values_")) and len(shape) == 4
    }
    if len(kept) != 2 * model.below or max(spec.end, default=0) >= spec.vocabulary:
        raise BundleError(
            f"the graphs keep {len(kept)} keys and values, bundle.json says {model.below} layers below; "
            f"an answer ends with {list(spec.end)} of {spec.vocabulary} tokens",
            remedy="export the base again, and copy the folder whole",
        )
    for signature, tokens in (("prefill", spec.chunk), ("next", 1)):
        run.must_take(
            signature,
            {
                "embeds": (1, tokens, model.hidden),
                "per_layer": (1, tokens, model.layers, model.per_layer),
                "start": (1,),
                **{_CACHE + n: shape for n, shape in kept.items()},
            },
        )
        run.must_give(signature, kept)
    run.must_give("next", {"logits": (1, spec.vocabulary)})


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    for place, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return place
    return min(len(a), len(b))
