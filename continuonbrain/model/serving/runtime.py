"""A driving bundle's graphs in LiteRT. No torch.

Tensors live in buffers of the runtime: what `read` gives is what `answer` takes, without a copy, and an adapter is
a set of buffers, so that changing it is choosing other ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from continuonbrain.model.serving.litert import Buffers, Compiled, LoraInputs, Quiet, read_buffer, unheard
from continuonbrain.model.serving.spec import BundleError, DrivingSpec
from continuonbrain.model.serving.tables import EmbeddingTables

F32 = NDArray[np.float32]
SIGNATURES = ("prefix", "see", "read", "answer")
_PREFIX = "prefix_"
_INSTRUCTIONS = 16
"""Instructions whose keys and values are kept."""


class Graphs(Quiet):
    """The graphs of a bundle, ready to run on `threads` threads.

    base: the folder whose tables the prompt's embeddings come from.

    Raises:
        BundleError: LiteRT is missing or refuses the file, or the graphs lack what the bundle promises.
    """

    def __init__(self, bundle: Path, base: Path, *, threads: int = 1) -> None:
        self.spec = DrivingSpec.read(bundle)
        self._tables = EmbeddingTables(base, self.spec.model)
        with unheard():
            self._run = run = Compiled(bundle / DrivingSpec.graph_file, SIGNATURES, threads=threads)
            _check_sizes(run, self.spec)
            self._lora = LoraInputs(run, "answer", self.spec.lora)
            self._outputs = {name: run.output_buffers(name) for name in SIGNATURES}
            # What one graph gives is what the next one takes: the same buffer.
            given = {"streams_" + n: b for n, b in self._outputs["read"].items()}
            self._inputs = {
                name: {
                    n: given.get(n) or run.input_buffer(name, n)
                    for n in run.inputs(name)
                    if not n.startswith(_PREFIX)
                }
                for name in SIGNATURES
            }
        self._prefixes: dict[bytes, Buffers] = {}

    def adapter(self, inputs: Mapping[str, F32]) -> Buffers:
        """An adapter's inputs (see `adapter_inputs`) as buffers of the runtime."""
        return self._lora.adapter(inputs)

    def use(self, adapter: Buffers | None) -> None:
        """Answer with an adapter from now on; None: the base alone. What has been read stays read."""
        self._lora.use(adapter)

    def read(self, ids: NDArray[np.int64], frame: NDArray[np.uint8]) -> None:
        """Read a prompt `[T]` with its frame uint8 `[120, 160, 3]`. The part that the instruction decides is read once.

        Raises:
            ValueError: another shape or type. (The runtime itself takes a shorter array and leaves the rest as it was.)
        """
        prompt = self.spec.prompt
        if ids.shape != (prompt.length,) or frame.shape != (120, 160, 3) or frame.dtype != np.uint8:
            raise ValueError(f"a prompt {ids.shape} with a frame {frame.dtype} {frame.shape}")
        prefix = self._prefix(ids[: prompt.prefix])
        self._write("see", "frame", frame[None])
        self._run.run("see", self._inputs["see"], self._outputs["see"])
        soft = read_buffer(self._outputs["see"]["soft"], (1, prompt.image, self.spec.model.hidden))
        embeds, per_layer = self._tables.rows(ids[prompt.prefix :])
        start = prompt.image_start - prompt.prefix
        embeds[:, start : start + prompt.image] = soft
        self._write("read", "embeds", embeds)
        self._write("read", "per_layer", per_layer)
        self._run.run("read", self._inputs["read"] | prefix, self._outputs["read"])

    def answer(self) -> F32:
        """Logits `[queries, answers]` of what was read last, with the adapter in use."""
        prompt = self.spec.prompt
        self._run.run("answer", self._inputs["answer"] | self._lora.in_use, self._outputs["answer"])
        return read_buffer(self._outputs["answer"]["logits"], (prompt.queries, prompt.answers))

    def tried(self, adapter: Buffers) -> F32:
        """`answer` with an adapter that is not in use, and is not afterwards."""
        before = self._lora.in_use
        self._lora.use(adapter)
        try:
            return self.answer()
        finally:
            self._lora.use(before)

    def streams(self) -> dict[str, NDArray[Any]]:
        """What was read last, by the names of `Streams.tensors`: what `answer` reads, and a trainer may learn from."""
        prompt = self.spec.prompt
        out: dict[str, NDArray[Any]] = {}
        for name, shape in self._run.output_shapes("read").items():
            part, _, kind = name.partition("_")
            value = read_buffer(self._outputs["read"][name], shape).copy()
            out[f"{part}.{kind}" if part in ("keys", "values") else name] = value
        for kind in self.spec.model.kinds:
            out[f"start.{kind}"] = np.zeros(1, np.int64)
        out["index"] = out["position"] = np.arange(prompt.length - prompt.queries, prompt.length)[None]
        return out

    def _prefix(self, ids: NDArray[np.int64]) -> Buffers:
        """Keys and values of an instruction, as inputs of `read`; read once, kept while it is among the latest."""
        key = ids.tobytes()
        found = self._prefixes.pop(key, None)
        if found is None:
            outputs = self._run.output_buffers("prefix")
            embeds, per_layer = self._tables.rows(ids)
            self._write("prefix", "embeds", embeds)
            self._write("prefix", "per_layer", per_layer)
            self._run.run("prefix", self._inputs["prefix"], outputs)
            found = {_PREFIX + n: buffer for n, buffer in outputs.items()}
        while len(self._prefixes) >= _INSTRUCTIONS:
            del self._prefixes[next(iter(self._prefixes))]
        self._prefixes[key] = found  # the latest stands last
        return found

    def _write(self, graph: str, name: str, value: NDArray[Any]) -> None:
        self._inputs[graph][name].write(np.ascontiguousarray(value))


def _check_sizes(run: Compiled, spec: DrivingSpec) -> None:
    """`BundleError` unless the graphs have the sizes that `bundle.json` says."""
    prompt, model = spec.prompt, spec.model
    for signature, tokens in (("prefix", prompt.prefix), ("read", prompt.length - prompt.prefix)):
        run.must_take(
            signature,
            {"embeds": (1, tokens, model.hidden), "per_layer": (1, tokens, model.layers, model.per_layer)},
        )
    run.must_take("see", {"frame": (1, 120, 160, 3)})
    run.must_give("see", {"soft": (1, prompt.image, model.hidden)})
    run.must_give("read", {"per_layer": (1, prompt.queries, model.layers - model.below, model.per_layer)})
    run.must_give("answer", {"logits": (1, prompt.queries, prompt.answers)})
    keys = sorted(n.removeprefix("keys_") for n in run.output_shapes("read") if n.startswith("keys_"))
    if keys != sorted(model.kinds):
        raise BundleError(
            f"the graphs have attention of the kinds {', '.join(keys)}, bundle.json says {', '.join(model.kinds)}",
            remedy="export the base again, and copy the folder whole",
        )
