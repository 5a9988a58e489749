"""What small convolution nets are made of, in numpy: the control process runs them and has no torch.

Images are `[B, H, W, C]` float32, channels last, as the products below read them.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]


def linear(x: F32, wide: dict[str, F32], name: str) -> F32:
    """`x [B, in]` through `name`'s weight `[out, in]` and bias `[out]`."""
    out: F32 = x @ wide[f"{name}.weight"].T + wide[f"{name}.bias"]
    return out


def silu(x: F32) -> F32:
    """x times its sigmoid."""
    out: F32 = x / (1 + np.exp(-x.clip(-60, 60)))
    return out


def convolve(x: F32, kernel: F32, size: int) -> F32:
    """Stride 2, padding size // 2; x `[B, H, W, C]`, kernel `[size * size * C, outputs]`."""
    edge = size // 2
    count, rows, across, channels = x.shape
    # By hand: `np.pad` costs a fifth of a convolution of one frame.
    padded = np.zeros((count, rows + 2 * edge, across + 2 * edge, channels), x.dtype)
    padded[:, edge : edge + rows, edge : edge + across] = x
    windows = sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::2, ::2]
    batch, height, width = windows.shape[:3]
    columns = windows.transpose(0, 1, 2, 4, 5, 3).reshape(batch * height * width, -1)
    return (columns @ kernel).reshape(batch, height, width, -1)


def group_norm(x: F32, weight: F32, bias: F32, *, groups: int) -> F32:
    """Group norm over channels, weight and bias `[C]`."""
    # By channel first and then by group: sums over neighbours in memory are several times as fast.
    batch, channels = len(x), x.shape[-1]
    flat = x.reshape(batch, -1, channels)
    by_group = (batch, groups, channels // groups)
    mean = flat.mean(1).reshape(by_group).mean(2)
    square = np.einsum("bpc,bpc->bc", flat, flat).reshape(by_group).mean(2) / flat.shape[1]
    spread = np.sqrt((square - mean**2).clip(0) + 1e-5)
    mean, spread = (np.repeat(v, channels // groups, 1)[:, None, None, :] for v in (mean, spread))
    out: F32 = (x - mean) * (weight / spread) + bias
    return out
