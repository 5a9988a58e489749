"""What every export needs: the converter, an int8 form of a graph, and a folder that is there whole or not at all.

The graphs are converted in fp32; "int8" then holds every weight matrix as int8 by output channel, and LiteRT
quantises activations by row as it goes (ai-edge-quantizer's dynamic recipe). LoRA stays fp32 in both.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continuonbrain.model.decoder import Decoder
from continuonbrain.model.serving.adapter_inputs import no_adapter
from continuonbrain.model.serving.signatures import LoraLinear, lora_sites, site_key
from continuonbrain.model.serving.spec import BundleError, CheckSpec, LoraSpec, ModelSpec

Precision = Literal["fp32", "int8"]
MAX_LOGIT_DIFF = {"fp32": 1e-3, "int8": float("inf")}
MAX_RELATIVE_DIFF = 2e-4
"""Of the largest logit: rounding grows with it (a wide model's logits differ by more, and mean no more by it)."""
MIN_AGREEMENT = {"fp32": 0.99, "int8": 0.9}
"""Bounds of the check. The likeliest of neighbouring bins may change where two are as likely; what is driven is the
expectation over them (`benchmarks/engine.py` compares that)."""
REPORT = "use the versions in constraints-export.txt; report it if they are in use"
ADAPTERS = 3
"""Of random numbers, that every export is compared with torch on."""
_SIZE = 0.05
_MADE_WITH = ("torch", "transformers", "litert-torch", "litert-converter")


class Tools:
    """litert-torch and ai-edge-quantizer. `BundleError` where they are not installed."""

    def __init__(self) -> None:
        # Its log goes to stderr, pages of it, and says nothing that a person could act on.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        try:
            import litert_torch
            from ai_edge_quantizer import quantizer, recipe
        except ImportError as error:
            raise BundleError(
                f"the converter cannot be loaded: {error}",
                remedy="on x86-64, in an environment of its own and the folder of continuonbrain's source: "
                "pip install -c constraints-export.txt -e '.[train,export]'",
            ) from error
        self.converter: Any = litert_torch
        self._quantizer: Any = quantizer
        self._recipe: Any = recipe

    def quantise(self, graph: Path) -> None:
        """Replace a graph file by its int8 form."""
        whole = graph.with_suffix(".fp32")
        graph.rename(whole)
        work = self._quantizer.Quantizer(str(whole), self._recipe.dynamic_wi8_afp32())
        work.quantize().export_model(str(graph))
        whole.unlink()


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when all went well and is gone when not.

    Raises:
        BundleError: `out` exists.
    """
    if out.exists():
        raise BundleError(f"{out} exists already", remedy="remove it, or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        making = Path(name) / "bundle"
        making.mkdir()
        yield making
        for file in making.iterdir():
            file.chmod(0o644)
        making.rename(out)


def graph_sha256(graph: Path) -> str:
    """sha256 of a graph file."""
    with graph.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def made_with() -> dict[str, str]:
    """Versions that decide what a graph looks like."""
    return {name: version(name) for name in _MADE_WITH}


def lora_spec(decoder: Decoder, rank: int) -> LoraSpec:
    """Every module that takes an adapter, before `take_lora`."""
    sites = {n: (m.in_features, m.out_features) for n, m in lora_sites(decoder).items()}
    return LoraSpec(rank=rank, sites=sites)


def model_spec(decoder: Decoder, prefix: str, tables: torch.dtype) -> ModelSpec:
    """Sizes of a base whose tables stand below `prefix` in its files. tables: the type in which they are used; the
    library rounds their scales to it."""
    config = decoder.config

    def scale(width: int) -> float:
        return float(torch.tensor(width**0.5).to(tables))

    return ModelSpec(
        hidden=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        below=decoder.first,
        per_layer=int(config.hidden_size_per_layer_input),
        kinds=tuple(decoder.layer_types),
        embed_scale=scale(int(config.hidden_size)),
        per_layer_scale=scale(int(config.hidden_size_per_layer_input)),
        embed_tensor=f"{prefix}embed_tokens.weight",
        per_layer_tensor=f"{prefix}embed_tokens_per_layer.weight",
    )


def lora_zeros(lora: LoraSpec) -> dict[str, Tensor]:
    """Sample inputs for the converter, in the order in which it names them."""
    return {n: torch.from_numpy(value) for n, value in sorted(no_adapter(lora).items())}


def random_adapter(lora: LoraSpec, generator: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """LoRA inputs of random numbers."""
    return {
        n: (_SIZE * generator.standard_normal(t.shape)).astype(np.float32)
        for n, t in no_adapter(lora).items()
    }


@contextmanager
def answering_with(
    sites: Mapping[str, LoraLinear], factors: Mapping[str, NDArray[np.float32]] | None
) -> Iterator[None]:
    """While this lasts the torch model behind `sites` has the adapter `factors`; None: it is the base alone."""
    for name, module in sites.items():
        key = site_key(name)
        module.factors = (
            None
            if factors is None
            else (torch.from_numpy(factors[f"{key}_a"]), torch.from_numpy(factors[f"{key}_b"]))
        )
    try:
        yield
    finally:
        for module in sites.values():
            module.factors = None


def accept(check: CheckSpec, precision: Precision) -> None:
    """`BundleError` when graphs differ from torch by more than they may."""
    bound = max(MAX_LOGIT_DIFF[precision], MAX_RELATIVE_DIFF * check.largest_logit)
    if not check.max_logit_diff <= bound or check.agreement < MIN_AGREEMENT[precision]:
        raise BundleError(
            f"the graphs differ from torch: logits by {check.max_logit_diff:.2g}, the same answer in "
            f"{check.agreement:.1%} of {check.prompts} prompts; nothing was kept",
            remedy=REPORT,
        )
