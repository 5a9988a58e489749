"""A KV-shared language model as two torch modules with fixed shapes, for words instead of driving.

    prefill   embeddings of N tokens, where they begin, the cache           -> the cache
    next      embedding of one token, its position, the cache, LoRA          -> logits of the next one, the cache

The cache holds keys and values of the layers below the cut alone, `context` slots each: layers above have none of their
own. So `prefill` runs those below and nothing else, whatever adapter is in use, and all but the last token of a prompt
never see the layers above. A slot that has not been written is never looked at; writing is a choice between
old and new by position, because a graph of fixed shapes cannot cut a tensor at a number it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from continuonbrain.model.decoder import decoder_of
from continuonbrain.model.serving.signatures import LoraLinear, cut_off, named, site_key
from continuonbrain.model.streams import Streams
from continuonbrain.model.suffix import run_suffix


class _Slots:
    """Stands where transformers expects a cache: puts a layer's keys and values into their slots, hands out all."""

    def __init__(self, before: Mapping[str, Tensor], position: Tensor) -> None:
        self.before, self.position = before, position
        self.now: dict[str, Tensor] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        for part, new in (("keys", keys), ("values", values)):
            name = named(part, layer)
            self.now[name] = self._put(self.before[name], new)
        return self.now[named("keys", layer)], self.now[named("values", layer)]

    def _put(self, old: Tensor, new: Tensor) -> Tensor:
        slots = torch.arange(old.shape[2])
        here = (slots[:, None] == self.position[0][None]).to(old.dtype)  # [slots, tokens]
        kept = 1.0 - here.sum(1)[:, None]
        return old * kept + here @ new


class _Chunk(nn.Module):
    """The layers below the cut over a few tokens that follow what the cache holds."""

    def __init__(self, model: Any, tokens: int) -> None:
        super().__init__()
        self.model, self.tokens = model, tokens
        self.decoder = decoder_of(model)

    def run(
        self, embeds: Tensor, per_layer: Tensor, start: Tensor, cache: Mapping[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor], Tensor]:
        position = (start.to(torch.int64) + torch.arange(self.tokens))[None]
        slots = torch.arange(next(iter(cache.values())).shape[2])[None]
        query = position[0][:, None]
        seen = slots <= query
        near = seen & (slots > query - int(self.decoder.config.sliding_window))
        written = _Slots(cache, position)
        with cut_off(self.decoder) as noted:
            self.decoder.text(
                inputs_embeds=embeds,
                per_layer_inputs=per_layer,
                attention_mask={"full_attention": seen[None, None], "sliding_attention": near[None, None]},
                position_ids=position,
                past_key_values=written,
                use_cache=False,
            )
        return noted, written.now, position


class Prefill(_Chunk):
    """Embeddings `[1, N, H]`, per-layer embeddings `[1, N, L, D]`, start int32 `[1]`, the cache -> the cache."""

    def forward(
        self, embeds: Tensor, per_layer: Tensor, start: Tensor, cache: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return self.run(embeds, per_layer, start, cache)[1]


class Next(_Chunk):
    """Embedding `[1, 1, H]`, per-layer embedding, position int32 `[1]`, the cache, LoRA -> soft-capped `logits`
    `[1, vocabulary]` and the cache."""

    def __init__(self, model: Any, sites: Mapping[str, LoraLinear]) -> None:
        super().__init__(model, 1)
        self.sites = dict(sites)

    def forward(
        self,
        embeds: Tensor,
        per_layer: Tensor,
        start: Tensor,
        cache: dict[str, Tensor],
        lora: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        noted, now, position = self.run(embeds, per_layer, start, cache)
        decoder = self.decoder
        streams = Streams(
            noted["hidden"],
            noted["per_layer"][:, :, decoder.first :],
            {t: noted["kv"][t] for t in decoder.layer_types},
            {t: torch.zeros(1, dtype=torch.int64) for t in decoder.layer_types},
            position,
            position,
        )
        for name, module in self.sites.items():
            module.factors = lora[f"{site_key(name)}_a"], lora[f"{site_key(name)}_b"]
        try:
            logits = F.linear(run_suffix(decoder, streams)[:, 0], decoder.lm_head.weight)
        finally:
            for module in self.sites.values():
                module.factors = None
        cap = decoder.soft_cap
        return {"logits": logits if cap is None else torch.tanh(logits / cap) * cap} | now


def empty_cache(model: Any, context: int) -> dict[str, Tensor]:
    """`context` slots of zeros for every layer below the cut: keys_i, values_i `[1, heads, context, d]`."""
    decoder = decoder_of(model)
    config = decoder.config
    shape = (1, int(config.num_key_value_heads), context, int(config.head_dim))
    return {named(part, i): torch.zeros(shape) for i in range(decoder.first) for part in ("keys", "values")}
