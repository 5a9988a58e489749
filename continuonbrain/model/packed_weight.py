"""A frozen weight in the layout in which oneDNN multiplies it, and its transpose in the same.

A product with few rows is bound by reading the weight, and oneDNN reads an ordinary row-major one badly: it repacks
it in every call, or leaves half of the memory's speed unused. Packed once, both directions run as fast as memory
or arithmetic allow (`python -m benchmarks.lora_step` prints how near that is). Costs two copies of the weight.

The operators are those that torch's own compiler emits for CPUs (torch 2.13, torch/_inductor/mkldnn_lowerings.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_EXPECTED_ROWS = 32
"""A hint for the layout; other numbers of rows are exact too."""
_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU have packed products of a type."""
    operators: Any = torch.ops.mkldnn
    return (
        dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and all(hasattr(operators, name) for name in _OPERATORS)
        and bool(operators._is_mkldnn_bf16_supported())
    )


class PackedWeight:
    """A weight bf16 `[out, in]`. It has no gradient.

    Raises:
        ValueError: it cannot be packed here (`can_pack`).
    """

    def __init__(self, weight: Tensor) -> None:
        if not can_pack(weight.dtype):
            raise ValueError(f"this machine packs no weights of {weight.dtype}")
        weight = weight.detach()
        self._ahead = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _EXPECTED_ROWS)
        self._back = torch.ops.mkldnn._reorder_linear_weight(weight.T.contiguous(), _EXPECTED_ROWS)

    def ahead(self, x: Tensor) -> Tensor:
        """x `[n, in]` -> `x @ weight.T`, `[n, out]`."""
        return _product(x, self._ahead)

    def back(self, gradient: Tensor) -> Tensor:
        """gradient `[n, out]` -> `gradient @ weight`, `[n, in]`."""
        return _product(gradient, self._back)


def _product(x: Tensor, packed: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, None, "none", [], "")
    return out
