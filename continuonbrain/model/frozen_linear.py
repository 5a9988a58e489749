"""Frozen projections that take little memory: bf16 as they are stored, or int8 with a scale for every row.

A trained adapter's gradient passes through these layers and never into them. torch would keep a dequantised copy
for the backward pass; `FrozenLinear` keeps nothing and dequantises again, a tile of rows at a time, into a buffer
that fits a core's cache. Cores without bf16 arithmetic (a Raspberry Pi 5's Cortex-A76) compute in fp32.

int8: weight[r, c] ~ scale[r] * q[r, c] with scale[r] = max |weight[r]| / 127 (symmetric, per output row).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_TILE = 512
"""Rows dequantised at a time: at 2,048 columns 2 MiB in bf16."""


def quantised_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`(q int8 [out, in], scale fp32 [out])` of a floating-point weight `[out, in]`.

    Raises:
        ValueError: a number is not finite.
    """
    wide = weight.to(torch.float32)
    largest = wide.abs().amax(1)
    if not bool(torch.isfinite(largest).all()):
        raise ValueError("a weight is not finite")
    scale = largest.clamp(min=1e-12) / 127.0
    return (wide / scale[:, None]).round_().to(torch.int8), scale


class _TiledLinear(torch.autograd.Function):
    """x `[n, in]` -> `[n, out]`; the gradient goes to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        out = x.new_empty(x.shape[0], weight.shape[0])
        for start in range(0, weight.shape[0], _TILE):
            rows = slice(start, start + _TILE)
            out[:, rows] = x @ weight[rows].to(x.dtype).T
        if scale is not None:
            out *= scale.to(out.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        grad = grads[0] if scale is None else grads[0] * scale.to(grads[0].dtype)
        out = grad.new_zeros(grad.shape[0], weight.shape[1])
        for start in range(0, weight.shape[0], _TILE):
            rows = slice(start, start + _TILE)
            out.addmm_(grad[:, rows], weight[rows].to(grad.dtype))
        return out, None, None


class FrozenLinear(nn.Linear):
    """A linear layer without bias whose weight is never trained.

    weight `[out, in]`: floating point, or int8 with `scale` fp32 `[out]`. Inputs and outputs have the type of the
    input. It is an `nn.Linear`, so that PEFT puts LoRA around it.
    """

    def __init__(self, weight: Tensor, scale: Tensor | None = None) -> None:
        nn.Module.__init__(self)
        if (scale is None) == (weight.dtype == torch.int8):
            raise ValueError(f"a weight of {weight.dtype} and {'no scale' if scale is None else 'a scale'}")
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_parameter("bias", None)

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.dtype == input.dtype:
            return F.linear(input, self.weight)
        flat = input.reshape(-1, self.in_features)
        out: Tensor = _TiledLinear.apply(flat, self.weight, self.scale)  # type: ignore[no-untyped-call]
        return out.view(*input.shape[:-1], self.out_features)


class QuantisedRows:
    """The output projection as int8 rows, for `head_loss`."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self._weight, self._scale = weight, scale
        self.shape = (weight.shape[0], weight.shape[1])

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        return self._weight[start:stop].to(dtype) * self._scale[start:stop, None].to(dtype)

    def at(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return self._weight[index].to(dtype) * self._scale[index, None].to(dtype)
