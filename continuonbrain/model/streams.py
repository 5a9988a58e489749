"""What enters the trained layers: the constants of a sample, and batches of ragged samples.

Shapes: A AltUp streams (1 where the architecture has none), B batch, P kept positions, T kept keys, L trained
layers, D per-layer input size (0: none), H hidden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

KeyValue = tuple[Tensor, Tensor]
_HASHED_AT_ONCE = 64 << 20


@dataclass(frozen=True, slots=True)
class Streams:
    """All that the trained layers will ever read of B samples.

    hidden `[A, B, P, H]`; per_layer `[B, P, L, D]`; kv: layer type -> keys and values `[B, heads, T, head_dim]`
    (RoPE applied); key_start: layer type -> sequence index of the first kept key, int64 `[B]`; index: sequence
    index of the kept positions, int64 `[B, P]`, rising (what masks compare); position: their position ids (what
    RoPE turns by), int64 `[B, P]`. The two differ only where a tokenizer pads on the left and counts from there.
    """

    hidden: Tensor
    per_layer: Tensor
    kv: Mapping[str, KeyValue]
    key_start: Mapping[str, Tensor]
    index: Tensor
    position: Tensor

    def __len__(self) -> int:
        return self.hidden.shape[1]

    def _each(self, change: Callable[[Tensor, int], Tensor]) -> Streams:
        """The same with `change(tensor, its batch dimension)` for every tensor."""
        return Streams(
            change(self.hidden, 1),
            change(self.per_layer, 0),
            {t: (change(k, 0), change(v, 0)) for t, (k, v) in self.kv.items()},
            {t: change(s, 0) for t, s in self.key_start.items()},
            change(self.index, 0),
            change(self.position, 0),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name of its own: what a file of streams holds (`from_tensors` is the way back)."""
        named = {
            "hidden": self.hidden,
            "per_layer": self.per_layer,
            "index": self.index,
            "position": self.position,
        }
        for kind, (keys, values) in self.kv.items():
            named |= {f"keys.{kind}": keys, f"values.{kind}": values, f"start.{kind}": self.key_start[kind]}
        return named

    @staticmethod
    def from_tensors(named: Mapping[str, Tensor]) -> Streams:
        """Streams from `tensors()`. `KeyError` names what is missing."""
        kinds = sorted(name.removeprefix("keys.") for name in named if name.startswith("keys."))
        return Streams(
            named["hidden"],
            named["per_layer"],
            {t: (named[f"keys.{t}"], named[f"values.{t}"]) for t in kinds},
            {t: named[f"start.{t}"] for t in kinds},
            named["index"],
            named["position"],
        )

    def select(self, rows: Tensor) -> Streams:
        """The samples at `rows` (int64 `[n]`)."""
        return self._each(lambda tensor, dim: tensor.index_select(dim, rows))

    def head(self, count: int) -> Streams:
        """The first `count` samples, as views."""
        return self._each(lambda tensor, dim: tensor.narrow(dim, 0, count))

    def split(self) -> list[Streams]:
        """Every sample as streams of its own, as views."""
        return [self._each(lambda tensor, dim, i=i: tensor.narrow(dim, i, 1)) for i in range(len(self))]  # type: ignore[misc]

    def to(self, dtype: torch.dtype) -> Streams:
        """The same with floating-point tensors of this type."""
        return self._each(lambda tensor, _dim: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    def clone(self) -> Streams:
        """A copy that shares no memory (a view would keep the whole pass alive)."""
        return self._each(lambda tensor, _dim: tensor.clone(memory_format=torch.contiguous_format))

    def room_for(self, count: int) -> Streams:
        """Empty streams of the same kind for `count` samples, to be filled with `put`."""

        def room(tensor: Tensor, dim: int) -> Tensor:
            shape = list(tensor.shape)
            shape[dim] = count
            return torch.empty(shape, dtype=tensor.dtype)

        return self._each(room)

    def put(self, rows: slice, part: Streams) -> None:
        """Copy `part` (same shapes but for the batch) into the samples at `rows`."""
        mine, given = self.tensors(), part.tensors()
        for name, tensor in mine.items():
            tensor[(slice(None), rows) if name == "hidden" else rows] = given[name]

    def sha256(self, between: Callable[[], None] = lambda: None) -> str:
        """Identity of what is in it. between: called between parts of 64 MiB."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            data = tensor.contiguous().flatten().view(torch.uint8).numpy().data
            for start in range(0, len(data), _HASHED_AT_ONCE):
                between()
                digest.update(data[start : start + _HASHED_AT_ONCE])
        return digest.hexdigest()

    def nbytes(self) -> int:
        """Memory of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())


def collate(parts: Sequence[Streams]) -> Streams:
    """One batch from streams of any lengths.

    Missing positions repeat the last one of their sample (finite, and without a label they reach no loss);
    missing keys are zeros behind the last real one, where no mask lets a query look.
    """
    if len(parts) == 1:
        return parts[0]
    most = max(p.index.shape[1] for p in parts)

    def longer(tensor: Tensor, dim: int, length: int) -> Tensor:
        missing = length - tensor.shape[dim]
        if not missing:
            return tensor
        last = tensor.narrow(dim, tensor.shape[dim] - 1, 1)
        shape = list(tensor.shape)
        shape[dim] = missing
        return torch.cat([tensor, last.expand(shape)], dim)

    def more_keys(tensor: Tensor, length: int) -> Tensor:
        return F.pad(tensor, (0, 0, 0, length - tensor.shape[2]))

    kv, start = {}, {}
    for kind in parts[0].kv:
        keys = max(p.kv[kind][0].shape[2] for p in parts)
        kv[kind] = (
            torch.cat([more_keys(p.kv[kind][0], keys) for p in parts]),
            torch.cat([more_keys(p.kv[kind][1], keys) for p in parts]),
        )
        start[kind] = torch.cat([p.key_start[kind] for p in parts])
    return Streams(
        torch.cat([longer(p.hidden, 2, most) for p in parts], 1),
        torch.cat([longer(p.per_layer, 1, most) for p in parts]),
        kv,
        start,
        torch.cat([longer(p.index, 1, most) for p in parts]),
        torch.cat([longer(p.position, 1, most) for p in parts]),
    )


def masks(streams: Streams, window: int) -> dict[str, Tensor]:
    """Who may look where: layer type -> bool `[B, 1, P, T]`, causal, and within `window` for sliding layers."""
    out = {}
    query = streams.index[:, None, :, None]
    for kind, (keys, _) in streams.kv.items():
        key = streams.key_start[kind][:, None, None, None] + torch.arange(keys.shape[2])
        seen = key <= query
        if kind == "sliding_attention":
            seen = seen & (key > query - window)
        out[kind] = seen
    return out
