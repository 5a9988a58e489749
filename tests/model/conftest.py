"""A driving model in double precision, adapters on disk, the shipped graphs, and how outputs are compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from continuonbrain.model.driving import DrivingModel
    from continuonbrain.model.serving.runtime import Graphs
    from continuonbrain.policy.prompt import PromptLayout

BASE_SHA256 = "ba5e" * 16


Place = tuple[str | int, ...]
_LORA_SITES = 3
"""Of modules that are all alike."""


@pytest.fixture
def with_other_numbers() -> Callable[[Path, Callable[[float], float]], Iterator[Place]]:
    """with_other_numbers(bundle_json, change): each time another number of the file is changed, and its place given;
    those of the export's own comparison only inform."""

    def rewrite(file: Path, change: Callable[[float], float]) -> Iterator[Place]:
        text = file.read_text()
        sites = list(json.loads(text)["lora"]["sites"])[_LORA_SITES:]
        for place in _numbers(json.loads(text)):
            if place[0] == "check" or (place[0] == "lora" and place[-2] in sites):
                continue
            raw = json.loads(text)
            part = raw
            for key in place[:-1]:
                part = part[key]
            part[place[-1]] = change(part[place[-1]])
            file.write_text(json.dumps(raw))
            yield place

    return rewrite


def _numbers(value: object, place: Place = ()) -> list[Place]:
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in _numbers(inner, (*place, key))]
    if isinstance(value, list):
        return [found for key, inner in enumerate(value) for found in _numbers(inner, (*place, key))]
    return [place] if isinstance(value, int | float) else []


@pytest.fixture
def prompts(prompt_layout: PromptLayout) -> tuple[torch.Tensor, torch.Tensor]:
    """Three prompts and frames."""
    import torch

    ids = prompt_layout.ids(["drive", "keep left slowly", "stop now"], [0.9, None, 1.4])
    generator = torch.Generator().manual_seed(5)
    frames = torch.randint(0, 256, (3, 120, 160, 3), dtype=torch.uint8, generator=generator)
    return torch.from_numpy(ids), frames


@pytest.fixture
def double(prompt_layout: PromptLayout) -> Callable[..., DrivingModel]:
    """double(window=64, layers=8, shared=4): a random model whose language part computes in fp64."""
    import torch
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    from continuonbrain.model.driving import ConnectorConfig, DrivingModel, ImageConnector, tiny_text_config
    from continuonbrain.policy import codec

    def make(window: int = 64, layers: int = 8, shared: int = 4) -> DrivingModel:
        torch.manual_seed(1)
        kinds = ["full_attention" if (i + 1) % 4 == 0 else "sliding_attention" for i in range(layers)]
        settings = tiny_text_config(prompt_layout.vocabulary).to_dict() | {
            "num_hidden_layers": layers,
            "num_kv_shared_layers": shared,
            "layer_types": kinds,
            "intermediate_size": 256,
            "activation_sparsity_pattern": [0.0] * layers,
            "sliding_window": window,
        }
        config = Gemma3nTextConfig(**settings)
        config._attn_implementation = "sdpa"
        lm = Gemma3nForCausalLM(config).double()
        with torch.no_grad():
            for p in lm.parameters():  # AltUp's scales start at zero, which would hide the per-layer inputs
                p.add_(torch.randn_like(p) * 0.05)
        model = DrivingModel(
            lm,
            ImageConnector(ConnectorConfig(hidden_size=config.hidden_size)),
            image_token=prompt_layout.image_token,
            queries=codec.QUERIES,
        )
        model.requires_grad_(False)
        return model.eval()

    return make


_ADAPTERS: dict[tuple[object, ...], dict[str, bytes]] = {}


@pytest.fixture
def write_adapter(tmp_path: Path, untrained_model: Callable[..., DrivingModel]) -> Callable[..., Path]:
    """write_adapter("a", seed=1, rank=4, base=...): a PEFT folder with random A and B, made by our own code."""
    import torch

    from continuonbrain.model.lora import SHARED_LAYER_TARGETS, adapter_files, attach_lora

    def write(
        name: str,
        *,
        seed: int = 1,
        rank: int = 4,
        base: str = BASE_SHA256,
        targets: tuple[str, ...] = SHARED_LAYER_TARGETS,
    ) -> Path:
        key = (seed, rank, base, targets)
        if key not in _ADAPTERS:
            model = untrained_model()
            parameters = attach_lora(model, base_sha256=base, rank=rank, alpha=2.0 * rank, targets=targets)
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for p in parameters:
                    p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
            _ADAPTERS[key] = adapter_files(model)
        folder = tmp_path / name
        folder.mkdir()
        for file, data in _ADAPTERS[key].items():
            (folder / file).write_bytes(data)
        return folder

    return write


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    """The fp32 graphs of the shipped base."""
    from continuonbrain.model.serving.runtime import Graphs
    from tests.model.shipped_graphs import BASE, FP32

    return Graphs(FP32, BASE)


@pytest.fixture(scope="module")
def asked() -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Four prompts and frames for the shipped base."""
    from continuonbrain.policy.prompt import PromptLayout
    from tests.model.shipped_graphs import BASE

    layout = PromptLayout.from_folder(BASE)
    ids = layout.ids(["drive", "keep left slowly", "drive", "stop now"], [0.9, None, 1.4, 0.0])
    return ids, np.random.default_rng(5).integers(0, 256, (4, 120, 160, 3), np.uint8)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the shipped base's fp32 bundle, to be damaged."""
    from tests.model.shipped_graphs import FP32

    folder: Path = shutil.copytree(FP32, tmp_path / "bundle")
    return folder
