"""A base model on disk: a Hugging Face folder plus the connector; and its identity.

    config.json  model.safetensors     transformers' Gemma 3n (`gemma3n_text`)
    connector.json  connector.safetensors   the image connector and the special token ids
    tokenizer.json  card.json          the text side; how the base was made and what it scores

The identity of a base is the sha256 over the bytes of the files that decide its behaviour. An adapter names
the base that it was trained on and is refused on any other.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from continuonbrain.errors import BrainError

BEHAVIOUR_FILES = ("config.json", "connector.json", "connector.safetensors", "model.safetensors", "tokenizer.json")


class BaseModelError(BrainError):
    """A base model folder is missing, incomplete or damaged."""


def tiny_base_folder() -> Path:
    """The tiny base that ships inside the package."""
    return Path(str(resources.files("continuonbrain.model") / "tiny_base"))


def base_sha256(folder: Path) -> str:
    """Identity of the base in `folder`. `BaseModelError` names a missing file."""
    digest = hashlib.sha256()
    for name in BEHAVIOUR_FILES:
        path = folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BaseModelError(
                f"base model file {path} cannot be read: {error.strerror or error}",
                remedy="set base_model_path in config.json to a base folder, or 'tiny' for the shipped one",
            ) from error
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def load_base(folder: Path) -> Any:
    """The `DrivingModel` in `folder`: fp32, frozen, in eval mode. `BaseModelError` when it cannot be loaded."""
    import torch
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
        missing, unexpected = language_model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
        if set(missing) - {"lm_head.weight"} or unexpected:
            raise ValueError(f"missing {sorted(missing)[:3]}, unexpected {sorted(unexpected)[:3]}")
        language_model.tie_weights()
        connector = ImageConnector(sizes)
        connector.load_state_dict({k: v.float() for k, v in load_file(folder / "connector.safetensors").items()})
    except (ValueError, KeyError, OSError, RuntimeError, json.JSONDecodeError) as error:
        raise BaseModelError(
            f"base model in {folder} cannot be loaded: {error}", remedy="copy the base again, or rebuild it"
        ) from error
    except Exception as error:  # safetensors raises a class of its own for a damaged header
        if type(error).__name__ != "SafetensorError":
            raise
        raise BaseModelError(f"base model in {folder} is damaged: {error}", remedy="copy the base again") from error
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
    state = {k: v.detach().to(torch.float16).contiguous() for k, v in lm.state_dict().items() if k != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    connector = {k: v.detach().to(torch.float16).contiguous() for k, v in model.connector.state_dict().items()}
    save_file(connector, folder / "connector.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(lm.config.to_json_string())
    (folder / "connector.json").write_bytes(connector_json(model))
    (folder / "tokenizer.json").write_text(tokenizer_json)
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
