"""Gemma 3n and Gemma 4 cut below their KV-shared layers: everything below once, everything above at a few positions.

The last `num_kv_shared_layers` layers have no key/value projections; they attend to what the last sliding and the
last full layer below them stored. All else in a layer (AltUp, LAuReL, per-layer inputs, MLP) works on one position
alone. So, for the positions that matter,

* `capture` runs transformers' own model up to the cut, and `keep` cuts from it a `Streams` a sample: all that the
  trained layers will ever read. With LoRA only above the cut it is a constant of the sample and can be cached;
* `run_suffix` runs transformers' own layers above the cut on `Streams`, at those positions only, and is exact: same
  hidden states and same LoRA gradients as the whole model (`python -m benchmarks.lora_exact`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from continuonbrain.model.decoder import Decoder
from continuonbrain.model.streams import KeyValue, Streams, masks


@dataclass(frozen=True, slots=True)
class Bottom:
    """The pass below the cut at all T positions of B prompts.

    hidden `[A, B, T, H]`, per_layer `[B, T, L, D]` of the trained layers, kv `[B, heads, T, head_dim]` by layer
    type, position `[B, T]`.
    """

    hidden: Tensor
    per_layer: Tensor
    kv: dict[str, KeyValue]
    position: Tensor


class _Cut(Exception):
    """Raised by the hook at the cut: the pass below is done."""


def capture(decoder: Decoder, forward: Callable[[], Any]) -> Bottom:
    """Run a model's forward up to the first trained layer.

    forward calls the model in whichever wrapper (token ids, images, embeddings), without a cache of its own
    (`use_cache=False`). Differentiable when gradients are enabled.
    """
    text = decoder.text
    layer = text.layers[decoder.first]
    seen: dict[str, Any] = {}
    project = text.project_per_layer_inputs

    def remember_projection(*args: Any, **kwargs: Any) -> Any:
        seen["per_layer"] = project(*args, **kwargs)
        return seen["per_layer"]

    def at_layer(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["hidden"], seen["kv"], seen["position"] = (
            args[0],
            kwargs["shared_kv_states"],
            kwargs["position_ids"],
        )
        if not decoder.plus_one:
            raise _Cut

    def behind_attention(*_: Any) -> None:
        raise _Cut  # the plus-one layer's own attention has stored its keys and values by now

    handles = [layer.register_forward_pre_hook(at_layer, with_kwargs=True)]
    if decoder.plus_one:
        handles.append(layer.self_attn.register_forward_hook(behind_attention))
    text.project_per_layer_inputs = remember_projection
    try:
        forward()
    except _Cut:
        pass
    finally:
        for handle in handles:
            handle.remove()
        del text.project_per_layer_inputs
    hidden = seen["hidden"]
    if hidden.dim() == 3:
        hidden = hidden[None]  # no AltUp: one stream
    batch, length = hidden.shape[1:3]
    per_layer = seen.get("per_layer")
    if per_layer is None:
        per_layer = hidden.new_zeros(batch, length, decoder.config.num_hidden_layers, 0)
    kv = {t: seen["kv"][t] for t in decoder.layer_types}
    return Bottom(hidden, per_layer[:, :, decoder.first :], kv, seen["position"].expand(batch, length))


def keep(
    decoder: Decoder, bottom: Bottom, positions: Sequence[Tensor], attention_mask: Tensor | None = None
) -> list[Streams]:
    """The streams of every sample at its own `positions` (int64 `[P]`, rising), each with a batch of one.

    attention_mask `[B, T]`: 1 where a token is real; real tokens stand in one piece (padding left or right). Keys
    that no kept position can see are left out. The tensors are copies: the pass itself can be let go.

    Raises:
        ValueError: no positions, positions that do not rise or stand on padding, or a mask with holes.
    """
    window = int(decoder.config.sliding_window)
    length = bottom.hidden.shape[2]
    out = []
    for row, index in enumerate(positions):
        real = torch.arange(length) if attention_mask is None else attention_mask[row].nonzero().flatten()
        if not len(index) or not len(real):
            raise ValueError(f"sample {row} has no supervised position or no token at all")
        low, high = int(real[0]), int(index[-1]) + 1
        if int(real[-1]) - low + 1 != len(real) or bool((index.diff() <= 0).any()):
            raise ValueError(f"sample {row}: real tokens must stand in one piece and positions must rise")
        if int(index[0]) < low or high - 1 > int(real[-1]):
            raise ValueError(f"sample {row}: a supervised position stands on padding")
        kv, start = {}, {}
        for kind, (keys, values) in bottom.kv.items():
            first = max(low, int(index[0]) - window + 1) if kind == "sliding_attention" else low
            kv[kind] = keys[row : row + 1, :, first:high], values[row : row + 1, :, first:high]
            start[kind] = torch.tensor([first])
        part = Streams(
            bottom.hidden[:, row : row + 1, index],
            bottom.per_layer[row : row + 1, index],
            kv,
            start,
            index[None],
            bottom.position[row : row + 1, index],
        )
        out.append(part.clone())
    return out


def keep_same(bottom: Bottom, index: Tensor) -> Streams:
    """The streams of prompts of one length without padding, all kept at the same positions (int64 `[P]`).

    Differentiable, and nothing is copied but what is selected.
    """
    batch, high = bottom.hidden.shape[1], int(index[-1]) + 1
    return Streams(
        bottom.hidden[:, :, index],
        bottom.per_layer[:, index],
        {t: (k[:, :, :high], v[:, :, :high]) for t, (k, v) in bottom.kv.items()},
        {t: torch.zeros(batch, dtype=torch.int64) for t in bottom.kv},
        index.expand(batch, -1),
        bottom.position[:, index],
    )


ATTENTION = "continuonbrain_suffix"


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of few queries `[B, heads, P, D]` to stored keys and values `[B, kv heads, T, D]`, for transformers.

    Heads that share keys are rows of one product: nothing is repeated, and no gradient of keys and values is computed,
    as the fused kernels would. attention_mask `[B, 1, P, T]`: True where a key may be seen.
    """
    batch, heads, positions, width = query.shape
    groups = heads // key.shape[1]
    rows = query.reshape(batch, key.shape[1], groups * positions, width)
    scores = (rows @ key.transpose(-1, -2)) * (width**-0.5 if scaling is None else scaling)
    hidden = ~attention_mask.repeat(1, 1, groups, 1)
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores.to(wide).masked_fill(hidden, -torch.inf), -1).to(value.dtype)
    return (weights @ value).view(batch, heads, positions, width).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)


@contextmanager
def _attending(config: Any) -> Iterator[None]:
    """While this lasts the model's layers attend by `_attend`."""
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def run_suffix(decoder: Decoder, streams: Streams) -> Tensor:
    """The layers above the cut and the model's final norm: hidden states `[B, P, H]`."""
    config, text = decoder.config, decoder.text
    hidden = streams.hidden if hasattr(config, "altup_num_inputs") else streams.hidden[0]
    kv = dict(streams.kv)
    allowed = masks(streams, int(config.sliding_window))
    rotary = {t: text.rotary_emb(hidden, streams.position, t) for t in decoder.layer_types}
    with decoder.reading_stored_kv(), _attending(config):
        for number, layer in enumerate(decoder.layers):
            kind = config.layer_types[layer]
            hidden = text.layers[layer](
                hidden,
                position_embeddings=rotary[kind],
                per_layer_input=streams.per_layer[:, :, number] if streams.per_layer.shape[-1] else None,
                shared_kv_states=kv,
                attention_mask=allowed[kind],
                position_ids=streams.position,
                past_key_values=None,
            )
    out: Tensor = text.norm(_merged(text, hidden) if hidden.dim() == 4 else hidden)
    return out


def _merged(text: Any, hidden: Tensor) -> Tensor:
    """AltUp's streams `[A, B, P, H]` as one, as at the end of `Gemma3nTextModel.forward` (transformers 5.23):
    each back to the magnitude of the first, then the mean."""
    magnitude = torch.mean(hidden[0] ** 2, dim=-1, keepdim=True) ** 0.5
    merged = [hidden[0]]
    for unembed, stream in zip(text.altup_unembed_projections, hidden[1:], strict=True):
        projected = unembed(stream)
        own = torch.sqrt(torch.mean(projected**2, dim=-1, keepdim=True).clamp(min=1e-5))
        merged.append(projected * magnitude / own)
    return torch.mean(torch.stack(merged), dim=0)
