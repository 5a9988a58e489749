"""Cross-entropy over the whole vocabulary in one pass over the output projection.

A vocabulary of 262,144 words times 2,048 numbers is half of what a training process holds. Loss and gradient for
the hidden states need every row of it once: the rows pass in chunks, and what is kept is a sum and a weighted mean
for every position. With a modest soft cap c no logit is above c, so the sum needs no running maximum; without
one a running maximum is kept (online softmax; Milakov & Gimelshein 2018, arXiv:1805.02867).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from continuonbrain.model.packed_weight import PackedWeight

IGNORED = -100
"""Label of a position that is not supervised, as in transformers."""
_SAFE_CAP = 60.0
"""exp of it, times any vocabulary, is far below fp32's largest number."""
_CACHED_ROWS, _PACKED_ROWS = 2048, 8192


class RowSource(Protocol):
    """A weight matrix `[vocabulary, H]` that can be read in pieces, whatever it is stored as."""

    @property
    def shape(self) -> tuple[int, int]:
        """(vocabulary, H)."""

    @property
    def chunk(self) -> int:
        """How many rows are best read at once."""

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Rows `[stop - start, H]` to calculate with, good until the next call, and what each is still to be
        multiplied with (`[stop - start]`, None for nothing)."""

    def packed(self, start: int, stop: int, dtype: torch.dtype) -> PackedWeight | None:
        """The same rows packed, if they are kept so; instead of `rows`."""

    def at(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows at `index` (int64 `[n]`)."""


class PlainRows:
    """A `RowSource` over an ordinary tensor. packed: keep the rows packed as well, for speed."""

    def __init__(self, weight: Tensor, *, packed: bool = False) -> None:
        self._weight = weight.detach()
        # Packed rows are read twice, wherever they lie; others should still be in a cache the second time.
        self.chunk = _PACKED_ROWS if packed else _CACHED_ROWS
        self._packed = [PackedWeight(block) for block in self._weight.split(self.chunk)] if packed else []
        self.shape = (weight.shape[0], weight.shape[1])

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor, None]:
        return self._weight[start:stop].to(dtype), None

    def packed(self, start: int, stop: int, dtype: torch.dtype) -> PackedWeight | None:
        number, rest = divmod(start, self.chunk)
        whole = not rest and stop == min(start + self.chunk, self.shape[0])
        return self._packed[number] if self._packed and whole and dtype == self._weight.dtype else None

    def at(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return self._weight[index].to(dtype)


class _OnePass(torch.autograd.Function):
    """Loss and dLoss/dhidden together; the projection itself is frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: RowSource,
        labels: Tensor,
        cap: float | None,
        chunk: int,
        before_chunk: Callable[[], None],
    ) -> Tensor:
        count, wide = hidden.shape[0], torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros(count, dtype=wide)
        pull = torch.zeros(count, hidden.shape[1], dtype=wide)
        right = torch.empty(count, dtype=wide)
        # Under a modest cap no logit can overflow the sum; else the highest so far is taken off.
        safe = cap is not None and cap <= _SAFE_CAP
        highest = torch.full((count,), 0.0 if safe else -torch.inf, dtype=wide)
        for start in range(0, head.shape[0], chunk):
            before_chunk()
            stop = min(start + chunk, head.shape[0])
            packed = head.packed(start, stop, hidden.dtype)
            scale = None
            if packed is not None:
                logits = packed.ahead(hidden).to(wide).T
            else:
                rows, scale = head.rows(start, stop, hidden.dtype)
                # The large matrix on the left: for few positions oneDNN need not repack it (see frozen_linear.py).
                logits = (rows @ hidden.T).to(wide)
            if scale is not None:
                logits *= scale[:, None]
            squashed = None
            if cap is not None:
                squashed = logits.div_(cap).tanh_()
                logits = squashed * cap
            # The label's own logit as it is in the sum, roundings and all: the loss is never negative.
            here = ((labels >= start) & (labels < stop)).nonzero().flatten()
            right[here] = logits[labels[here] - start, here]
            if not safe:
                higher = torch.maximum(highest, logits.max(0).values)
                fading = torch.exp(highest - higher)
                total *= fading
                pull *= fading[:, None]
                highest = higher
                logits = logits - higher
            slope = logits.exp_()
            total += slope.sum(0)
            if squashed is not None:
                slope.addcmul_(slope * squashed, squashed, value=-1)
            if scale is not None:
                slope *= scale[:, None]
            towards = slope.to(hidden.dtype).T
            pull += (towards @ rows if packed is None else packed.back(towards)).to(wide)
        loss = (torch.log(total) + highest - right).mean()
        bent = 1.0 if cap is None else (1 - (right / cap) ** 2)[:, None]
        gradient = pull / total[:, None] - bent * head.at(labels, wide)
        ctx.save_for_backward((gradient / count).to(hidden.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None, None, None


def head_loss(
    hidden: Tensor,
    labels: Tensor,
    head: RowSource,
    *,
    soft_cap: float | None,
    chunk: int | None = None,
    before_chunk: Callable[[], None] = lambda: None,
) -> Tensor:
    """Mean cross-entropy of the supervised positions, a scalar.

    hidden `[B, P, H]` from `run_suffix`; labels int64 `[B, P]`, `IGNORED` where there is none; soft_cap bounds the
    logits as `soft_cap * tanh(logit / soft_cap)`; chunk: rows of the projection at a time, before each of
    which `before_chunk` is called. Sums are kept in fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: no position is supervised.
    """
    wanted = labels != IGNORED
    if not bool(wanted.any()):
        raise ValueError("no position is supervised")
    loss: Tensor = _OnePass.apply(  # type: ignore[no-untyped-call]
        hidden[wanted], head, labels[wanted], soft_cap, chunk or head.chunk, before_chunk
    )
    return loss
