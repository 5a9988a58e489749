"""Adapters as pairs: read exactly, folded to the nearest of a rank, begun from, trained on top of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import Gemma3nForCausalLM  # noqa: E402

from benchmarks.e2b_shapes import text_config  # noqa: E402
from continuonbrain.model.driving import DrivingModel  # noqa: E402
from continuonbrain.model.lora import LoraError, adapter_files, attach_lora  # noqa: E402
from continuonbrain.model.plain_lora import Begun, PlainLora, Start, folded, read_plain  # noqa: E402


def base() -> Any:
    torch.manual_seed(0)
    return Gemma3nForCausalLM(text_config("small", vocab_size=512)).double().eval()


def adapter(folder: Path, seed: int, **settings: Any) -> Path:
    torch.manual_seed(seed)
    model = get_peft_model(
        base(),
        LoraConfig(**({"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]} | settings)),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora_alpha": 5, "r": 3},
        {"use_rslora": True},
        {"layers_to_transform": [3, 11], "layers_pattern": "layers"},
    ],
    ids=["plain", "another rank and scale", "rank-stabilised", "some layers"],
)
def test_what_is_read_is_what_peft_adds_to_the_weights(tmp_path: Path, settings: dict[str, Any]) -> None:
    lora = read_plain(adapter(tmp_path / "a", 1, **settings))
    alone = dict(base().named_parameters())
    merged = dict(
        PeftModel.from_pretrained(base(), str(tmp_path / "a")).double().merge_and_unload().named_parameters()
    )
    changed = {n.removesuffix(".weight") for n in alone if not torch.equal(alone[n], merged[n])}
    assert changed == lora.pairs.keys()
    for module, (a, b) in lora.pairs.items():
        added = merged[f"{module}.weight"] - alone[f"{module}.weight"]
        assert torch.allclose(added, b.double() @ a.double(), atol=1e-6)


def pair(rank: int, seed: int, *, true_rank: int | None = None) -> PlainLora:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator)

    inner = true_rank or rank
    a, b = normal(rank, inner) @ normal(inner, 40), normal(30, inner) @ normal(inner, rank)
    return PlainLora(rank, {"layers.4.q_proj": (a, b)}, "a base")


@pytest.mark.parametrize("rank", [1, 4, 8, 16, 20])
def test_folding_is_the_best_that_a_rank_can_do(rank: int) -> None:
    lora = pair(16, 3)
    near, error = folded(lora, rank)
    (a, b), (na, nb) = lora.pairs["layers.4.q_proj"], near.pairs["layers.4.q_proj"]
    assert (na.shape, nb.shape, near.rank, near.base) == ((rank, 40), (30, rank), rank, "a base")
    values = torch.linalg.svdvals((b @ a).double())
    best = float(values[rank:].norm() / values.norm())
    assert error == pytest.approx(best, abs=1e-6)
    assert float(((nb @ na) - (b @ a)).norm() / (b @ a).norm()) == pytest.approx(best, abs=1e-5)


def test_what_has_a_small_rank_already_is_folded_without_loss() -> None:
    near, error = folded(pair(16, 4, true_rank=5), 8)
    assert error < 1e-6
    assert near.rank == 8
    nothing = PlainLora(4, {"m": (torch.zeros(4, 9), torch.zeros(7, 4))}, "")
    assert folded(nothing, 2)[1] == 0.0


def lora_model(
    untrained_model: Callable[..., DrivingModel], rank: int, targets: tuple[str, ...]
) -> DrivingModel:
    model = untrained_model()
    attach_lora(model, base_sha256="ba5e" * 16, rank=rank, alpha=4.0 * rank, targets=targets)
    return model


def saved(model: DrivingModel, folder: Path) -> Path:
    folder.mkdir()
    for name, data in adapter_files(model).items():
        (folder / name).write_bytes(data)
    return folder


def noisy(model: DrivingModel, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.language_model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)


def test_what_lies_below_stays_and_the_new_one_is_added_to_it(
    untrained_model: Callable[..., DrivingModel], tmp_path: Path
) -> None:
    slow_model = lora_model(untrained_model, 2, ("q_proj", "down_proj"))
    noisy(slow_model, 1)
    slow = read_plain(saved(slow_model, tmp_path / "slow"))
    both = lora_model(untrained_model, 5, ("q_proj", "down_proj", "o_proj"))
    begun = Begun(both.language_model, Start(slow, frozen=True))
    parameters = [p for p in both.language_model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, 0.05, weight_decay=0.1)
    for _ in range(3):
        begun.hold()
        sum(((p - 1) ** 2).sum() for p in parameters).backward()
        optimiser.step()
        optimiser.zero_grad()
    begun.hold()
    out = read_plain(saved(both, tmp_path / "both"))
    assert out.rank == 5
    for module, (a, b) in out.pairs.items():
        below = slow.pairs.get(module)
        expected = torch.zeros_like(b @ a) if below is None else below[1] @ below[0]
        assert torch.allclose(b[:, :2] @ a[:2], expected, atol=1e-6), module
        assert float((b[:, 2:] @ a[2:]).norm()) > 0  # and the rest has learned


def test_beginning_from_an_adapter_is_that_adapter(
    untrained_model: Callable[..., DrivingModel], tmp_path: Path
) -> None:
    first = lora_model(untrained_model, 4, ("q_proj", "down_proj"))
    noisy(first, 2)
    lora = read_plain(saved(first, tmp_path / "first"))
    second = lora_model(untrained_model, 4, ("q_proj", "down_proj"))
    Begun(second.language_model, Start(lora, frozen=False)).hold()
    again = read_plain(saved(second, tmp_path / "second"))
    assert lora.sha256 != pair(4, 1).sha256
    for module, (a, b) in lora.pairs.items():
        assert torch.allclose(again.pairs[module][1] @ again.pairs[module][0], b @ a, atol=1e-6)
    assert all(
        p.grad is None and not p._backward_hooks
        for p in second.language_model.parameters()
        if p.requires_grad
    )


def test_a_start_that_does_not_fit_is_refused(
    untrained_model: Callable[..., DrivingModel], tmp_path: Path
) -> None:
    wide = lora_model(untrained_model, 2, ("q_proj", "down_proj"))
    noisy(wide, 1)
    lora = read_plain(saved(wide, tmp_path / "wide"))
    narrow = lora_model(untrained_model, 4, ("q_proj",))
    with pytest.raises(LoraError, match="lora_layers"):
        Begun(narrow.language_model, Start(lora, frozen=True))
    strange = PlainLora(2, {m: (a[:, :3], b) for m, (a, b) in lora.pairs.items()}, lora.base)
    fitting = lora_model(untrained_model, 4, ("q_proj", "down_proj"))
    with pytest.raises(LoraError, match="another shape"):
        Begun(fitting.language_model, Start(strange, frozen=False))


def test_what_is_not_a_plain_pair_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="use_dora"):
        read_plain(adapter(tmp_path / "dora", 2, use_dora=True))
    with pytest.raises(LoraError, match="cannot be read"):
        read_plain(tmp_path / "nothing")
    for changed in (
        {"r": 0},
        {"r": None},
        {"lora_alpha": "x"},
        {"rank_pattern": {"q_proj": 2}},
        {"bias": "all"},
    ):
        broken = adapter(tmp_path / "broken", 2)
        settings = json.loads((broken / "adapter_config.json").read_text())
        (broken / "adapter_config.json").write_text(json.dumps(settings | changed))
        with pytest.raises(LoraError):
            read_plain(broken)


@pytest.mark.parametrize("damage", ["a number that is none", "A without B", "another shape"])
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, damage: str) -> None:
    fast = adapter(tmp_path / "fast", 2)
    tensors = load_file(fast / "adapter_model.safetensors")
    name = sorted(n for n in tensors if "lora_B" in n)[0]
    if damage == "A without B":
        del tensors[name]
    elif damage == "another shape":
        tensors[name] = torch.zeros(tensors[name].shape[0], 9)
    else:
        tensors[name][0, 0] = float("nan")
    save_file(tensors, fast / "adapter_model.safetensors")
    with pytest.raises(LoraError):
        read_plain(fast)
