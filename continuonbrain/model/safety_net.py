"""The safety head as torch trains it. What it is for, its file and its inference are in `policy/safety_head.py`;
tensors have the same names here and there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SafetyNet(nn.Module):
    """Frames `[B, 3, 60, 80]`, already halved and scaled -> grid logits; grids and ways -> logits of leaving the road.

    channels, kernels: of the convolutions; groups: of their norms; seen: width of the last picture; hidden: behind it;
    grid: (rows, columns); risk: (inputs, hidden) of what reads the grid along a way.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        kernels: Sequence[int],
        groups: int,
        seen: int,
        hidden: int,
        grid: tuple[int, int],
        risk: tuple[int, int],
    ) -> None:
        super().__init__()
        self._layers = len(channels)
        inputs = 3
        for i, (outputs, size) in enumerate(zip(channels, kernels, strict=True)):
            setattr(self, f"conv{i}", nn.Conv2d(inputs, outputs, size, 2, size // 2))
            setattr(self, f"norm{i}", nn.GroupNorm(groups, outputs))
            inputs = outputs
        self._grid = grid
        self.seen = nn.Linear(seen, hidden)
        self.grid = nn.Linear(hidden, grid[0] * grid[1])
        self.risk0 = nn.Linear(*risk)
        self.risk1 = nn.Linear(risk[1], 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Grid logits `[B, rows, columns]`."""
        x = pictures
        for i in range(self._layers):
            x = F.silu(getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x)))
        # Channels last, as numpy has them.
        flat = x.permute(0, 2, 3, 1).flatten(1)
        out: Tensor = self.grid(F.silu(self.seen(flat)))
        return out.reshape(-1, *self._grid)

    def risk(self, along: Tensor, speeds: Tensor) -> Tensor:
        """Grid logits along ways `[B, points]` and speeds `[B]` in m/s -> logits `[B]`."""
        inputs = torch.cat([along, speeds[:, None]], 1)
        out: Tensor = self.risk1(F.silu(self.risk0(inputs)))[:, 0]
        return out


def safety_bytes(net: SafetyNet, *, half: bool = True) -> bytes:
    """The head's file."""
    from safetensors.torch import save

    state: Mapping[str, Tensor] = net.state_dict()
    return save(
        {k: (v.detach().half() if half else v.detach().float()).contiguous() for k, v in state.items()}
    )
