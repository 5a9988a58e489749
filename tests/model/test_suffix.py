"""Claims about the cut: what comes out above it, and every gradient there, is what the whole model gives.

The reference is transformers' own full forward and PEFT's own backward, in fp64. The negative controls show
that these comparisons can fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, get_peft_model  # noqa: E402

from continuonbrain.model.decoder import first_shared_layer  # noqa: E402
from continuonbrain.model.driving import IMAGE_TOKENS, DrivingModel  # noqa: E402
from continuonbrain.model.lora import SHARED_LAYER_TARGETS, attach_lora  # noqa: E402
from continuonbrain.model.streams import Streams  # noqa: E402
from continuonbrain.model.suffix import run_suffix  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

Prompts = tuple["Tensor", "Tensor"]
Double = Callable[..., DrivingModel]
SHAPES = [
    pytest.param({"window": 64}, id="window-longer-than-the-prompt"),
    pytest.param({"window": 16}, id="window-shorter-than-the-prompt"),
    pytest.param({"window": 16, "layers": 12, "shared": 4}, id="twelve-layers-a-third-shared"),
]


@pytest.fixture(autouse=True)
def _fp64_all_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's norms and routers compute in `.float()`; rounding to fp32 there would hide a small error."""
    to_float = torch.Tensor.float
    monkeypatch.setattr(
        torch.Tensor, "float", lambda t, *a: t if t.dtype == torch.float64 else to_float(t, *a)
    )


def full_forward(model: DrivingModel, ids: Tensor, frames: Tensor, *, per_layer: bool = True) -> Tensor:
    """Hidden states `[B, queries, H]` by transformers alone: all layers, all positions."""
    text = model.causal_lm.model
    embeds = text.embed_tokens(ids)
    start = int((ids[0] == model.image_token).nonzero()[0])
    embeds = torch.cat(
        [embeds[:, :start], model.connector(frames).to(embeds.dtype), embeds[:, start + IMAGE_TOKENS :]], 1
    )
    extra = {"per_layer_inputs": text.get_per_layer_inputs(ids)} if per_layer else {}
    out = text(inputs_embeds=embeds, use_cache=False, **extra)
    hidden: Tensor = out.last_hidden_state[:, -model.queries :]
    return hidden


def full_logits(model: DrivingModel, ids: Tensor, frames: Tensor) -> Tensor:
    lm = model.causal_lm
    logits = lm.lm_head(full_forward(model, ids, frames))
    capped: Tensor = (
        torch.tanh(logits / lm.config.final_logit_softcapping) * lm.config.final_logit_softcapping
    )
    return capped


def cached(model: DrivingModel, prompts: Prompts) -> Streams:
    with torch.no_grad():
        return model.encode(*prompts)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_hidden_states_and_logits_are_those_of_the_whole_model(
    double: Double, prompts: Prompts, shape: dict[str, int]
) -> None:
    model = double(**shape)
    with torch.no_grad():
        streams = model.encode(*prompts)
        assert (run_suffix(model.decoder, streams) - full_forward(model, *prompts)).abs().max() < 1e-12
        assert (model(*prompts) - full_logits(model, *prompts)).abs().max() < 1e-12


def test_the_soft_cap_and_head_are_those_of_transformers_causal_model(
    double: Double, prompts: Prompts
) -> None:
    model = double()
    ids, _frames = prompts
    seen: dict[str, Tensor] = {}
    lm = model.causal_lm
    handle = lm.model.register_forward_hook(lambda _m, _a, out: seen.update(hidden=out.last_hidden_state))
    with torch.no_grad():
        logits = lm(input_ids=ids, use_cache=False).logits
    handle.remove()
    cap = lm.config.final_logit_softcapping
    ours = torch.tanh(torch.nn.functional.linear(seen["hidden"], lm.lm_head.weight) / cap) * cap
    assert (ours - logits).abs().max() < 1e-12


def test_control_the_window_matters_when_it_is_shorter_than_the_prompt(
    double: Double, prompts: Prompts
) -> None:
    model = double(window=16)
    with torch.no_grad():
        right = full_forward(model, *prompts)
        streams = model.encode(*prompts)
        model.causal_lm.config.sliding_window = 64
        assert relative(run_suffix(model.decoder, streams), right) > 1e-3


def test_control_leaving_out_the_per_layer_inputs_changes_the_answer(
    double: Double, prompts: Prompts
) -> None:
    model = double()
    with torch.no_grad():
        assert relative(full_forward(model, *prompts, per_layer=False), full_forward(model, *prompts)) > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_lora_gradients_from_cached_streams_are_pefts(
    double: Double, prompts: Prompts, shape: dict[str, int]
) -> None:
    model = double(**shape)
    streams = cached(model, prompts)
    parameters = attach_lora(model, base_sha256="0" * 64, rank=4, alpha=8.0, targets=SHARED_LAYER_TARGETS)
    names = [n for n, p in model.language_model.named_parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in parameters:
            p.copy_(torch.randn(p.shape, dtype=p.dtype, generator=generator) * 0.1)
    assert all(p.dtype == torch.float64 for p in parameters)
    pull = torch.randn(
        3, model.queries, model.causal_lm.config.vocab_size, dtype=torch.float64, generator=generator
    )

    ours = torch.autograd.grad((model.decode(streams) * pull).sum(), parameters)
    theirs = torch.autograd.grad((full_logits(model, *prompts) * pull).sum(), parameters)
    for target in SHARED_LAYER_TARGETS:
        assert any(f".{target}." in n for n in names), f"no LoRA was put on {target}"
    for name, a, b in zip(names, ours, theirs, strict=True):
        assert b.norm() > 0, f"{name} gets no gradient"
        assert relative(a, b) < 1e-10, name


def lora_on(model: DrivingModel, targets: list[str], layers: list[int]) -> list[Any]:
    config = LoraConfig(r=4, target_modules=targets, layers_to_transform=layers, layers_pattern="layers")
    model.language_model = get_peft_model(model.causal_lm, config)
    parameters = [p for p in model.language_model.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in parameters:
            p.fill_(0.1)
    return parameters


@pytest.mark.parametrize(("target", "layer"), [("q_proj", 0), ("k_proj", 3), ("down_proj", 2)])
def test_control_lora_below_the_cut_gets_a_gradient_only_from_the_whole_model(
    double: Double, prompts: Prompts, target: str, layer: int
) -> None:
    model = double()
    parameters = lora_on(model, [target], [layer])
    streams = cached(model, prompts)
    through_cache = model.decode(streams).sum()
    assert not through_cache.requires_grad
    whole = torch.autograd.grad((full_logits(model, *prompts) ** 2).sum(), parameters)
    assert all(g.norm() > 0 for g in whole)


def test_encoding_is_differentiable_when_it_is_asked_to_be(double: Double, prompts: Prompts) -> None:
    """The tiny base is trained through both halves."""
    model = double()
    parameters = lora_on(model, ["q_proj"], [0])
    ours = torch.autograd.grad((model(*prompts) ** 2).sum(), parameters)
    theirs = torch.autograd.grad((full_logits(model, *prompts) ** 2).sum(), parameters)
    assert all(relative(a, b) < 1e-10 for a, b in zip(ours, theirs, strict=True))


def test_selecting_and_joining_streams_is_encoding_those_samples(double: Double, prompts: Prompts) -> None:
    model = double()
    ids, frames = prompts
    streams = cached(model, prompts)
    parts = [cached(model, (ids[i : i + 1], frames[i : i + 1])) for i in range(3)]
    room = parts[0].room_for(5)  # as in the trainer, which may stop filling before the end
    for i, part in enumerate(parts):
        room.put(slice(i, i + 1), part)
    joined = room.head(3)
    with torch.no_grad():
        assert len(joined) == 3
        assert (model.decode(joined) - model.decode(streams)).abs().max() < 1e-4  # the connector is fp32
        picked = streams.select(torch.tensor([2, 0]))
        assert (model.decode(picked) - model.decode(streams)[[2, 0]]).abs().max() < 1e-12
    assert joined.nbytes() == sum(p.nbytes() for p in parts)


def test_a_failed_pass_leaves_no_hook_and_no_wrapper_behind(double: Double, prompts: Prompts) -> None:
    model = double()
    text = model.causal_lm.model
    with torch.no_grad():
        before = full_forward(model, *prompts)
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            model.encode(prompts[0], torch.zeros(3, 5, 5, 3, dtype=torch.uint8))
        model.encode(*prompts)
        assert "project_per_layer_inputs" not in vars(text)
        assert not text.layers[first_shared_layer(text.config)]._forward_pre_hooks
        assert torch.equal(full_forward(model, *prompts), before)


def test_an_error_inside_the_layers_leaves_the_model_as_it_was(double: Double, prompts: Prompts) -> None:
    model = double()
    streams, decoder = model.encode(*prompts), model.decoder
    config, attention = decoder.config, decoder.text.layers[decoder.first].self_attn
    before = config._attn_implementation, attention.is_kv_shared_layer, attention.store_full_length_kv

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = decoder.text.layers[-1].register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        model.decode(streams)
    handle.remove()
    assert (
        config._attn_implementation,
        attention.is_kv_shared_layer,
        attention.store_full_length_kv,
    ) == before


def test_two_models_in_turns_do_not_disturb_each_other(double: Double, prompts: Prompts) -> None:
    one, two = double(), double(window=16)
    alone = [m.decode(m.encode(*prompts)) for m in (one, two)]
    streams = [m.encode(*prompts) for m in (one, two)]
    again = [m.decode(s) for m, s in zip((one, two), streams, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))
