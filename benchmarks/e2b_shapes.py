"""Random models in the shapes of Gemma 3n E2B, for benchmarks: no trained weights are needed to measure time.

    python -m benchmarks.e2b_shapes FOLDER [--layers N] [--vision]   writes a synthetic checkpoint, the real key names

The checkpoint is the multimodal layout (`model.language_model.*`, tied head, sharded safetensors) with bf16 random
numbers. --vision adds the vision tower and its projection (MobileNetV5: needs the extra [frames]); the audio tower
is left out. E2B needs 9.9 GB of disk.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import save_file
from transformers import Gemma3nConfig, Gemma3nForCausalLM, Gemma3nTextConfig

SHAPES: dict[str, dict[str, Any]] = {
    "e2b": {
        "vocab_size": 262_400,
        "vocab_size_per_layer_input": 262_144,
        "hidden_size": 2048,
        "hidden_size_per_layer_input": 256,
        "intermediate_size": 8192,
        "num_hidden_layers": 30,
        "num_kv_shared_layers": 10,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "laurel_rank": 64,
        "sliding_window": 512,
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20,
    },
    "small": {
        "vocab_size": 4096,
        "vocab_size_per_layer_input": 4096,
        "hidden_size": 256,
        "hidden_size_per_layer_input": 32,
        "intermediate_size": 1024,
        "num_hidden_layers": 15,
        "num_kv_shared_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "laurel_rank": 16,
        "sliding_window": 64,
        "activation_sparsity_pattern": [0.95] * 5 + [0.0] * 10,
    },
}
"""Text configurations. e2b: as google/gemma-3n-E2B-it has them (its config.json); small: the same parts, for tests."""
_SHARD_LAYERS = 4


def text_config(shapes: str, **changes: Any) -> Gemma3nTextConfig:
    """The configuration of a named shape."""
    settings = SHAPES[shapes] | changes
    layers = settings["num_hidden_layers"]
    settings["layer_types"] = [
        "full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(layers)
    ]
    settings["activation_sparsity_pattern"] = settings["activation_sparsity_pattern"][:layers]
    config = Gemma3nTextConfig(**settings)
    config._attn_implementation = "sdpa"
    return config


def random_weight(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """bf16 numbers in the scale of a trained layer: U(-a, a) with the variance 1 / fan-in."""
    bound = (3.0 / shape[-1]) ** 0.5
    return torch.empty(shape, dtype=torch.bfloat16).uniform_(-bound, bound, generator=generator)


def fill(part: torch.nn.Module, generator: torch.Generator) -> None:
    """Frozen random weights in place of whatever parameters a part of a model has (on the meta device or not)."""
    for module in part.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = (
                random_weight(tuple(parameter.shape), generator)
                if parameter.dim() > 1
                else torch.ones(parameter.shape, dtype=torch.bfloat16)
            )
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))


def random_causal_lm(config: Gemma3nTextConfig, *, seed: int = 0) -> Any:
    """A `Gemma3nForCausalLM` in bf16 with random weights, frozen; allocated once, in bf16."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = Gemma3nForCausalLM(config)
    fill(model, torch.Generator().manual_seed(seed))
    model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()


def vision_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """The tensors of a vision tower and its projection, by the names that a checkpoint has for them."""
    from accelerate import init_empty_weights
    from transformers import AutoModel
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nMultimodalEmbedder

    with init_empty_weights():
        parts = {
            "vision_tower": AutoModel.from_config(config.vision_config),
            "embed_vision": Gemma3nMultimodalEmbedder(config.vision_config, config.text_config),
        }
    return {
        f"model.{part}.{name}": tuple(tensor.shape)
        for part, module in parts.items()
        for name, tensor in module.named_parameters()
    }


def write_checkpoint(
    folder: Path, shapes: str, *, seed: int = 0, vision: bool = False, **changes: Any
) -> None:
    """Write a synthetic multimodal checkpoint, a shard of a few layers at a time."""
    from accelerate import init_empty_weights

    config = text_config(shapes, **changes)
    with init_empty_weights():
        model = Gemma3nForCausalLM(config)
    shapes_by_name = {
        name.replace("model.", "model.language_model.", 1): tuple(p.shape)
        for name, p in model.named_parameters()
        if name != "lm_head.weight"
    }
    # Gemma 3n's own numbers are what these classes have by default.
    whole = Gemma3nConfig(text_config=config.to_dict())
    if vision:
        shapes_by_name |= vision_shapes(whole)

    def shard_of(name: str) -> str:
        if ".layers." in name:
            return f"layers-{int(name.split('.layers.')[1].split('.')[0]) // _SHARD_LAYERS:02d}"
        if "vision" in name:
            return "vision"
        return "tables" if "embed_tokens" in name else "rest"

    shards: dict[str, list[str]] = {}
    for name in shapes_by_name:
        shards.setdefault(shard_of(name), []).append(name)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    weight_map, total = {}, 0
    for number, (_, names) in enumerate(
        track(sorted(shards.items()), description="writing shards", transient=True), start=1
    ):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {
            n: random_weight(shapes_by_name[n], generator)
            if len(shapes_by_name[n]) > 1
            else torch.ones(shapes_by_name[n], dtype=torch.bfloat16)
            for n in names
        }
        total += sum(t.nbytes for t in tensors.values())
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    seeing = {
        "vision_config": whole.vision_config.to_dict(),
        "audio_config": whole.audio_config.to_dict(),
        "vision_soft_tokens_per_image": whole.vision_soft_tokens_per_image,
        "image_token_id": whole.image_token_id,
    }
    outer = (seeing if vision else {}) | {
        "architectures": ["Gemma3nForConditionalGeneration"],
        "model_type": "gemma3n",
        "tie_word_embeddings": True,
        "text_config": config.to_dict(),
    }
    (folder / "config.json").write_text(json.dumps(outer, indent=1))


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a synthetic Gemma 3n checkpoint.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="e2b")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--vision", action="store_true", help="with the vision tower (extra [frames])")
    asked = parser.parse_args()
    changes = {"num_hidden_layers": asked.layers} if asked.layers else {}
    write_checkpoint(asked.folder, asked.shapes, vision=asked.vision, **changes)
    print(f"{asked.folder}: a synthetic {asked.shapes} checkpoint")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
