"""Exporting a Hugging Face Gemma 3n folder to LiteRT graphs that answer in words. x86-64, extra `[export]`.

The layers come from the checkpoint one by one, as fp32; the embedding tables never leave it. What is compared at the
end is transformers' own forward pass over the whole conversation, with and without adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from continuonbrain.model.base_identity import checkpoint_sha256
from continuonbrain.model.checkpoint import Checkpoint
from continuonbrain.model.decoder import Decoder, decoder_of
from continuonbrain.model.phases import LanguageModel, load_plain
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
from continuonbrain.model.serving.known_answer import live_words, write_known_words
from continuonbrain.model.serving.language import Next, Prefill, empty_cache
from continuonbrain.model.serving.signatures import LoraLinear, take_lora, write_down_sparsity
from continuonbrain.model.serving.spec import BundleError, CheckSpec, LanguageSpec, LoraSpec
from continuonbrain.model.serving.tables import EmbeddingTables
from continuonbrain.model.serving.words import Words

CHUNK = 32
_LENGTHS = (1, 2, CHUNK, 2 * CHUNK + 5)
"""Of the conversations that are compared with torch."""
_NEXT = 3
"""Tokens that follow each, one by one."""
_NEARLY = 0.1
"""Nats by which the likeliest token may be behind torch's likeliest."""


def export_language(
    folder: Path,
    out: Path,
    *,
    precision: Precision,
    rank: int,
    context: int,
    on_stage: Callable[[str], None] = lambda _: None,
) -> LanguageSpec:
    """Convert the checkpoint in `folder`, compare with torch, and put the bundle at `out`.

    Raises:
        CheckpointError: the folder cannot be used, or is of another family than Gemma 3n.
        BundleError: the converter is missing, `out` exists, or the graphs differ from torch; nothing is left there.
    """
    checkpoint = Checkpoint(folder)
    with staged(out) as making:
        tools = Tools()
        on_stage("reading the checkpoint")
        base = checkpoint_sha256(folder)
        model = load_plain(checkpoint, tables=False)
        decoder = decoder_of(model)
        if decoder.config.model_type != "gemma3n_text":
            raise BundleError(
                f"{folder} is a {decoder.config.model_type} model: only Gemma 3n is exported",
                remedy="use it with the torch engine",
            )
        lora = lora_spec(decoder, rank)
        table = checkpoint.mapped(f"{checkpoint.prefix}embed_tokens.weight").dtype
        sites = take_lora(decoder)
        write_down_sparsity(decoder)
        graph = making / LanguageSpec.graph_file
        on_stage("converting")
        _convert(tools, model, decoder, lora, sites, graph, context)
        if precision == "int8":
            on_stage("quantising")
            tools.quantise(graph)
        spec = LanguageSpec(
            format=1,
            base_sha256=base,
            precision=precision,
            graph_sha256=graph_sha256(graph),
            model=model_spec(decoder, checkpoint.prefix, table),
            lora=lora,
            check=CheckSpec(prompts=1, max_logit_diff=0.0, agreement=0.0),
            made_with=made_with(),
            context=context,
            chunk=CHUNK,
            vocabulary=int(decoder.config.vocab_size),
            end=checkpoint.end_ids(),
        )
        spec.write(making)
        on_stage("comparing with torch")
        words = Words(making, folder)
        check = compare(words, folder, decoder, sites)
        accept(check, precision)
        spec = spec.model_copy(update={"check": check})
        spec.write(making)
        write_known_words(making, words)
        live_words(making, words)
    return spec


@torch.no_grad()
def compare(words: Words, folder: Path, decoder: Decoder, sites: Mapping[str, LoraLinear]) -> CheckSpec:
    """The graphs beside torch (`decoder`, its `sites` wrapped by `take_lora`): conversations of several lengths, each
    with a few tokens that follow, by the base alone and with adapters of random numbers."""
    spec = words.spec
    tables = EmbeddingTables(folder, spec.model)
    generator = np.random.default_rng(0)
    worst, largest, same, count = 0.0, 0.0, 0, 0
    full = spec.context - _NEXT
    for adapter in range(1 + ADAPTERS):
        factors = random_adapter(spec.lora, generator) if adapter else None
        words.use(None if factors is None else words.adapter(factors))
        # The whole context once, by the base and one adapter: torch needs its time for it.
        for length in (*_LENGTHS, *([full] if adapter < 2 and full > max(_LENGTHS) else [])):
            ids = generator.integers(3, spec.vocabulary, min(length, full)).tolist()
            for _ in range(1 + _NEXT):
                found = words.logits(ids)
                with answering_with(sites, factors):
                    right = _torch_logits(decoder, tables, ids)
                worst = max(worst, float(np.abs(found - right).max()))
                largest = max(largest, float(np.abs(right).max()))
                if not np.isfinite(found).all():
                    worst = float("inf")
                same += bool(right[int(found.argmax())] >= right.max() - _NEARLY)
                count += 1
                ids.append(int(right.argmax()))
    return CheckSpec(
        prompts=count, max_logit_diff=min(worst, 1e9), agreement=same / count, largest_logit=largest
    )


def _torch_logits(decoder: Decoder, tables: EmbeddingTables, ids: Sequence[int]) -> NDArray[np.float32]:
    embeds, per_layer = (torch.from_numpy(t) for t in tables.rows(np.asarray(ids, np.int64)))
    hidden = decoder.text(inputs_embeds=embeds, per_layer_inputs=per_layer, use_cache=False).last_hidden_state
    logits: Tensor = F.linear(hidden[0, -1], decoder.lm_head.weight)
    cap = decoder.soft_cap
    found: NDArray[np.float32] = (logits if cap is None else torch.tanh(logits / cap) * cap).numpy()
    return found


def _convert(
    tools: Tools,
    model: LanguageModel,
    decoder: Decoder,
    lora: LoraSpec,
    sites: Mapping[str, LoraLinear],
    graph: Path,
    context: int,
) -> None:
    config = decoder.config
    sizes = (int(config.num_hidden_layers), int(config.hidden_size_per_layer_input))

    def taken(tokens: int) -> dict[str, Any]:
        return {
            "embeds": torch.zeros(1, tokens, int(config.hidden_size)),
            "per_layer": torch.zeros(1, tokens, *sizes),
            "start": torch.zeros(1, dtype=torch.int32),
            "cache": empty_cache(model, context),
        }

    modules: dict[str, nn.Module] = {"prefill": Prefill(model, CHUNK), "next": Next(model, sites)}
    with torch.no_grad():
        made = (
            tools.converter.signature("prefill", modules["prefill"].eval(), sample_kwargs=taken(CHUNK))
            .signature("next", modules["next"].eval(), sample_kwargs=taken(1) | {"lora": lora_zeros(lora)})
            # Weights stay out of the intermediate graph: less memory, the same numbers.
            .convert(lightweight_conversion=True)
        )
        made.export(str(graph))
