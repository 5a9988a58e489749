"""Frozen projections that take little memory: bf16 as they are stored, or int8 with a scale for every row.

A trained adapter's gradient passes through these layers and never into them. torch would keep a dequantised copy
for the backward pass; `FrozenLinear` keeps nothing and dequantises again, a tile of rows at a time, into a buffer
that fits a core's cache. Cores without bf16 arithmetic (a Raspberry Pi 5's Cortex-A76) compute in fp32.

A training step has few rows (supervised positions) and large weights: it is bound by reading them. Where there is
memory for two more copies, they are kept as oneDNN reads them best (`packed_weight.py`). Without, for few rows
`weight @ x.T` is a third faster than `x @ weight.T`, for which oneDNN repacks the whole weight.

int8: weight[r, c] ~ scale[r] * q[r, c] with scale[r] = max |weight[r]| / 127 (symmetric, per output row).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from continuonbrain.model.packed_weight import PackedWeight

_TILE_NUMBERS = 1 << 22
"""Numbers dequantised at a time: 8 MiB in bf16. Smaller tiles pay more for starting threads than caches give back."""
_FEW_ROWS = 128
"""Rows of x up to which the weight is the left factor."""


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


class _SkinnyLinear(torch.autograd.Function):
    """x `[n, in]` -> `[n, out]` for small n; the gradient goes to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return (weight @ x.T).T.contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return grads[0] @ weight, None


class _PackedLinear(torch.autograd.Function):
    """x `[n, in]` -> `[n, out]`; the gradient goes to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: PackedWeight) -> Tensor:
        ctx.packed = packed
        return packed.ahead(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.packed.back(grads[0]), None


class _Scratch(threading.local):
    """One buffer a thread, for the tile at hand. A new one for every product would scatter the heap: glibc keeps freed
    blocks of this size, and a training process grows by a fifth."""

    def __init__(self) -> None:
        self._numbers = torch.empty(0)

    def take(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """`[rows, columns]`, good until the next call."""
        if self._numbers.dtype != dtype or self._numbers.numel() < rows * columns:
            # One that was made while deciding could not be written to while training.
            with torch.inference_mode(False):
                self._numbers = torch.empty(max(rows * columns, _TILE_NUMBERS), dtype=dtype)
        return self._numbers[: rows * columns].view(rows, columns)


_SCRATCH = _Scratch()


def _tiles(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Rows of an int8 weight as numbers of another type, without their scale: (which rows, the numbers). A tile is
    good until the next one."""
    height = max(1, _TILE_NUMBERS // weight.shape[1])
    for start in range(0, weight.shape[0], height):
        rows = slice(start, min(start + height, weight.shape[0]))
        buffer = _SCRATCH.take(rows.stop - start, weight.shape[1], dtype)
        yield rows, buffer.copy_(weight[rows])


class _TiledLinear(torch.autograd.Function):
    """x `[n, in]` -> `[n, out]`; the gradient goes to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        out = x.new_empty(weight.shape[0], x.shape[0])
        for rows, numbers in _tiles(weight, x.dtype):
            torch.mm(numbers, x.T, out=out[rows])
        if scale is not None:
            out *= scale.to(out.dtype)[:, None]
        return out.T.contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        grad = grads[0] if scale is None else grads[0] * scale.to(grads[0].dtype)
        out = grad.new_zeros(grad.shape[0], weight.shape[1])
        for rows, numbers in _tiles(weight, grad.dtype):
            out.addmm_(grad[:, rows], numbers)
        return out, None, None


class FrozenLinear(nn.Linear):
    """A linear layer without bias whose weight is never trained.

    weight `[out, in]`: floating point, or int8 with `scale` fp32 `[out]`; packed: the same floating-point weight, for
    speed. Inputs and outputs have the type of the input. It is an `nn.Linear`, so that PEFT puts LoRA around it.
    """

    def __init__(
        self, weight: Tensor, scale: Tensor | None = None, *, packed: PackedWeight | None = None
    ) -> None:
        nn.Module.__init__(self)
        if (scale is None) == (weight.dtype == torch.int8):
            raise ValueError(f"a weight of {weight.dtype} and {'no scale' if scale is None else 'a scale'}")
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)
        self.packed = packed
        self.register_parameter("bias", None)

    def forward(self, input: Tensor) -> Tensor:
        flat = input.reshape(-1, self.in_features)
        out: Tensor
        if self.weight.dtype != input.dtype:
            out = _TiledLinear.apply(flat, self.weight, self.scale)  # type: ignore[no-untyped-call]
        elif self.packed is not None:
            out = _PackedLinear.apply(flat, self.packed)  # type: ignore[no-untyped-call]
        elif len(flat) <= _FEW_ROWS:
            out = _SkinnyLinear.apply(flat, self.weight)  # type: ignore[no-untyped-call]
        else:
            return F.linear(input, self.weight)
        return out.view(*input.shape[:-1], self.out_features)


class QuantisedRows:
    """The output projection as int8 rows, for `head_loss`."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self._weight, self._scale = weight, scale
        self.shape = (weight.shape[0], weight.shape[1])
        self.chunk = max(1, _TILE_NUMBERS // weight.shape[1])

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        buffer = _SCRATCH.take(stop - start, self.shape[1], dtype)
        return buffer.copy_(self._weight[start:stop]), self._scale[start:stop]

    def packed(self, start: int, stop: int, dtype: torch.dtype) -> None:
        return None

    def at(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return self._weight[index].to(dtype) * self._scale[index, None].to(dtype)
