"""Gemma 3n cut at its first KV-shared layer: everything below once, everything above at a few positions.

The last `num_kv_shared_layers` layers of Gemma 3n have no key/value projections; they attend to what the last
sliding and the last full layer below them stored. All else in a layer (AltUp, LAuReL, per-layer inputs, MLP)
works on one position alone. So, for the positions that matter,

* `encode_bottom` runs transformers' own model up to the cut and returns a `Streams`: all that the shared
  layers will ever read. With LoRA only above the cut it is a constant of the sample and can be cached;
* `run_suffix` runs transformers' own shared layers on a `Streams`, at those positions only, and is exact:
  same hidden states and same LoRA gradients as the whole model (see `tests/model/test_suffix.py`).

Prompts in a batch have the same length and no padding. Shapes: A AltUp streams, B batch, T prompt length,
P kept positions, L shared layers, H hidden, D per-layer input size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Streams:
    """What enters the shared layers.

    hidden `[A, B, P, H]`; per_layer `[B, P, L, D]`; kv: layer type -> keys and values `[B, heads, T, head_dim]`
    (RoPE applied); positions `[P]`, indices into the prompt.
    """

    hidden: Tensor
    per_layer: Tensor
    kv: Mapping[str, KeyValue]
    positions: Tensor

    def __len__(self) -> int:
        return self.hidden.shape[1]

    def select(self, rows: Tensor) -> Streams:
        """The samples at `rows` (int64 `[n]`)."""
        kv = {t: (k[rows], v[rows]) for t, (k, v) in self.kv.items()}
        return Streams(self.hidden[:, rows], self.per_layer[rows], kv, self.positions)

    def room_for(self, count: int) -> Streams:
        """Empty streams of the same kind for `count` samples, to be filled with `put`."""

        def room(tensor: Tensor, dim: int) -> Tensor:
            shape = list(tensor.shape)
            shape[dim] = count
            return torch.empty(shape, dtype=tensor.dtype)

        kv = {t: (room(k, 0), room(v, 0)) for t, (k, v) in self.kv.items()}
        return Streams(room(self.hidden, 1), room(self.per_layer, 0), kv, self.positions.clone())

    def put(self, rows: slice, part: Streams) -> None:
        """Copy `part` into the samples at `rows`."""
        self.hidden[:, rows] = part.hidden
        self.per_layer[rows] = part.per_layer
        for kind, (keys, values) in self.kv.items():
            keys[rows], values[rows] = part.kv[kind]

    def head(self, count: int) -> Streams:
        """The first `count` samples, as views."""
        kv = {t: (k[:count], v[:count]) for t, (k, v) in self.kv.items()}
        return Streams(self.hidden[:, :count], self.per_layer[:count], kv, self.positions)

    def nbytes(self) -> int:
        """Memory of all tensors in bytes."""
        return (
            self.hidden.nbytes + self.per_layer.nbytes + sum(k.nbytes + v.nbytes for k, v in self.kv.values())
        )


def first_shared_layer(config: Any) -> int:
    """Index of the first layer without key/value projections."""
    return int(config.num_hidden_layers - config.num_kv_shared_layers)


class _Cut(Exception):
    """Raised by the hook at the first shared layer: the pass below is done."""


def encode_bottom(text_model: Any, inputs_embeds: Tensor, per_layer_inputs: Tensor, keep: Tensor) -> Streams:
    """Run transformers' `Gemma3nTextModel` up to the first shared layer.

    inputs_embeds `[B, T, H]`, per_layer_inputs `[B, T, layers, D]` (from `get_per_layer_inputs`), keep: int64
    `[P]` positions whose streams are returned. Differentiable when gradients are enabled.
    """
    config = text_model.config
    first = first_shared_layer(config)
    seen: dict[str, Any] = {}
    project = text_model.project_per_layer_inputs

    def remember_projection(*args: Any, **kwargs: Any) -> Any:
        seen["per_layer"] = project(*args, **kwargs)
        return seen["per_layer"]

    def at_cut(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["hidden"], seen["kv"] = args[0], kwargs["shared_kv_states"]
        raise _Cut

    handle = text_model.layers[first].register_forward_pre_hook(at_cut, with_kwargs=True)
    text_model.project_per_layer_inputs = remember_projection
    try:
        text_model(inputs_embeds=inputs_embeds, per_layer_inputs=per_layer_inputs, use_cache=False)
    except _Cut:
        pass
    finally:
        handle.remove()
        del text_model.project_per_layer_inputs
    kv = {t: seen["kv"][t] for t in sorted(set(config.layer_types))}
    return Streams(seen["hidden"][:, :, keep], seen["per_layer"][:, keep, first:], kv, keep)


def _masks(config: Any, positions: Tensor, length: int) -> dict[str, Tensor]:
    keys = torch.arange(length, device=positions.device)[None]
    causal = keys <= positions[:, None]
    window = keys > positions[:, None] - config.sliding_window
    return {"full_attention": causal[None, None], "sliding_attention": (causal & window)[None, None]}


def run_suffix(text_model: Any, streams: Streams) -> Tensor:
    """The shared layers and the final AltUp merge and norm: hidden states `[B, P, H]`."""
    config = text_model.config
    first = first_shared_layer(config)
    hidden, kv = streams.hidden, dict(streams.kv)
    length = next(iter(kv.values()))[0].shape[2]
    position_ids = streams.positions[None]
    masks = _masks(config, streams.positions, length)
    rotary = {t: text_model.rotary_emb(hidden, position_ids, t) for t in set(config.layer_types)}
    for i in range(first, config.num_hidden_layers):
        kind = config.layer_types[i]
        hidden = text_model.layers[i](
            hidden,
            rotary[kind],
            streams.per_layer[:, :, i - first],
            shared_kv_states=kv,
            attention_mask=masks[kind],
            position_ids=position_ids,
            past_key_values=None,
        )
    # The merge at the end of Gemma3nTextModel.forward (transformers 5.23): streams back to the magnitude of
    # the first, mean, norm.
    magnitude = torch.mean(hidden[0] ** 2, dim=-1, keepdim=True) ** 0.5
    merged = [hidden[0]]
    for i in range(1, config.altup_num_inputs):
        projected = text_model.altup_unembed_projections[i - 1](hidden[i])
        own = torch.sqrt(torch.mean(projected**2, dim=-1, keepdim=True).clamp(min=1e-5))
        merged.append(projected * magnitude / own)
    out: Tensor = text_model.norm(torch.mean(torch.stack(merged), dim=0))
    return out
