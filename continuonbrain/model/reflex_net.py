"""The reflex head as torch trains it: the image connector's trunk, the model's intent, two layers, eight curvatures.

What it is for, its file and its inference are in `policy/reflex.py`; tensors have the same names here and there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from continuonbrain.model.driving import IMAGE_TOKENS, ConnectorConfig, ImageConnector, grid_features


class ReflexNet(nn.Module):
    """Frames uint8 `[B, 120, 160, 3]` and intents `[B, intent]` -> curvatures `[B, knots]` in 1/m.

    hidden: widths of the intent's layer and of the two behind it. trunk: of a base's image connector, to start from
    eyes that know roads (copied).
    """

    def __init__(
        self, *, intent: int, knots: int, hidden: tuple[int, int, int], trunk: nn.Module | None = None
    ) -> None:
        super().__init__()
        config = ConnectorConfig()
        self.trunk = ImageConnector(config).trunk
        if trunk is not None:
            self.trunk.load_state_dict(trunk.state_dict())
        wide, first, second = hidden
        self.intent = nn.Linear(intent, wide)
        self.first = nn.Linear(config.channels[-1] * IMAGE_TOKENS + wide, first)
        self.second = nn.Linear(first, second)
        self.answer = nn.Linear(second, knots)

    def forward(self, frames: Tensor, intents: Tensor) -> Tensor:
        seen = grid_features(self.trunk, frames).flatten(1)
        hidden = F.silu(self.first(torch.cat([seen, F.silu(self.intent(intents))], 1)))
        out: Tensor = self.answer(F.silu(self.second(hidden)))
        return out


def reflex_bytes(net: ReflexNet, probes: Tensor) -> bytes:
    """The head's file: fp16 weights, and the frames on which intents are asked for."""
    from safetensors.torch import save

    state = {name: value.detach().half().contiguous() for name, value in net.state_dict().items()}
    return save({**state, "probes": probes.contiguous()})


def load_weights(net: ReflexNet, tensors: Mapping[str, Tensor]) -> None:
    """Take the weights of a file that has been checked (`policy.reflex.Reflex`)."""
    net.load_state_dict({name: value.float() for name, value in tensors.items() if name != "probes"})
