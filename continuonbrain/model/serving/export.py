"""Exporting a driving base to LiteRT graphs, with a numeric check against torch at the end. x86-64, `[export]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continuonbrain.model.base import load_base
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.serving.convert import (
    ADAPTERS,
    Precision,
    Tools,
    accept,
    answering_with,
    graph_sha256,
    lora_spec,
    lora_zeros,
    made_with,
    model_spec,
    random_adapter,
    staged,
)
from continuonbrain.model.serving.known_answer import live_graphs, write_known_answer
from continuonbrain.model.serving.runtime import Graphs
from continuonbrain.model.serving.signatures import (
    Answer,
    LoraLinear,
    Prefix,
    Read,
    See,
    take_lora,
    write_down_sparsity,
)
from continuonbrain.model.serving.spec import CheckSpec, DrivingSpec, LoraSpec, PromptSpec

Prompt = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""Token ids `[T]` and a frame `[120, 160, 3]`."""


def export_bundle(
    base: Path,
    out: Path,
    prompt: PromptSpec,
    samples: Sequence[Prompt],
    *,
    precision: Precision,
    rank: int,
    on_stage: Callable[[str], None] = lambda _: None,
) -> DrivingSpec:
    """Convert the base in `base`, compare with torch on `samples`, and put the bundle at `out`.

    Raises:
        BundleError: the converter is missing, `out` exists, or the graphs differ from torch; nothing is left there.
    """
    with staged(out) as making:
        tools = Tools()
        model: DrivingModel = load_base(base)
        sizes, lora = model_spec(model.decoder, "model.", torch.float32), lora_spec(model.decoder, rank)
        graph = making / DrivingSpec.graph_file
        on_stage("converting")
        sites = take_lora(model.decoder)
        write_down_sparsity(model.decoder)
        _convert(tools, model, prompt, lora, sites, graph)
        if precision == "int8":
            on_stage("quantising")
            tools.quantise(graph)
        spec = DrivingSpec(
            format=1,
            base_sha256=base_sha256(base),
            precision=precision,
            graph_sha256=graph_sha256(graph),
            prompt=prompt,
            model=sizes,
            lora=lora,
            check=CheckSpec(prompts=1, max_logit_diff=0.0, agreement=0.0),
            made_with=made_with(),
        )
        spec.write(making)
        on_stage("comparing with torch")
        check = compare(making, base, model, sites, samples)
        accept(check, precision)
        spec = spec.model_copy(update={"check": check})
        spec.write(making)
        graphs = Graphs(making, base)
        write_known_answer(making, graphs, *samples[0])
        graphs.read(*samples[0])
        live_graphs(making, graphs)
    return spec


def compare(
    bundle: Path, base: Path, model: DrivingModel, sites: Mapping[str, LoraLinear], samples: Sequence[Prompt]
) -> CheckSpec:
    """The graphs beside torch (`model`, its `sites` wrapped by `take_lora`) on every sample: base alone, then adapters
    of random numbers, each of which must change the answers."""
    graphs = Graphs(bundle, base)
    generator = np.random.default_rng(0)
    worst, largest, same, count = 0.0, 0.0, 0, 0
    for adapter in range(1 + ADAPTERS):
        factors = random_adapter(graphs.spec.lora, generator) if adapter else None
        graphs.use(None if factors is None else graphs.adapter(factors))
        for ids, frame in samples:
            graphs.read(ids, frame)
            found = graphs.answer()
            with answering_with(sites, factors):
                right = _torch_answer(model, graphs.spec.prompt, ids, frame)
            worst = max(worst, float(np.abs(found - right).max()))
            largest = max(largest, float(np.abs(right).max()))
            same += int((found.argmax(-1) == right.argmax(-1)).sum())
            count += len(right)
            if not np.isfinite(found).all():
                worst = float("inf")
    return CheckSpec(
        prompts=len(samples) * (1 + ADAPTERS),
        max_logit_diff=min(worst, 1e9),
        agreement=same / count,
        largest_logit=largest,
    )


@torch.inference_mode()
def _torch_answer(
    model: DrivingModel, prompt: PromptSpec, ids: NDArray[np.int64], frame: NDArray[np.uint8]
) -> NDArray[np.float32]:
    logits: Tensor = model(torch.from_numpy(ids)[None], torch.from_numpy(frame)[None])
    rows = slice(prompt.answer_first, prompt.answer_first + prompt.answers)
    found: NDArray[np.float32] = logits[0, :, rows].float().numpy()
    return found


def _convert(
    tools: Tools,
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
            tools.converter.signature("prefix", prefix, sample_kwargs=first)
            .signature("see", See(model).eval(), sample_kwargs={"frame": frame})
            .signature("read", read, sample_kwargs=rest)
            .signature("answer", answer, sample_kwargs={"streams": streams, "lora": lora_zeros(lora)})
            .convert()
        )
        made.export(str(graph))
