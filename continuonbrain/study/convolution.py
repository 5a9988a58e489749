"""A plain convolution policy: what a language model has to beat to earn its place.

The same camera trunk as the tiny base's image connector, the instruction as a mean of word embeddings, the speed as a
token, then two hidden layers to the same action tokens. It understands no sentence that it was not taught.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from continuonbrain.model.driving import IMAGE_TOKENS, ConnectorConfig, ImageConnector
from continuonbrain.policy.prompt import TEXT_SLOTS, PromptLayout

_WORD = 32
_HIDDEN = 256


class ConvolutionPolicy(nn.Module):
    """Prompts `[B, T]` int64 and frames uint8 `[B, 120, 160, 3]` -> logits `[B, queries, vocabulary]`."""

    def __init__(self, layout: PromptLayout, *, queries: int) -> None:
        super().__init__()
        self._pad, self._queries, self._vocabulary = layout.pad, queries, layout.vocabulary
        self.eye = ImageConnector(ConnectorConfig())
        self.words = nn.Embedding(layout.vocabulary, _WORD)
        features = self.eye.config.channels[-1] * IMAGE_TOKENS
        self.body = nn.Sequential(
            nn.Linear(features + 2 * _WORD, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU()
        )
        self.answers = nn.Linear(_HIDDEN, queries * layout.vocabulary)

    def forward(self, ids: Tensor, frames: Tensor) -> Tensor:
        text, state = ids[:, 1 : 1 + TEXT_SLOTS], ids[:, 1 + TEXT_SLOTS]
        spoken = (text != self._pad).float().unsqueeze(-1)
        sentence = (self.words(text) * spoken).sum(1) / spoken.sum(1).clamp(min=1.0)
        seen = self.eye.features(frames).flatten(1)
        hidden = self.body(torch.cat([seen, sentence, self.words(state)], 1))
        out: Tensor = self.answers(hidden).unflatten(1, (self._queries, self._vocabulary))
        return out
