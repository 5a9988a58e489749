"""Cross-entropy over the whole vocabulary in one pass over the output projection.

A vocabulary of 262,144 words times 2,048 numbers is half of what a training process holds. Loss and gradient for
the hidden states need every row of it once: the rows pass in chunks, and what is kept is a sum and a weighted mean
for every position. With a soft cap c every logit is at most c, so exp(logit - c) needs no running maximum; without
one a running maximum is kept (online softmax; Milakov & Gimelshein 2018, arXiv:1805.02867).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

IGNORED = -100
"""Label of a position that is not supervised, as in transformers."""
_CHUNK = 8192


class RowSource(Protocol):
    """A weight matrix `[vocabulary, H]` that can be read in pieces, whatever it is stored as."""

    @property
    def shape(self) -> tuple[int, int]:
        """(vocabulary, H)."""

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Rows `[stop - start, H]` to calculate with."""

    def at(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows at `index` (int64 `[n]`)."""


class PlainRows:
    """A `RowSource` over an ordinary tensor."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.detach()
        self.shape = (weight.shape[0], weight.shape[1])

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        return self._weight[start:stop].to(dtype)

    def at(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return self._weight[index].to(dtype)


class _OnePass(torch.autograd.Function):
    """Loss and dLoss/dhidden together; the projection itself is frozen."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: RowSource, labels: Tensor, cap: float | None, chunk: int
    ) -> Tensor:
        count, wide = hidden.shape[0], torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros(count, dtype=wide)
        pull = torch.zeros(count, hidden.shape[1], dtype=wide)
        highest = torch.full((count,), -torch.inf, dtype=wide)
        for start in range(0, head.shape[0], chunk):
            rows = head.rows(start, min(start + chunk, head.shape[0]), hidden.dtype)
            logits = (hidden @ rows.T).to(wide)
            if cap is not None:
                squashed = logits.div_(cap).tanh_()
                weight = torch.exp(cap * (squashed - 1))
                total += weight.sum(-1)
                slope = weight.mul_(1 - squashed * squashed)
            else:
                higher = torch.maximum(highest, logits.max(-1).values)
                scale = torch.exp(highest - higher)
                slope = torch.exp(logits - higher[:, None])
                total = total * scale + slope.sum(-1)
                pull *= scale[:, None]
                highest = higher
            pull += (slope.to(rows.dtype) @ rows).to(wide)
        right = head.at(labels, wide)
        logit = (hidden.to(wide) * right).sum(-1)
        if cap is None:
            loss = (torch.log(total) + highest - logit).mean()
            gradient = pull / total[:, None] - right
        else:
            squashed = torch.tanh(logit / cap)
            loss = (torch.log(total) + cap - cap * squashed).mean()
            gradient = pull / total[:, None] - (1 - squashed * squashed)[:, None] * right
        ctx.save_for_backward((gradient / count).to(hidden.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None, None


def head_loss(
    hidden: Tensor, labels: Tensor, head: RowSource, *, soft_cap: float | None, chunk: int = _CHUNK
) -> Tensor:
    """Mean cross-entropy of the supervised positions, a scalar.

    hidden `[B, P, H]` from `run_suffix`; labels int64 `[B, P]`, `IGNORED` where there is none; soft_cap bounds the
    logits as `soft_cap * tanh(logit / soft_cap)`. Sums are kept in fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: no position is supervised.
    """
    wanted = labels != IGNORED
    if not bool(wanted.any()):
        raise ValueError("no position is supervised")
    loss: Tensor = _OnePass.apply(hidden[wanted], head, labels[wanted], soft_cap, chunk)  # type: ignore[no-untyped-call]
    return loss
