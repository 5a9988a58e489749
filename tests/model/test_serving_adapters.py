"""Adapters as inputs of the graphs: their scales are PEFT's, and one that does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")

from safetensors.numpy import load_file, save_file  # noqa: E402

from continuonbrain.model.base import load_base  # noqa: E402
from continuonbrain.model.lora import attach_lora  # noqa: E402
from continuonbrain.model.serving.adapter_inputs import AdapterInputError, adapter_inputs, no_adapter  # noqa: E402
from continuonbrain.model.serving.signatures import site_key  # noqa: E402
from continuonbrain.model.serving.spec import DrivingSpec, LoraSpec  # noqa: E402
from tests.model.shipped_graphs import BASE, FP32, SHA256  # noqa: E402

WriteAdapter = Callable[..., Path]


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _tensors(folder: Path, change: Callable[[dict[str, NDArray[np.float32]]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _first(tensors: dict[str, NDArray[np.float32]], part: str) -> str:
    return next(n for n in sorted(tensors) if f"lora_{part}" in n)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: _edit(f, base_model_name_or_path="continuonbrain:" + "0" * 64), "this base is"),
        (lambda f: _edit(f, base_model_name_or_path=None), "base_model_name_or_path is None"),
        (lambda f: _edit(f, peft_type="LOHA"), "peft_type"),
        (lambda f: _edit(f, use_dora=True), "use_dora"),
        (lambda f: _edit(f, bias="all"), "bias"),
        (lambda f: (f / "adapter_config.json").write_text("["), "not JSON"),
        (lambda f: (f / "adapter_config.json").unlink(), "cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"torn"), "cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "cannot be read"),
        (lambda f: _tensors(f, lambda t: t[_first(t, "A")].fill(np.nan)), "not finite"),
        (
            lambda f: _tensors(f, lambda t: t.update({_first(t, "A"): np.full((4, 7), 1e300)})),
            "not finite in fp32",
        ),
        (lambda f: _tensors(f, lambda t: t.update({_first(t, "A"): np.ones((4, 7), np.int8)})), "holds I8"),
        (lambda f: _tensors(f, lambda t: [v.fill(1e30) for v in t.values()]), "beyond 1000"),
        (lambda f: _tensors(f, lambda t: [v.fill(500) for v in t.values()]), "change a weight"),
        (
            lambda f: _tensors(
                f, lambda t: t.update({n: v[:0] if "lora_A" in n else v[:, :0] for n, v in t.items()})
            ),
            "rank 0",
        ),
        (lambda f: _edit(f, use_qalora=True), "use_qalora"),
        (lambda f: _edit(f, layer_replication=[[0, 4], [2, 8]]), "layer_replication"),
        (lambda f: _edit(f, alora_invocation_tokens=[1]), "alora_invocation_tokens"),
        (lambda f: _edit(f, lora_alpha=1e9), "no scale"),
        (
            lambda f: _tensors(
                f,
                lambda t: t.update(
                    {_first(t, "A").replace("model.layers", "other.layers"): t[_first(t, "A")]}
                ),
            ),
            "same layer",
        ),
        (lambda f: _edit(f, alpha_pattern={"(": 1}), "alpha_pattern"),
        (lambda f: _edit(f, alpha_pattern=["q_proj"]), "alpha_pattern"),
        (lambda f: _edit(f, alpha_pattern={"(a|a|b|.)*.*(.*)*(.+)+x": 1}), "too many choices"),
        (lambda f: _edit(f, alpha_pattern={".?" * 60 + "X": 1}), "too many choices"),
        (lambda f: _edit(f, alpha_pattern={"(.|.)" * 50 + "X": 1}), "too many choices"),
        (lambda f: _edit(f, alpha_pattern={"q_proj": "x"}), "no scale"),
        (lambda f: _tensors(f, lambda t: t.pop(_first(t, "B"))), "has only lora_A"),
        (lambda f: _tensors(f, lambda t: t.clear()), "no LoRA factors"),
        (lambda f: _tensors(f, lambda t: t.update(x=np.zeros(3, np.float32))), "x is no LoRA factor"),
        (
            lambda f: _tensors(f, lambda t: t.update({_first(t, "A"): np.zeros((4, 7), np.float32)})),
            "trained on this base",
        ),
        (
            lambda f: _tensors(
                f,
                lambda t: t.update(
                    {n.replace("layers.4", "layers.1"): t.pop(n) for n in [*t] if "layers.4" in n}
                ),
            ),
            "takes no adapter",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_named(
    write_adapter: WriteAdapter, spoil: Callable[[Path], object], said: str
) -> None:
    folder = write_adapter("a", base=SHA256)
    spoil(folder)
    with pytest.raises(AdapterInputError) as error:
        adapter_inputs(folder, DrivingSpec.read(FP32).lora, base_sha256=SHA256)
    assert said in f"{error.value.message} {error.value.remedy}"
    assert str(folder) in error.value.message


def test_a_rank_above_the_graphs_is_refused_with_both_numbers(write_adapter: WriteAdapter) -> None:
    folder = write_adapter("a", rank=17, base=SHA256)
    with pytest.raises(AdapterInputError, match=r"rank 17; this bundle takes 16"):
        adapter_inputs(folder, DrivingSpec.read(FP32).lora, base_sha256=SHA256)


def test_factors_stored_in_half_precision_are_read(write_adapter: WriteAdapter) -> None:
    import safetensors.torch as stored

    folder = write_adapter("a", base=SHA256)
    lora = DrivingSpec.read(FP32).lora
    wanted = adapter_inputs(folder, lora, base_sha256=SHA256)
    path = folder / "adapter_model.safetensors"
    tensors = stored.load_file(path)
    for kind in (torch.bfloat16, torch.float16):
        stored.save_file({n: t.to(kind) for n, t in tensors.items()}, path)
        found = adapter_inputs(folder, lora, base_sha256=SHA256)
        assert all(np.allclose(found[n], wanted[n], rtol=0.01, atol=1e-6) for n in wanted)
        assert any(found[n].any() for n in found)


@pytest.mark.parametrize("rslora", [False, True])
def test_scales_are_those_of_peft(write_adapter: WriteAdapter, tmp_path: Path, rslora: bool) -> None:
    from peft import LoraConfig, get_peft_model

    model = load_base(BASE)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["layers.5.self_attn.q_proj", "layers.6.self_attn.q_proj", "layers.5.mlp.up_proj"],
        rank_pattern={"layers.6.self_attn.q_proj": 2},
        alpha_pattern={"up_proj": 3, r"layers\.6.*": 5, "^model.layers.5.self_attn.q_proj": 2},
        use_rslora=rslora,
    )
    wrapped = get_peft_model(model.causal_lm, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(str(tmp_path / "a"), save_embedding_layers=False)
    _edit(tmp_path / "a", base_model_name_or_path=f"continuonbrain:{SHA256}")
    inputs = adapter_inputs(tmp_path / "a", DrivingSpec.read(FP32).lora, base_sha256=SHA256)
    for name, module in wrapped.named_modules():
        if hasattr(module, "get_delta_weight"):
            key = site_key(name.split("model.model.")[-1].removeprefix("model."))
            product = (inputs[f"{key}_a"] @ inputs[f"{key}_b"]).T
            assert np.allclose(product, module.get_delta_weight("default").detach().numpy(), atol=1e-5), name


def test_without_an_alpha_it_is_pefts(write_adapter: WriteAdapter) -> None:
    folder = write_adapter("a", base=SHA256)
    lora = DrivingSpec.read(FP32).lora
    path = folder / "adapter_config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "lora_alpha": 8}))
    eight = adapter_inputs(folder, lora, base_sha256=SHA256)
    path.write_text(json.dumps({k: v for k, v in told.items() if k != "lora_alpha"}))
    default = adapter_inputs(folder, lora, base_sha256=SHA256)
    assert all(np.array_equal(eight[name], default[name]) for name in eight)


def test_an_adapter_of_the_spec_has_every_site() -> None:
    lora = LoraSpec(rank=2, sites={"layers.4.mlp.up_proj": (3, 5)})
    inputs = no_adapter(lora)
    assert {n: v.shape for n, v in inputs.items()} == {
        "layers_4_mlp_up_proj_a": (3, 2),
        "layers_4_mlp_up_proj_b": (2, 5),
    }


def test_attach_and_graphs_name_the_same_sites() -> None:
    model = load_base(BASE)
    attach_lora(model, base_sha256=SHA256, rank=1, alpha=1.0, targets=_leaves())
    trained = {
        n.split("layers.", 1)[1].split(".lora_")[0]
        for n, p in model.language_model.named_parameters()
        if p.requires_grad
    }
    assert trained == {s.removeprefix("layers.") for s in DrivingSpec.read(FP32).lora.sites}


def _leaves() -> list[str]:
    return sorted({s.rsplit(".", 1)[-1] for s in DrivingSpec.read(FP32).lora.sites})
