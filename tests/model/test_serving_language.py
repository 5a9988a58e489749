"""Words one by one from the two modules that become graphs, beside transformers' own whole forward pass."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import Gemma3nForCausalLM, Gemma3nTextConfig  # noqa: E402

from continuonbrain.model.decoder import decoder_of  # noqa: E402
from continuonbrain.model.serving.language import Next, Prefill, empty_cache  # noqa: E402
from continuonbrain.model.serving.signatures import LoraLinear, site_key, take_lora, write_down_sparsity  # noqa: E402

CONTEXT, CHUNK = 48, 8


def small(window: int) -> Any:
    torch.manual_seed(3)
    config = Gemma3nTextConfig(
        vocab_size=112,
        vocab_size_per_layer_input=112,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=10,
        num_kv_shared_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        hidden_size_per_layer_input=8,
        laurel_rank=8,
        sliding_window=window,
        layer_types=["full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(10)],
        activation_sparsity_pattern=[0.95] * 3 + [0.0] * 7,
        final_logit_softcapping=30.0,
    )
    config._attn_implementation = "sdpa"
    model = Gemma3nForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not bool(parameter.any()):
                parameter.normal_(0.0, 0.3)
            elif parameter.dim() > 1:
                parameter.mul_(3.0)
    return model.eval().requires_grad_(False)


def set_lora(sites: dict[str, LoraLinear], lora: dict[str, Any] | None) -> None:
    for name, module in sites.items():
        key = site_key(name)
        module.factors = None if lora is None else (lora[f"{key}_a"], lora[f"{key}_b"])


@pytest.mark.parametrize("window", [6, 512])
@pytest.mark.parametrize("length", [1, 2, 9, 21])
def test_word_by_word_is_the_whole_pass_with_every_adapter_also_one_that_changes_midway(
    window: int, length: int
) -> None:
    model = small(window)
    text = model.model
    untouched = small(window)
    sites = take_lora(decoder_of(model))
    write_down_sparsity(decoder_of(model))
    generator = torch.Generator().manual_seed(length)
    adapters = [
        {
            f"{site_key(n)}_{part}": 0.1 * torch.randn(shape, generator=generator)
            for n, m in sites.items()
            for part, shape in (("a", (m.base.in_features, 4)), ("b", (4, m.base.out_features)))
        }
        for _ in range(2)
    ]
    prefill, next_word = Prefill(model, CHUNK), Next(model, sites)
    ids = torch.randint(3, 112, (1, length), generator=generator)
    with torch.inference_mode():
        assert torch.allclose(
            model(ids, use_cache=False).logits, untouched(ids, use_cache=False).logits, atol=1e-5
        )
    cache = empty_cache(model, CONTEXT)
    with torch.inference_mode():

        def tables(tokens: Any) -> tuple[Any, Any]:
            return text.embed_tokens(tokens), text.get_per_layer_inputs(tokens)

        for start in range(0, length - 1, CHUNK):
            part = torch.zeros(1, CHUNK, dtype=torch.int64)
            real = ids[:, start : min(start + CHUNK, length - 1)]
            part[:, : real.shape[1]] = real  # the rest is overwritten before anything looks at it
            cache = prefill(*tables(part), torch.tensor([start]), cache)
        changed = 0.0
        for step in range(10):
            lora = adapters[step // 5]  # swapped after five words: the cache stays
            place = torch.tensor([ids.shape[1] - 1])
            out = next_word(*tables(ids[:, -1:]), place, cache, lora)
            logits = out.pop("logits")
            cache = out
            set_lora(sites, lora)
            whole = model(ids, use_cache=False).logits[:, -1]
            set_lora(sites, None)
            assert torch.allclose(logits, whole, atol=1e-4), step
            changed = max(changed, float((model(ids, use_cache=False).logits[:, -1] - whole).abs().max()))
            ids = torch.cat([ids, whole.argmax(-1, keepdim=True)], 1)
        assert changed > 0.05
