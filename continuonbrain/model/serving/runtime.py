"""A bundle's graphs in LiteRT, and one adapter among their inputs. No torch.

Tensors live in buffers of the runtime: what `read` gives is what `answer` takes, without a copy, and an adapter is
a set of buffers, so that changing it is choosing other ones.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from continuonbrain.model.serving.adapter_inputs import no_adapter
from continuonbrain.model.serving.spec import GRAPH_FILE, BundleError, BundleSpec
from continuonbrain.model.serving.tables import Table

F32 = NDArray[np.float32]
SIGNATURES = ("prefix", "see", "read", "answer")
_LORA, _PREFIX = "lora_", "prefix_"
_INSTRUCTIONS = 16
"""Instructions whose keys and values are kept."""
Buffers = dict[str, Any]


class Graphs:
    """The graphs of a bundle, ready to run on `threads` threads.

    base: the folder whose tables the prompt's embeddings come from.

    Raises:
        BundleError: LiteRT is missing or refuses the file, or the graphs lack what the bundle promises.
    """

    def __init__(self, bundle: Path, base: Path, *, threads: int = 1) -> None:
        self.spec = BundleSpec.read(bundle)
        model = self.spec.model
        self._embed = Table(base / "model.safetensors", model.embed_tensor, scale=model.embed_scale)
        self._per_layer = Table(
            base / "model.safetensors", model.per_layer_tensor, scale=model.per_layer_scale
        )
        with _unheard() as said:
            self._run = _compiled(bundle / GRAPH_FILE, threads, said)
            self._inputs, self._outputs = self._buffers()
            self._nothing = self.adapter(no_adapter(self.spec.lora))
        self._adapter = self._nothing
        self._prefixes: dict[bytes, Buffers] = {}

    def _buffers(self) -> tuple[dict[str, Buffers], dict[str, Buffers]]:
        graphs = self._run.get_signature_list()
        missing = [name for name in SIGNATURES if name not in graphs]
        if missing:
            raise BundleError(f"the graphs lack the signature {missing[0]}", remedy="export the base again")
        lora = sorted(n.removeprefix(_LORA) for n in graphs["answer"]["inputs"] if n.startswith(_LORA))
        if lora != sorted(no_adapter(self.spec.lora)):
            raise BundleError(
                f"the graphs take {len(lora)} LoRA inputs, bundle.json names {2 * len(self.spec.lora.sites)}",
                remedy="export the base again (a graph without LoRA inputs would ignore every adapter)",
            )
        outputs = {
            name: {n: self._run.create_output_buffer_by_name(name, n) for n in graphs[name]["outputs"]}
            for name in SIGNATURES
        }
        # What one graph gives is what the next one takes: the same buffer.
        given = {"streams_" + n: b for n, b in outputs["read"].items()}
        inputs = {
            name: {
                n: given.get(n) or self._run.create_input_buffer_by_name(name, n)
                for n in graphs[name]["inputs"]
                if not n.startswith((_LORA, _PREFIX))
            }
            for name in SIGNATURES
        }
        return inputs, outputs

    def adapter(self, inputs: Mapping[str, F32]) -> Buffers:
        """An adapter's inputs (see `adapter_inputs`) as buffers of the runtime."""
        shapes = {n: v.shape for n, v in no_adapter(self.spec.lora).items()}
        if {n: v.shape for n, v in inputs.items()} != shapes:
            raise ValueError("an adapter's inputs have other names or shapes than the graphs'")
        out = {}
        for name, value in inputs.items():
            buffer = self._run.create_input_buffer_by_name("answer", _LORA + name)
            buffer.write(np.ascontiguousarray(value))
            out[_LORA + name] = buffer
        return out

    def use(self, adapter: Buffers | None) -> None:
        """Answer with an adapter from now on; None: the base alone. What has been read stays read."""
        self._adapter = self._nothing if adapter is None else adapter

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
        self._run.run_by_name("see", self._inputs["see"], self._outputs["see"])
        soft = self._out("see", "soft", (1, prompt.image, self.spec.model.hidden))
        rest = ids[prompt.prefix :]
        embeds = self._embed.rows(rest)
        start = prompt.image_start - prompt.prefix
        embeds[start : start + prompt.image] = soft[0]
        self._write("read", "embeds", embeds[None])
        self._write("read", "per_layer", self._layers(rest))
        self._run.run_by_name("read", self._inputs["read"] | prefix, self._outputs["read"])

    def answer(self) -> F32:
        """Logits `[queries, answers]` of what was read last, with the adapter in use."""
        prompt = self.spec.prompt
        self._run.run_by_name("answer", self._inputs["answer"] | self._adapter, self._outputs["answer"])
        return self._out("answer", "logits", (prompt.queries, prompt.answers))

    def streams(self) -> dict[str, NDArray[Any]]:
        """What was read last, by the names of `Streams.tensors`: what `answer` reads, and a trainer may learn from."""
        prompt = self.spec.prompt
        out: dict[str, NDArray[Any]] = {}
        for name, detail in self._run.get_output_tensor_details("read").items():
            shape = tuple(int(n) for n in detail["shape"])
            part, _, kind = name.partition("_")
            out[f"{part}.{kind}" if part in ("keys", "values") else name] = self._out(
                "read", name, shape
            ).copy()
        for kind in self.spec.model.kinds:
            out[f"start.{kind}"] = np.zeros(1, np.int64)
        out["index"] = out["position"] = np.arange(prompt.length - prompt.queries, prompt.length)[None]
        return out

    def _prefix(self, ids: NDArray[np.int64]) -> Buffers:
        """Keys and values of an instruction, as inputs of `read`; read once, kept while it is among the latest."""
        key = ids.tobytes()
        found = self._prefixes.pop(key, None)
        if found is None:
            outputs = {
                n: self._run.create_output_buffer_by_name("prefix", n) for n in self._outputs["prefix"]
            }
            self._write("prefix", "embeds", self._embed.rows(ids)[None])
            self._write("prefix", "per_layer", self._layers(ids))
            self._run.run_by_name("prefix", self._inputs["prefix"], outputs)
            found = {_PREFIX + n: buffer for n, buffer in outputs.items()}
        while len(self._prefixes) >= _INSTRUCTIONS:
            del self._prefixes[next(iter(self._prefixes))]
        self._prefixes[key] = found  # the latest stands last
        return found

    def _layers(self, ids: NDArray[np.int64]) -> F32:
        model = self.spec.model
        return self._per_layer.rows(ids).reshape(1, len(ids), model.layers, model.per_layer)

    def _write(self, graph: str, name: str, value: NDArray[Any]) -> None:
        self._inputs[graph][name].write(np.ascontiguousarray(value))

    def _out(self, graph: str, name: str, shape: tuple[int, ...]) -> F32:
        found: F32 = self._outputs[graph][name].read(int(np.prod(shape)), np.float32)
        return found.reshape(shape)


def _compiled(file: Path, threads: int, said: IO[bytes]) -> Any:
    try:
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Options
    except ImportError as error:
        raise BundleError(
            f"LiteRT cannot be loaded: {error}", remedy="pip install 'continuonbrain[litert]'"
        ) from error
    atexit.unregister(_end_unheard)
    atexit.register(_end_unheard)
    with file.open("rb") as raw:
        if raw.read(8)[4:] != b"TFL3":
            raise BundleError(f"LiteRT refuses {file}: it is no graph", remedy="export the base again")
    try:
        return CompiledModel.from_file(
            str(file), options=Options(cpu_options=CpuOptions(num_threads=threads))
        )
    except (RuntimeError, ValueError) as error:
        said.seek(0)
        told = [line for line in said.read().decode(errors="replace").splitlines() if "ERROR" in line]
        raise BundleError(
            f"LiteRT refuses {file}: {error} {' '.join(told[-2:])}".rstrip(), remedy="export the base again"
        ) from error


def _end_unheard() -> None:
    """It says farewell, too; by then every error of ours has been printed."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@contextmanager
def _unheard() -> Iterator[IO[bytes]]:
    """What native code writes to stderr while this lasts. LiteRT greets every start with twenty lines about GPUs that
    nobody asked for, and no switch keeps it quiet."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(before, 2)
            os.close(before)
