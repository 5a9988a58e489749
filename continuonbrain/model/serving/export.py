"""Exporting a driving base to LiteRT graphs, with a numeric check against torch at the end. x86-64, extra `[export]`.

The graphs are converted in fp32; "int8" then holds every weight matrix as int8 by output channel, and LiteRT
quantises activations by row as it goes (ai-edge-quantizer's dynamic recipe). LoRA stays fp32 in both.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continuonbrain.model.base import load_base
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.serving.adapter_inputs import no_adapter
from continuonbrain.model.serving.known_answer import known_adapter, write_known_answer
from continuonbrain.model.serving.runtime import Graphs
from continuonbrain.model.serving.signatures import (
    Answer,
    LoraLinear,
    Prefix,
    Read,
    See,
    lora_sites,
    take_lora,
    write_down_sparsity,
)
from continuonbrain.model.serving.spec import (
    GRAPH_FILE,
    BundleError,
    BundleSpec,
    CheckSpec,
    LoraSpec,
    ModelSpec,
    PromptSpec,
)

Precision = Literal["fp32", "int8"]
Prompt = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""Token ids `[T]` and a frame `[120, 160, 3]`."""
MAX_LOGIT_DIFF = {"fp32": 1e-3, "int8": float("inf")}
MIN_AGREEMENT = {"fp32": 0.99, "int8": 0.9}
"""Bounds of the check. The likeliest of neighbouring bins may change where two are as likely; what is driven is the
expectation over them (`benchmarks/engine.py` compares that)."""
_ADAPTERS, _SIZE = 3, 0.05


def export_bundle(
    base: Path,
    out: Path,
    prompt: PromptSpec,
    samples: Sequence[Prompt],
    *,
    precision: Precision,
    rank: int,
    on_stage: Callable[[str], None] = lambda _: None,
) -> BundleSpec:
    """Convert the base in `base`, compare with torch on `samples`, and put the bundle at `out`.

    Raises:
        BundleError: the converter is missing, `out` exists, or the graphs differ from torch; nothing is left there.
    """
    if out.exists():
        raise BundleError(f"{out} exists already", remedy="remove it, or choose another folder")
    converter, quantizer = _tools()
    model: DrivingModel = load_base(base)
    spec_of_model, lora = _model_spec(model), _lora_spec(model, rank)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        making = Path(name) / "bundle"
        making.mkdir()
        graph = making / GRAPH_FILE
        on_stage("converting")
        sites = take_lora(model.decoder)
        write_down_sparsity(model.decoder)
        _convert(converter, model, prompt, lora, sites, graph)
        if precision == "int8":
            on_stage("quantising")
            _quantise(quantizer, graph)
        digest = hashlib.sha256(graph.read_bytes()).hexdigest()
        spec = BundleSpec(
            format=1,
            base_sha256=base_sha256(base),
            precision=precision,
            graph_sha256=digest,
            prompt=prompt,
            model=spec_of_model,
            lora=lora,
            check=CheckSpec(prompts=1, max_logit_diff=0.0, agreement=0.0),
            made_with={n: version(n) for n in ("torch", "transformers", "litert-torch", "litert-converter")},
        )
        spec.write(making)
        on_stage("comparing with torch")
        check = compare(making, base, model, sites, samples)
        if (
            not check.max_logit_diff <= MAX_LOGIT_DIFF[precision]
            or check.agreement < MIN_AGREEMENT[precision]
        ):
            raise BundleError(
                f"the graphs differ from torch: logits by {check.max_logit_diff:.2g}, the same answer in "
                f"{check.agreement:.1%} of {check.prompts} prompts; nothing was kept",
                remedy="use the versions in constraints-export.txt; report it if they are in use",
            )
        spec = spec.model_copy(update={"check": check})
        spec.write(making)
        graphs = Graphs(making, base)
        write_known_answer(making, graphs, *samples[0])
        _check_live(graphs, *samples[0])
        graph.chmod(0o644)
        making.rename(out)
    return spec


def compare(
    bundle: Path, base: Path, model: DrivingModel, sites: Mapping[str, LoraLinear], samples: Sequence[Prompt]
) -> CheckSpec:
    """The graphs beside torch (`model`, its `sites` wrapped by `take_lora`) on every sample: base alone, then adapters
    of random numbers, each of which must change the answers."""
    graphs = Graphs(bundle, base)
    generator = np.random.default_rng(0)
    worst, same, count = 0.0, 0, 0
    for adapter in range(1 + _ADAPTERS):
        factors = _random_adapter(graphs.spec.lora, generator if adapter else None)
        graphs.use(graphs.adapter(factors) if adapter else None)
        for ids, frame in samples:
            graphs.read(ids, frame)
            found = graphs.answer()
            right = _torch_answer(model, sites, factors if adapter else None, graphs.spec.prompt, ids, frame)
            worst = max(worst, float(np.abs(found - right).max()))
            same += int((found.argmax(-1) == right.argmax(-1)).sum())
            count += len(right)
            if not np.isfinite(found).all():
                worst = float("inf")
    return CheckSpec(
        prompts=len(samples) * (1 + _ADAPTERS), max_logit_diff=min(worst, 1e9), agreement=same / count
    )


def _check_live(graphs: Graphs, ids: NDArray[np.int64], frame: NDArray[np.uint8]) -> None:
    """Every module's LoRA inputs must reach the answer: a converter once left those of a whole signature without
    a consumer."""
    graphs.use(None)
    graphs.read(ids, frame)
    alone = graphs.answer()
    nothing, whole = no_adapter(graphs.spec.lora), known_adapter(graphs.spec.lora)
    for site in graphs.spec.lora.sites:
        key = site.replace(".", "_")
        graphs.use(graphs.adapter(nothing | {f"{key}_{part}": whole[f"{key}_{part}"] for part in "ab"}))
        if np.array_equal(graphs.answer(), alone):
            raise BundleError(
                f"the LoRA inputs of {site} change nothing; nothing was kept",
                remedy="use the versions in constraints-export.txt; report it if they are in use",
            )


def _random_adapter(lora: LoraSpec, generator: np.random.Generator | None) -> dict[str, NDArray[np.float32]]:
    inputs = no_adapter(lora)
    if generator is None:
        return inputs
    return {n: (_SIZE * generator.standard_normal(t.shape)).astype(np.float32) for n, t in inputs.items()}


@torch.inference_mode()
def _torch_answer(
    model: DrivingModel,
    sites: Mapping[str, LoraLinear],
    factors: Mapping[str, NDArray[np.float32]] | None,
    prompt: PromptSpec,
    ids: NDArray[np.int64],
    frame: NDArray[np.uint8],
) -> NDArray[np.float32]:
    for name, module in sites.items():
        key = name.replace(".", "_")
        module.factors = (
            None
            if factors is None
            else (torch.from_numpy(factors[f"{key}_a"]), torch.from_numpy(factors[f"{key}_b"]))
        )
    try:
        logits: Tensor = model(torch.from_numpy(ids)[None], torch.from_numpy(frame)[None])
    finally:
        for module in sites.values():
            module.factors = None
    rows = slice(prompt.answer_first, prompt.answer_first + prompt.answers)
    found: NDArray[np.float32] = logits[0, :, rows].float().numpy()
    return found


def _tools() -> tuple[Any, Any]:
    # Its log goes to stderr, pages of it, and says nothing that a person could act on.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import litert_torch
        from ai_edge_quantizer import quantizer
    except ImportError as error:
        raise BundleError(
            f"the converter cannot be loaded: {error}",
            remedy="on x86-64, in an environment of its own: "
            "pip install -c constraints-export.txt 'continuonbrain[export]'",
        ) from error
    return litert_torch, quantizer


def _convert(
    converter: Any,
    model: DrivingModel,
    prompt: PromptSpec,
    lora: LoraSpec,
    sites: Mapping[str, LoraLinear],
    graph: Path,
) -> None:
    config = model.decoder.config
    sizes = (int(config.num_hidden_layers), int(config.hidden_size_per_layer_input))

    def embedded(length: int) -> dict[str, Tensor]:
        return {
            "embeds": torch.zeros(1, length, int(config.hidden_size)),
            "per_layer": torch.zeros(1, length, *sizes),
        }

    with torch.no_grad():
        prefix, read = Prefix(model, prompt).eval(), Read(model, prompt).eval()
        first = embedded(prompt.prefix)
        kept = {n: t.clone() for n, t in prefix(**first).items()}
        rest = embedded(prompt.length - prompt.prefix) | {"prefix": kept}
        streams = {n: t.clone() for n, t in read(**rest).items()}
        answer = Answer(model, prompt, sites).eval()
        frame = torch.zeros(1, 120, 160, 3, dtype=torch.uint8)
        made = (
            converter.signature("prefix", prefix, sample_kwargs=first)
            .signature("see", See(model).eval(), sample_kwargs={"frame": frame})
            .signature("read", read, sample_kwargs=rest)
            .signature("answer", answer, sample_kwargs={"streams": streams, "lora": _zeros(lora)})
            .convert()
        )
        made.export(str(graph))


def _zeros(lora: LoraSpec) -> dict[str, Tensor]:
    return {n: torch.from_numpy(value) for n, value in sorted(no_adapter(lora).items())}


def _quantise(quantizer: Any, graph: Path) -> None:
    from ai_edge_quantizer import recipe

    whole = graph.with_suffix(".fp32")
    graph.rename(whole)
    work = quantizer.Quantizer(str(whole), recipe.dynamic_wi8_afp32())
    work.quantize().export_model(str(graph))
    whole.unlink()


def _lora_spec(model: DrivingModel, rank: int) -> LoraSpec:
    sites = {n: (m.in_features, m.out_features) for n, m in lora_sites(model.decoder).items()}
    return LoraSpec(rank=rank, sites=sites)


def _model_spec(model: DrivingModel) -> ModelSpec:
    decoder = model.decoder
    config = decoder.config
    return ModelSpec(
        hidden=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        below=decoder.first,
        per_layer=int(config.hidden_size_per_layer_input),
        kinds=tuple(decoder.layer_types),
        embed_scale=float(config.hidden_size**0.5),
        per_layer_scale=float(config.hidden_size_per_layer_input**0.5),
        embed_tensor="model.embed_tokens.weight",
        per_layer_tensor="model.embed_tokens_per_layer.weight",
    )
