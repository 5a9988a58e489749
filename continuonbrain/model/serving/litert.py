"""LiteRT itself: a compiled graph file, and the adapter among the inputs of one of its signatures. No torch."""

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

from continuonbrain.errors import installing
from continuonbrain.model.serving.adapter_inputs import input_shapes, no_adapter
from continuonbrain.model.serving.spec import SPEC_FILE, BundleError, LoraSpec

F32 = NDArray[np.float32]
Buffers = dict[str, Any]
"""Buffers of the runtime by the names of a signature's inputs or outputs."""
Shapes = Mapping[str, tuple[int, ...]]
_LORA = "lora_"


class Quiet:
    """What holds a compiled graph and its buffers: LiteRT says farewell when the last of them goes."""

    def __del__(self) -> None:
        if not sys.is_finalizing():
            with unheard():
                self.__dict__.clear()


class Compiled:
    """A graph file, ready to run on `threads` threads.

    Raises:
        BundleError: LiteRT is missing or refuses the file, or a signature is not in it.
    """

    def __init__(self, file: Path, signatures: tuple[str, ...], *, threads: int) -> None:
        with unheard() as said:
            self._run = _compiled(file, threads, said)
            self.signatures: dict[str, Any] = self._run.get_signature_list()
        missing = [name for name in signatures if name not in self.signatures]
        if missing:
            raise BundleError(f"{file} lacks the signature {missing[0]}", remedy="export the base again")

    def inputs(self, signature: str) -> list[str]:
        """Names of what a signature takes, adapters left out."""
        return [n for n in self.signatures[signature]["inputs"] if not n.startswith(_LORA)]

    def input_buffer(self, signature: str, name: str) -> Any:
        """A buffer for one input."""
        return self._run.create_input_buffer_by_name(signature, name)

    def output_buffer(self, signature: str, name: str) -> Any:
        """A buffer for one output; another signature may take it as its input, without a copy."""
        return self._run.create_output_buffer_by_name(signature, name)

    def output_buffers(self, signature: str) -> Buffers:
        """A buffer for every output."""
        return {n: self.output_buffer(signature, n) for n in self.signatures[signature]["outputs"]}

    def output_shapes(self, signature: str) -> dict[str, tuple[int, ...]]:
        """Shapes of what a signature gives."""
        details = self._run.get_output_tensor_details(signature)
        return {name: tuple(int(n) for n in detail["shape"]) for name, detail in details.items()}

    def must_take(self, signature: str, shapes: Shapes) -> None:
        """Raises `BundleError` unless a signature takes inputs of these names in these shapes: the runtime itself
        writes a shorter array into a longer buffer, and a longer one beyond it."""
        _must_be(signature, self._run.get_input_tensor_details(signature), shapes)

    def must_give(self, signature: str, shapes: Shapes) -> None:
        """The same of its outputs."""
        _must_be(signature, self._run.get_output_tensor_details(signature), shapes)

    def run(self, signature: str, inputs: Buffers, outputs: Buffers) -> None:
        """Run a signature from buffers to buffers."""
        self._run.run_by_name(signature, inputs, outputs)


class LoraInputs:
    """The adapters that `signature` of a compiled graph takes.

    Raises:
        BundleError: its LoRA inputs are not those of `lora`.
    """

    def __init__(self, run: Compiled, signature: str, lora: LoraSpec) -> None:
        self._run, self._signature = run, signature
        self._shapes = input_shapes(lora)
        names = run.signatures[signature]["inputs"]
        found = sorted(n.removeprefix(_LORA) for n in names if n.startswith(_LORA))
        if found != sorted(self._shapes):
            raise BundleError(
                f"the graphs take {len(found)} LoRA inputs, bundle.json names {len(self._shapes)}",
                remedy="export the base again (a graph without LoRA inputs would ignore every adapter)",
            )
        run.must_take(signature, {_LORA + name: shape for name, shape in self._shapes.items()})
        self._nothing = self.adapter(no_adapter(lora))
        self.in_use = self._nothing

    def adapter(self, inputs: Mapping[str, F32]) -> Buffers:
        """An adapter's inputs (see `adapter_inputs`) as buffers of the runtime."""
        if {n: v.shape for n, v in inputs.items()} != self._shapes:
            raise ValueError("an adapter's inputs have other names or shapes than the graphs'")
        out = {}
        for name, value in inputs.items():
            buffer = self._run.input_buffer(self._signature, _LORA + name)
            buffer.write(np.ascontiguousarray(value))
            out[_LORA + name] = buffer
        return out

    def use(self, adapter: Buffers | None) -> None:
        """Answer with an adapter from now on; None: the base alone."""
        self.in_use = self._nothing if adapter is None else adapter


def read_buffer(buffer: Any, shape: tuple[int, ...]) -> F32:
    """What a buffer of fp32 numbers holds, copied out."""
    found: F32 = buffer.read(int(np.prod(shape)), np.float32)
    return found.reshape(shape)


def _must_be(signature: str, found: Mapping[str, Any], shapes: Shapes) -> None:
    for name, shape in shapes.items():
        there = list(found[name]["shape"]) if name in found else None
        if there != list(shape):
            raise BundleError(
                f"the graph {signature} has {name} as {there}, {SPEC_FILE} says {list(shape)}",
                remedy="export the base again, and copy the folder whole",
            )


def _compiled(file: Path, threads: int, said: IO[bytes]) -> Any:
    try:
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Options
    except ImportError as error:
        raise BundleError(f"LiteRT cannot be loaded: {error}", remedy=installing("litert")) from error
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
def unheard() -> Iterator[IO[bytes]]:
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
