"""A multimodal checkpoint's eyes: frames to soft tokens, once a frame, before anything else is loaded.

The tower and its projection are transformers' own modules, at transformers' own places (`model.vision_tower`,
`model.embed_vision`). Gemma 3n's tower is a MobileNetV5 of timm, which is asked for by name when it is missing.
Prompts have `vision_soft_tokens_per_image` placeholder tokens for every frame; `embed` puts the soft tokens there,
as `Gemma3nModel.forward` (transformers 5.23) does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from continuonbrain.errors import installing
from continuonbrain.model.checkpoint import Checkpoint, CheckpointError

_GEMMA = "gemma3n_vision"
FRAME_PX = 256
"""Side of what the tower sees, unless a caller says otherwise: the smallest of Gemma 3n's three (256, 512, 768; its
model card). A robot's frame is smaller still."""


def pixels(frames: Sequence[NDArray[np.uint8]], side: int = FRAME_PX) -> Tensor:
    """Frames uint8 `[H, W, 3]` of any size as fp32 `[n, 3, side, side]` in [0, 1]: resized, not normalised, as Gemma
    3n's image processor does."""
    resized = [
        np.asarray(Image.fromarray(f).resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
        for f in frames
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


class Vision(nn.Module):
    """The tower and its projection. tokens: soft tokens a frame; placeholder: the token id that they replace; hard:
    ids that the projection embeds by a table of its own (the end of an image is one of them)."""

    def __init__(self, tower: Any, embedder: Any, config: Any) -> None:
        super().__init__()
        self.vision_tower, self.embed_vision = tower, embedder
        self.tokens = int(config.vision_soft_tokens_per_image)
        self.placeholder = int(config.image_token_id)
        self.hard = range(int(config.vision_config.vocab_offset), int(config.audio_config.vocab_offset))
        self._width = int(config.vision_config.hidden_size)

    def soft_tokens(self, images: Tensor) -> Tensor:
        """Images `[n, 3, side, side]` -> `[n, tokens, H]`.

        Raises:
            CheckpointError: the tower gives another number of features than the configuration says.
        """
        dtype = next(self.vision_tower.parameters()).dtype
        with torch.no_grad():
            seen = self.vision_tower(pixel_values=images.to(dtype), do_pooling=False, return_dict=True)
            features = seen.last_hidden_state
            if features[0].numel() != self.tokens * self._width:
                raise CheckpointError(
                    f"the vision tower makes {tuple(features.shape[1:])} of an image of {tuple(images.shape[1:])}; "
                    f"config.json asks for {self.tokens} tokens of {self._width}",
                    remedy="use the frame size of the checkpoint's image processor",
                )
            flat = features.reshape(len(images), self._width, self.tokens).permute(0, 2, 1)
            out: Tensor = self.embed_vision(inputs_embeds=flat * self._width**0.5)
        return out

    def hard_tokens(self, ids: Sequence[int]) -> dict[int, Tensor]:
        """Embeddings `[H]` of those of the ids that are in `hard`."""
        wanted = sorted({i for i in ids if i in self.hard})
        if not wanted:
            return {}
        with torch.no_grad():
            found: Tensor = self.embed_vision(input_ids=torch.tensor(wanted))
        return dict(zip(wanted, found, strict=True))


def embed(
    text: Any, ids: Tensor, soft: Tensor, *, placeholder: int, hard: Mapping[int, Tensor]
) -> dict[str, Tensor]:
    """What the text model is called with for one prompt `[1, T]` whose frames have the soft tokens `[n, H]`.

    hard: see `Vision.hard_tokens`.

    Raises:
        ValueError: the prompt has another number of placeholders.
    """
    where = ids == placeholder
    if int(where.sum()) != len(soft):
        raise ValueError(f"the prompt has {int(where.sum())} image tokens, its frames make {len(soft)}")
    # Those beyond the text's own table are replaced below.
    embeds = text.embed_tokens(ids.clamp(max=int(text.embed_tokens.weight.shape[0]) - 1))
    for number, row in hard.items():
        embeds = torch.where((ids == number)[..., None], row.to(embeds.dtype), embeds)
    embeds = embeds.masked_scatter(where[..., None], soft.to(embeds.dtype))
    return {"inputs_embeds": embeds, "per_layer_inputs": text.get_per_layer_inputs(ids)}


def load_vision(checkpoint: Checkpoint, compute: torch.dtype) -> Vision:
    """The tower and its projection, nothing else.

    Raises:
        CheckpointError: the checkpoint sees nothing, lacks tensors, or its tower needs a library that is missing.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModel
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nMultimodalEmbedder

    where = checkpoint.folder / "config.json"
    if "vision_config" not in checkpoint.raw_config or checkpoint.raw_config.get("model_type") != "gemma3n":
        raise CheckpointError(
            f"{where} describes no vision tower of Gemma 3n",
            remedy="use a multimodal Gemma 3n checkpoint, or samples without frames",
        )
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True)
        own = dict(checkpoint.raw_config["vision_config"])
        # Gemma 3n's configuration would make its own tower of any.
        if own.get("model_type", _GEMMA) != _GEMMA:
            config.vision_config = AutoConfig.for_model(**own)
        with init_empty_weights(include_buffers=False):
            tower = AutoModel.from_config(config.vision_config)
            embedder = Gemma3nMultimodalEmbedder(config.vision_config, config.text_config)
    except ImportError as error:
        raise CheckpointError(
            f"the vision tower of {checkpoint.folder} needs a library: {error}",
            remedy=f"{installing('frames')}, from the index that torch came from",
        ) from error
    except Exception as error:  # whatever a value that makes no model raises
        raise CheckpointError(
            f"{where} describes no model: {error!r}", remedy="use the config.json that came with the weights"
        ) from error
    prefix = checkpoint.prefix.removesuffix("language_model.")
    for part, name in ((tower, "vision_tower"), (embedder, "embed_vision")):
        _fill(checkpoint, part, f"{prefix}{name}.", compute)
    return Vision(tower, embedder, config).eval()


def _fill(checkpoint: Checkpoint, part: nn.Module, prefix: str, compute: torch.dtype) -> None:
    loaded = {}
    for name, wanted in part.state_dict().items():
        stored = f"{prefix}{name}"
        if stored not in checkpoint:
            if wanted.device.type != "meta":  # a buffer that its module computes for itself
                continue
            raise CheckpointError(
                f"{checkpoint.folder} lacks the tensor {stored}", remedy="copy it again, whole"
            )
        value = checkpoint.numbers(stored) if wanted.is_floating_point() else checkpoint.tensor(stored)
        if value.shape != wanted.shape:
            raise CheckpointError(
                f"{checkpoint.folder}: {stored} is {tuple(value.shape)}, config.json asks for {tuple(wanted.shape)}",
                remedy="use the config.json that came with the weights",
            )
        loaded[name] = value.to(compute) if wanted.is_floating_point() else value
    part.load_state_dict(loaded, strict=False, assign=True)
    part.requires_grad_(False)
