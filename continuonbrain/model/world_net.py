"""The world head as torch trains it. What it is for, its file and its inference are in `policy/world_head.py`;
tensors have the same names here and there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WorldNet(nn.Module):
    """Corrects a road grid that was moved to where the car will be, and reads a probability along the way.

    cells: of a grid; context: numbers beside the grids; hidden: of the correction; risk: (inputs, hidden); scale: of
    logits on their way in. The correction starts at nothing: a new net foresees what moving alone says.
    """

    def __init__(self, *, cells: int, context: int, hidden: int, risk: tuple[int, int], scale: float) -> None:
        super().__init__()
        self._scale = scale
        self.feature0 = nn.Linear(2 * cells + context, hidden)
        self.feature1 = nn.Linear(hidden, cells)
        nn.init.zeros_(self.feature1.weight)
        nn.init.zeros_(self.feature1.bias)
        self.risk0 = nn.Linear(*risk)
        self.risk1 = nn.Linear(risk[1], 1)

    def forward(self, seen: Tensor, moved: Tensor, context: Tensor) -> Tensor:
        """Grid logits `[B, rows, columns]` a second on, from bounded ones that were seen and moved."""
        inputs = torch.cat([self._scale * moved.flatten(1), self._scale * seen.flatten(1), context], 1)
        out: Tensor = moved + self.feature1(F.silu(self.feature0(inputs))).reshape(moved.shape)
        return out

    def risk(self, along: Tensor, along_later: Tensor, context: Tensor) -> Tensor:
        """Logits `[B]` from grid logits along the way in what was seen, and along its second half in what is
        foreseen."""
        inputs = torch.cat([self._scale * along, self._scale * along_later, context], 1)
        out: Tensor = self.risk1(F.silu(self.risk0(inputs)))[:, 0]
        return out


def world_bytes(net: WorldNet) -> bytes:
    """The head's file."""
    from safetensors.torch import save

    state: Mapping[str, Tensor] = net.state_dict()
    return save({k: v.detach().half().contiguous() for k, v in state.items()})
