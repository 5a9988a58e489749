"""A base model on disk: a Hugging Face folder plus the connector; and its identity.

    config.json  model.safetensors     transformers' Gemma 3n (`gemma3n_text`)
    connector.json  connector.safetensors   the image connector and the special token ids
    tokenizer.json  card.json          the text side; how the base was made and what it scores

Its identity is in `base_identity.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from continuonbrain.model.base_identity import BaseModelError, base_sha256


def load_base(folder: Path) -> Any:
    """The `DrivingModel` in `folder`: fp32, frozen, in eval mode. `BaseModelError` when it cannot be loaded."""
    from safetensors.torch import load_file
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    from continuonbrain.model.driving import DrivingModel, ImageConnector, connector_from_json

    base_sha256(folder)  # names a missing file before transformers goes looking for it on a hub
    try:
        sizes, image_token, queries = connector_from_json(folder / "connector.json")
        config = Gemma3nTextConfig.from_pretrained(folder, local_files_only=True)
        config._attn_implementation = "sdpa"
        language_model = Gemma3nForCausalLM(config)
        weights = load_file(folder / "model.safetensors")
        missing, unexpected = language_model.load_state_dict(
            {k: v.float() for k, v in weights.items()}, strict=False
        )
        if set(missing) - {"lm_head.weight"} or unexpected:
            raise ValueError(f"missing {sorted(missing)[:3]}, unexpected {sorted(unexpected)[:3]}")
        language_model.tie_weights()
        connector = ImageConnector(sizes)
        connector.load_state_dict(
            {k: v.float() for k, v in load_file(folder / "connector.safetensors").items()}
        )
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise BaseModelError(
            f"base model in {folder} cannot be loaded: {error}", remedy="copy the base again, or rebuild it"
        ) from error
    except Exception as error:  # safetensors raises a class of its own for a damaged header
        if type(error).__name__ != "SafetensorError":
            raise
        raise BaseModelError(
            f"base model in {folder} is damaged: {error}", remedy="copy the base again"
        ) from error
    model = DrivingModel(language_model, connector, image_token=image_token, queries=queries)
    model.requires_grad_(False)
    model.eval()
    return model


def save_base(model: Any, tokenizer_json: str, card: dict[str, Any], folder: Path) -> None:
    """Write `model` as a base folder with fp16 weights."""
    import torch
    from safetensors.torch import save_file

    from continuonbrain.model.driving import connector_json

    folder.mkdir(parents=True, exist_ok=True)
    lm = model.causal_lm
    # lm_head is the embedding (tied): transformers' own layout stores it once.
    state = {
        k: v.detach().to(torch.float16).contiguous()
        for k, v in lm.state_dict().items()
        if k != "lm_head.weight"
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    connector = {
        k: v.detach().to(torch.float16).contiguous() for k, v in model.connector.state_dict().items()
    }
    save_file(connector, folder / "connector.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(lm.config.to_json_string())
    (folder / "connector.json").write_bytes(connector_json(model))
    (folder / "tokenizer.json").write_text(tokenizer_json)
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
