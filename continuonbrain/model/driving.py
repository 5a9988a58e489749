"""A Gemma 3n that drives: transformers' own language model plus a small image connector.

The connector turns a 160x120 frame into 20 soft tokens that stand in the prompt where the `<image>` token is;
the last tokens of the prompt are *query* tokens, one for each number of the answer. One pass answers all of
them in parallel: no token is generated one after another.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from continuonbrain.model.decoder import Decoder, decoder_of, unwrapped
from continuonbrain.model.streams import Streams
from continuonbrain.model.suffix import capture, keep_same, run_suffix

IMAGE_TOKENS = 20


@dataclass(frozen=True, slots=True)
class ConnectorConfig:
    """Sizes of the image connector. channels: of the four stride-2 convolutions after the 2x2 unshuffle."""

    channels: tuple[int, int, int, int] = (24, 48, 64, 96)
    hidden_size: int = 128


class ImageConnector(nn.Module):
    """Frames uint8 `[B, 120, 160, 3]` -> soft tokens `[B, 20, H]`.

    A 2x2 space-to-depth keeps every pixel at a quarter of the first layer's cost; then four stride-2
    convolutions leave a 4 x 5 grid, projected to the language model's width.
    """

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        before = 12
        for i, channels in enumerate(config.channels):
            kernel = 5 if i == 0 else 3
            layers += [
                nn.Conv2d(before, channels, kernel, 2, kernel // 2),
                nn.GroupNorm(8, channels),
                nn.SiLU(),
            ]
            before = channels
        self.trunk = nn.Sequential(*layers)
        self.project = nn.Linear(before, config.hidden_size)
        self.position = nn.Parameter(torch.randn(IMAGE_TOKENS, config.hidden_size) * 0.02)
        self.norm = nn.LayerNorm(config.hidden_size)

    def features(self, frames: Tensor) -> Tensor:
        """The trunk's grid, flattened: `[B, 20, channels[-1]]`."""
        return grid_features(self.trunk, frames)

    def forward(self, frames: Tensor) -> Tensor:
        out: Tensor = self.norm(self.project(self.features(frames)) + self.position)
        return out


def grid_features(trunk: nn.Module, frames: Tensor) -> Tensor:
    """What a trunk makes of frames uint8 `[B, 120, 160, 3]`: its grid, flattened, `[B, 20, channels]`."""
    scaled = (frames.float().permute(0, 3, 1, 2) / 255 - 0.45) / 0.25
    grid: Tensor = trunk(scaled)
    return grid.flatten(2).transpose(1, 2)


class DrivingModel(nn.Module):
    """language_model: `Gemma3nForCausalLM`, or the same wrapped by PEFT while adapters are attached.

    image_token: id that the soft tokens replace (20 in a row); queries: number of query tokens that end the
    prompt. plus_one: the cut lies one layer lower, and that layer can be trained as well.
    """

    def __init__(
        self, language_model: Any, connector: ImageConnector, *, image_token: int, queries: int
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.connector = connector
        self.image_token = image_token
        self.queries = queries
        self.plus_one = False

    @property
    def causal_lm(self) -> Any:
        """The `Gemma3nForCausalLM` itself, whether or not PEFT wraps it."""
        return unwrapped(self.language_model)

    @property
    def decoder(self) -> Decoder:
        """The language model cut below its KV-shared layers."""
        return decoder_of(self.language_model, plus_one=self.plus_one)

    def encode(self, ids: Tensor, frames: Tensor) -> Streams:
        """The frozen part for prompts `[B, T]` int64 and frames `[B, 120, 160, 3]` uint8, kept at the queries."""
        return self.encode_soft(ids, self.connector(frames))

    def encode_soft(self, ids: Tensor, soft: Tensor) -> Streams:
        """`encode` for soft tokens `[B, 20, H]` that the connector has made already."""
        text = self.causal_lm.model
        embeds = text.embed_tokens(ids)
        start = int((ids[0] == self.image_token).nonzero()[0])
        embeds = torch.cat([embeds[:, :start], soft.to(embeds.dtype), embeds[:, start + IMAGE_TOKENS :]], 1)
        keep = torch.arange(ids.shape[1] - self.queries, ids.shape[1])
        # The per-layer inputs must be passed with inputs_embeds, or the library silently leaves them out.
        bottom = capture(
            self.decoder,
            lambda: text(
                inputs_embeds=embeds, per_layer_inputs=text.get_per_layer_inputs(ids), use_cache=False
            ),
        )
        return keep_same(bottom, keep)

    def decode(self, streams: Streams) -> Tensor:
        """The adapted part: soft-capped logits `[B, queries, vocabulary]`."""
        lm = self.causal_lm
        logits = F.linear(run_suffix(self.decoder, streams), lm.lm_head.weight)
        cap = float(lm.config.final_logit_softcapping)
        return torch.tanh(logits / cap) * cap

    def forward(self, ids: Tensor, frames: Tensor) -> Tensor:
        return self.decode(self.encode(ids, frames))


def tiny_text_config(vocabulary: int, *, shared_layers: int = 4) -> Gemma3nTextConfig:
    """The tiny base's shape: 8 layers, the last few (1 to 6) KV-shared, all of Gemma 3n's parts, no sparsity."""
    layers = 8
    if not 1 <= shared_layers <= layers - 2:
        raise ValueError(f"shared_layers is {shared_layers}; 1 to {layers - 2} of {layers} can be shared")
    kinds = ["full_attention" if (i + 1) % 4 == 0 else "sliding_attention" for i in range(layers)]
    if "full_attention" not in kinds[: layers - shared_layers]:
        kinds[layers - shared_layers - 1] = "full_attention"  # shared layers need one of each kind below them
    config = Gemma3nTextConfig(
        vocab_size=vocabulary,
        vocab_size_per_layer_input=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        num_kv_shared_layers=shared_layers,
        hidden_size_per_layer_input=16,
        laurel_rank=16,
        sliding_window=64,
        activation_sparsity_pattern=[0.0] * layers,
        layer_types=kinds,
        max_position_embeddings=1024,
    )
    config._attn_implementation = "sdpa"
    return config


def new_tiny_model(
    vocabulary: int, *, image_token: int, queries: int, shared_layers: int = 4
) -> DrivingModel:
    """A randomly initialised tiny driving model (seed torch first)."""
    config = tiny_text_config(vocabulary, shared_layers=shared_layers)
    connector = ImageConnector(ConnectorConfig(hidden_size=config.hidden_size))
    return DrivingModel(Gemma3nForCausalLM(config), connector, image_token=image_token, queries=queries)


def connector_json(model: DrivingModel) -> bytes:
    """The part of a base folder that transformers' config does not hold."""
    fields = {
        "connector": asdict(model.connector.config),
        "image_token": model.image_token,
        "queries": model.queries,
    }
    return (json.dumps(fields, indent=2) + "\n").encode()


def connector_from_json(path: Path) -> tuple[ConnectorConfig, int, int]:
    """Connector sizes, image token and number of queries of a base folder."""
    raw = json.loads(path.read_text())
    sizes = raw["connector"]
    channels = tuple(int(c) for c in sizes["channels"])
    if len(channels) != 4:
        raise ValueError(f"{path}: connector.channels has {len(channels)} entries; four are needed")
    return ConnectorConfig(channels, int(sizes["hidden_size"])), int(raw["image_token"]), int(raw["queries"])
