"""A driving base as four torch modules with fixed shapes, each of which becomes a signature of one LiteRT graph file.

    prefix   embeddings of <bos> and the instruction            -> keys and values of the layers below the cut
    see      a frame                                             -> soft tokens
    read     embeddings of the rest, keys and values of `prefix` -> streams: all that the layers above will read
    answer   streams, LoRA                                       -> logits of the answer tokens

An instruction is read once and used for every frame after it; an adapter is an input of `answer` alone, so a swap
touches nothing that has been read. The layers are transformers' own, and so are all numbers: what differs from
`DrivingModel` is only where constants are written down, because a graph cannot look them up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from continuonbrain.model.decoder import Decoder
from continuonbrain.model.driving import DrivingModel
from continuonbrain.model.serving.spec import PromptSpec
from continuonbrain.model.streams import Streams
from continuonbrain.model.suffix import ATTENTION, run_suffix

LORA = "lora"
"""The converter names the tensors of a dictionary argument `lora` "lora_<key>"."""
STREAMS = "streams"


def site_key(path: str) -> str:
    """A module's name as part of a tensor's name."""
    return path.replace(".", "_")


class LoraLinear(nn.Module):
    """A frozen linear layer that adds what is in `factors` (a `[in, r]`, b `[r, out]`), if anything is."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.factors: tuple[Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """AltUp and the attention look at the weight's type."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if self.factors is None:
            return y
        a, b = self.factors
        return y + (x @ a) @ b


def lora_sites(decoder: Decoder) -> dict[str, nn.Linear]:
    """Every module above the cut that can carry LoRA, by its name below the text model ("layers.4.mlp.up_proj")."""
    return {
        f"layers.{layer}.{path}": module
        for layer in decoder.layers
        for path, module in decoder.text.layers[layer].named_modules()
        if isinstance(module, nn.Linear) and path.rsplit(".", 1)[-1] in decoder.targets(layer)
    }


def take_lora(decoder: Decoder) -> dict[str, LoraLinear]:
    """Replace every site by a `LoraLinear`; the wrapped modules by name."""
    taken = {}
    for name, module in lora_sites(decoder).items():
        parent, _, leaf = name.rpartition(".")
        taken[name] = LoraLinear(module)
        setattr(decoder.text.get_submodule(parent), leaf, taken[name])
    return taken


class _Collected:
    """Stands where transformers expects a cache: hands every layer its earlier keys and values in front of its own,
    and remembers both."""

    def __init__(self, before: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        self.before, self.now = before, dict[int, tuple[Tensor, Tensor]]()

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        if layer in self.before:
            earlier = self.before[layer]
            keys, values = torch.cat([earlier[0], keys], 2), torch.cat([earlier[1], values], 2)
        self.now[layer] = keys, values
        return keys, values


class _Note(nn.Module):
    """Stands for a layer above the cut: writes down what it would have read, and changes nothing."""

    def __init__(self, seen: dict[str, Any]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, hidden: Tensor, *_: Any, **kwargs: Any) -> Tensor:
        self.seen["hidden"], self.seen["kv"] = hidden, dict(kwargs["shared_kv_states"])
        return hidden


def write_down_sparsity(decoder: Decoder) -> None:
    """Make the multiplier of Gemma 3n's activation sparsity a number in every layer that has one, for good.

    The library takes it from a quantile function in every pass, for which graphs have no operation (and the
    converter's own replacement is a buffer that transformers 5 leaves uninitialised: other logits without an error).
    """
    for layer in decoder.text.layers:
        sparsity = float(getattr(layer.mlp, "activation_sparsity", 0.0))
        if sparsity > 0.0:
            layer.mlp._gaussian_topk = partial(_gaussian_topk, NormalDist().inv_cdf(sparsity))


def _gaussian_topk(multiplier: float, x: Tensor) -> Tensor:
    """`Gemma3nTextMLP._gaussian_topk` of transformers 5.23, its multiplier given."""
    spread = torch.std(x, dim=-1, keepdim=True, unbiased=False)
    return F.relu(x - (torch.mean(x, dim=-1, keepdim=True) + spread * multiplier))


@contextmanager
def cut_off(decoder: Decoder) -> Iterator[dict[str, Any]]:
    """While this lasts the layers above the cut note what comes in. (A pass that ends with an exception, as in
    `suffix.capture`, leaves the tracer of torch.export in the middle of a module.)"""
    seen: dict[str, Any] = {}
    text, first = decoder.text, decoder.first
    layers, project, attention = text.layers, text.project_per_layer_inputs, text.config._attn_implementation

    def remember(*args: Any, **kwargs: Any) -> Any:
        seen["per_layer"] = project(*args, **kwargs)
        return seen["per_layer"]

    text.layers = nn.ModuleList([*layers[:first], *(_Note(seen) for _ in layers[first:])])
    text.project_per_layer_inputs = remember
    # The converter turned "eager" into a graph whose attention was wrong (off by units, without an error).
    text.config._attn_implementation = ATTENTION
    try:
        yield seen
    finally:
        text.layers, text.config._attn_implementation = layers, attention
        del text.project_per_layer_inputs


def named(kind: str, number: int | str) -> str:
    """Name of a tensor of a layer, or of a kind of attention."""
    return f"{kind}_{number}"


class _Below(nn.Module):
    """The layers below the cut over positions `start` to `stop` of the prompt."""

    def __init__(self, model: DrivingModel, start: int, stop: int) -> None:
        super().__init__()
        self.model, self.start, self.stop = model, start, stop
        query, key = torch.arange(start, stop)[:, None], torch.arange(stop)[None]
        seen = (key <= query)[None, None]
        near = seen & (key > query - int(model.decoder.config.sliding_window))[None, None]
        self.masks = {"full_attention": seen, "sliding_attention": near}
        self.position = torch.arange(start, stop)[None]

    def run(
        self, embeds: Tensor, per_layer: Tensor, before: Mapping[str, Tensor]
    ) -> tuple[dict[str, Any], dict[int, tuple[Tensor, Tensor]]]:
        below = range(self.model.decoder.first)
        given = {i: (before[named("keys", i)], before[named("values", i)]) for i in below} if before else {}
        cache = _Collected(given)
        with cut_off(self.model.decoder) as seen:
            self.model.decoder.text(
                inputs_embeds=embeds,
                per_layer_inputs=per_layer,
                attention_mask=self.masks,
                position_ids=self.position,
                past_key_values=cache,
                use_cache=False,
            )
        return seen, cache.now


class Prefix(_Below):
    """Embeddings `[1, P, H]` and per-layer embeddings `[1, P, L, D]` -> keys_i, values_i `[1, heads, P, d]`."""

    def __init__(self, model: DrivingModel, prompt: PromptSpec) -> None:
        super().__init__(model, 0, prompt.prefix)

    def forward(self, embeds: Tensor, per_layer: Tensor) -> dict[str, Tensor]:
        _, kv = self.run(embeds, per_layer, {})
        return {
            named(part, i): tensor
            for i, pair in sorted(kv.items())
            for part, tensor in zip(("keys", "values"), pair, strict=True)
        }


class See(nn.Module):
    """A frame uint8 `[1, 120, 160, 3]` -> soft tokens `[1, 20, H]`."""

    def __init__(self, model: DrivingModel) -> None:
        super().__init__()
        self.connector = model.connector

    def forward(self, frame: Tensor) -> dict[str, Tensor]:
        return {"soft": self.connector(frame)}


class Read(_Below):
    """Embeddings `[1, T-P, H]`, per-layer embeddings, what `prefix` gave -> the streams at the queries."""

    def __init__(self, model: DrivingModel, prompt: PromptSpec) -> None:
        super().__init__(model, prompt.prefix, prompt.length)
        self.queries = prompt.queries

    def forward(self, embeds: Tensor, per_layer: Tensor, prefix: dict[str, Tensor]) -> dict[str, Tensor]:
        seen, _ = self.run(embeds, per_layer, prefix)
        decoder = self.model.decoder
        out = {
            "hidden": seen["hidden"][:, :, -self.queries :],
            "per_layer": seen["per_layer"][:, -self.queries :, decoder.first :],
        }
        for kind in decoder.layer_types:
            out[named("keys", kind)], out[named("values", kind)] = seen["kv"][kind]
        return out


class Answer(nn.Module):
    """Streams and LoRA -> soft-capped logits of the answer tokens, `[1, queries, answers]`."""

    def __init__(self, model: DrivingModel, prompt: PromptSpec, sites: Mapping[str, LoraLinear]) -> None:
        super().__init__()
        self.model, self.sites = model, dict(sites)
        # A view of the tied embedding: of a real vocabulary a few dozen rows of hundreds of thousands.
        rows = slice(prompt.answer_first, prompt.answer_first + prompt.answers)
        self.head = nn.Parameter(model.causal_lm.lm_head.weight[rows].detach().clone(), requires_grad=False)
        self.index = torch.arange(prompt.length - prompt.queries, prompt.length)[None]

    def forward(self, streams: dict[str, Tensor], lora: dict[str, Tensor]) -> dict[str, Tensor]:
        decoder = self.model.decoder
        kinds = decoder.layer_types
        given = Streams(
            streams["hidden"],
            streams["per_layer"],
            {t: (streams[named("keys", t)], streams[named("values", t)]) for t in kinds},
            {t: torch.zeros(1, dtype=torch.int64) for t in kinds},
            self.index,
            self.index,
        )
        for name, module in self.sites.items():
            module.factors = lora[f"{site_key(name)}_a"], lora[f"{site_key(name)}_b"]
        try:
            logits = F.linear(run_suffix(decoder, given), self.head)
        finally:
            for module in self.sites.values():
                module.factors = None
        cap = decoder.soft_cap
        return {"logits": logits if cap is None else torch.tanh(logits / cap) * cap}
