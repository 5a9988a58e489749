"""What a bundle answered when it was exported, asked again at every start.

An engine of another version may score another position, leave a LoRA input without effect, or compute a layer
otherwise, all without an error. One fixed prompt, without and with a fixed adapter that reaches every module, tells:
the answers must be those that stand in the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from continuonbrain.model.serving.adapter_inputs import no_adapter
from continuonbrain.model.serving.runtime import Graphs
from continuonbrain.model.serving.spec import KNOWN_FILE, BundleError, LoraSpec
from continuonbrain.model.serving.words import Words
from continuonbrain.storage.durable import replace_file

TOLERANCE = {"fp32": 1e-3, "int8": 0.1}
"""Logits. Between processors int8 products round apart by steps of their scales; a module left out, or one position
further, is units."""
_SIZE = 0.3
_AGAIN = "install the version of LiteRT that the bundle was made for, or export it again for this one"
F32 = NDArray[np.float32]


def known_adapter(lora: LoraSpec) -> dict[str, F32]:
    """An adapter that every machine makes alike: waves, of another phase for every module."""
    out: dict[str, F32] = {}
    for number, (site, (inputs, outputs)) in enumerate(sorted(lora.sites.items())):
        for part, shape in (("a", (inputs, lora.rank)), ("b", (lora.rank, outputs))):
            wave = np.sin(1.0 + number + 0.7 * np.arange(shape[0] * shape[1], dtype=np.float64))
            out[f"{site.replace('.', '_')}_{part}"] = (
                (_SIZE / lora.rank**0.5 * wave).reshape(shape).astype(np.float32)
            )
    return out


def known_answers(graphs: Graphs, ids: NDArray[np.int64], frame: NDArray[np.uint8]) -> tuple[F32, F32]:
    """Logits of a prompt `[T]` with its frame: the base alone, and with the known adapter (not in use afterwards)."""
    graphs.use(None)
    graphs.read(ids, frame)
    alone = graphs.answer()
    graphs.use(graphs.adapter(known_adapter(graphs.spec.lora)))
    adapted = graphs.answer()
    graphs.use(None)
    return alone, adapted


def write_known_answer(
    folder: Path, graphs: Graphs, ids: NDArray[np.int64], frame: NDArray[np.uint8]
) -> None:
    """Ask, and put the answers into the bundle."""
    alone, adapted = known_answers(graphs, ids, frame)
    known = {"ids": ids, "frame": frame, "alone": alone, "adapted": adapted}
    replace_file(folder / KNOWN_FILE, save({n: np.ascontiguousarray(value) for n, value in known.items()}))


def known_words(words: Words, ids: NDArray[np.int64]) -> tuple[F32, F32]:
    """`known_answers` of a language bundle: logits after a conversation `[T]`, read anew."""
    words.use(None)
    words.logits([(int(ids[0]) + 1) % words.spec.vocabulary])  # nothing of it is read already
    alone = words.logits(ids.tolist())
    words.use(words.adapter(known_adapter(words.spec.lora)))
    adapted = words.logits(ids.tolist())
    words.use(None)
    return alone, adapted


def write_known_words(folder: Path, words: Words) -> None:
    """Ask about a conversation longer than a chunk, and put the answers into the bundle."""
    spec = words.spec
    length = min(spec.chunk + 3, spec.context)
    ids = 3 + np.arange(length, dtype=np.int64) * 7919 % (spec.vocabulary - 3)
    alone, adapted = known_words(words, ids)
    replace_file(folder / KNOWN_FILE, save({"ids": ids, "alone": alone, "adapted": adapted}))


def check_known_words(folder: Path, words: Words) -> None:
    """Ask again. Raises `BundleError` as `check_known_answer` does."""
    _check(folder, words.spec.precision, lambda known: known_words(words, known["ids"]))
    live_words(folder, words)


def check_known_answer(folder: Path, graphs: Graphs) -> None:
    """Ask again.

    Raises:
        BundleError: there is no known answer, or this engine gives another one.
    """
    _check(folder, graphs.spec.precision, lambda known: known_answers(graphs, known["ids"], known["frame"]))
    live_graphs(folder, graphs)  # of the prompt that was just read


def live_graphs(folder: Path, graphs: Graphs) -> None:
    """`check_live` on the prompt that the graphs have read."""

    def answer(inputs: Mapping[str, F32] | None) -> F32:
        graphs.use(None if inputs is None else graphs.adapter(inputs))
        return graphs.answer()

    check_live(folder, graphs.spec.lora, answer)
    graphs.use(None)


def live_words(folder: Path, words: Words) -> None:
    """`check_live` on two tokens."""

    def answer(inputs: Mapping[str, F32] | None) -> F32:
        words.use(None if inputs is None else words.adapter(inputs))
        return words.logits([2, 3])

    check_live(folder, words.spec.lora, answer)
    words.use(None)


def check_live(folder: Path, lora: LoraSpec, answer: Callable[[Mapping[str, F32] | None], F32]) -> None:
    """Every module's LoRA inputs must reach the answer, and every row of their rank: a converter once left those of a
    whole signature without a consumer, and an engine may. The known answer alone does not see it in int8, where one
    module moves less than processors differ. answer: what the graphs say with inputs, or without.

    Raises:
        BundleError: names a module or a row whose inputs change nothing.
    """
    whole, alone, nothing = known_adapter(lora), answer(None), no_adapter(lora)
    for site in lora.sites:
        key = site.replace(".", "_")
        one = nothing | {f"{key}_{part}": whole[f"{key}_{part}"] for part in "ab"}
        if np.array_equal(answer(one), alone):
            raise BundleError(f"{folder}: the LoRA inputs of {site} change nothing", remedy=_AGAIN)
    for row in range(lora.rank):  # a kernel that works through the rank in tiles may leave some of them out
        one = {n: np.zeros_like(value) for n, value in whole.items()}
        for name, value in whole.items():
            at: Any = (slice(None), row) if name.endswith("_a") else row
            one[name][at] = value[at]
        if np.array_equal(answer(one), alone):
            raise BundleError(f"{folder}: row {row} of the adapters' rank changes nothing", remedy=_AGAIN)


def _check(
    folder: Path,
    precision: Literal["fp32", "int8"],
    ask: Callable[[dict[str, NDArray[Any]]], tuple[F32, F32]],
) -> None:
    path = folder / KNOWN_FILE
    try:
        known = load_file(path)
        found = ask(known)
        right = known["alone"], known["adapted"]
        differences = [float(np.abs(a - b).max()) for a, b in zip(found, right, strict=True)]
    except FileNotFoundError as error:
        raise BundleError(
            f"{path} cannot be used: it is missing", remedy="copy the folder whole, or export it again"
        ) from error
    except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
        raise BundleError(f"{path} cannot be used: {error}", remedy=_AGAIN) from error
    for what, difference in zip(("the base alone", "an adapter"), differences, strict=True):
        if not difference <= TOLERANCE[precision]:  # NaN is none
            raise BundleError(
                f"{folder}: this engine answers otherwise than at the export: logits of {what} differ by "
                f"{difference:.3g}",
                remedy=_AGAIN,
            )
