"""Are the gradients of cached-suffix LoRA those of PEFT? In fp64, where rounding cannot hide a mistake.

    python -m benchmarks.lora_exact [--json]

Every case builds a small random model of transformers, puts PEFT LoRA with random A and B on it, and compares two
ways to the gradient of every LoRA tensor: (a) transformers' full forward and PEFT's own backward over padded
batches; (b) the pass below the cut, samples cut out of it one by one, collated again, and the layers above the cut
with the one-pass head. The negative controls train what must not be trained this way and have to be found wrong.

Keys: max_rel_error (largest relative L2 error of any LoRA tensor in any case), cases (how many), controls_failed
(how many negative controls were seen to fail, as all of `controls` must); case_errors and control_errors name them, an
error of 1 where the cut gives no gradient at all. Takes one to two minutes.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    Gemma3nAudioConfig,
    Gemma3nConfig,
    Gemma3nForCausalLM,
    Gemma3nForConditionalGeneration,
    Gemma3nTextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nVisionConfig

from continuonbrain.model.decoder import FAMILIES, NOT_IN_PLUS_ONE, decoder_of
from continuonbrain.model.head_loss import IGNORED, PlainRows, head_loss
from continuonbrain.model.streams import collate
from continuonbrain.model.suffix import capture, keep, run_suffix

GOAL = 1e-10
CONTROL = 1e-3
"""A negative control counts as seen to fail from this relative error on."""
VOCABULARY, IMAGE, IMAGE_TOKENS, LENGTH = 96, 98, 16, 48


class SmallVisionConfig(Gemma3nVisionConfig):
    """A vision tower that needs no other library (Gemma 3n's own comes from timm)."""

    model_type = "continuonbrain_small_vision"


class SmallVision(PreTrainedModel):  # type: ignore[misc]
    """Images `[B, 3, 32, 32]` -> `[B, 32, 4, 4]`, with the call of Gemma 3n's tower."""

    config_class = SmallVisionConfig

    def __init__(self, config: SmallVisionConfig) -> None:
        super().__init__(config)
        self.convolution = nn.Conv2d(3, config.hidden_size, 8, 8)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: object) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=torch.nn.functional.silu(self.convolution(pixel_values)))


AutoConfig.register(SmallVisionConfig.model_type, SmallVisionConfig, exist_ok=True)
AutoModel.register(SmallVisionConfig, SmallVision, exist_ok=True)


@dataclass(frozen=True)
class Case:
    """One comparison. layers/shared/window: the model; padding: side of the padded tokens; targets: names of PEFT."""

    name: str
    family: str = "gemma3n"
    layers: int = 10
    shared: int = 5
    window: int = 16
    padding: str = "right"
    plus_one: bool = False
    images: bool = False
    targets: tuple[str, ...] = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lora: dict[str, Any] = field(default_factory=dict)
    below: int | None = None


EVERYTHING = tuple(name for name in FAMILIES["gemma3n_text"] if name not in NOT_IN_PLUS_ONE)
CASES = (
    *(
        Case(f"gemma3n {layers}/{shared} window {window} pad {side}", "gemma3n", layers, shared, window, side)
        for layers, shared in ((10, 5), (30, 10), (35, 15))
        for window in (16, 512)
        for side in ("right", "left")
    ),
    *(
        Case(
            f"plus one, window {window} pad {side}",
            window=window,
            padding=side,
            plus_one=True,
            targets=EVERYTHING,
        )
        for window in (16, 512)
        for side in ("right", "left")
    ),
    Case("every module that can carry LoRA", targets=(*EVERYTHING, "modality_router")),
    Case(
        "rank-stabilised, ranks and alphas by pattern",
        lora={"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    ),
    Case("weight-decomposed (DoRA)", lora={"use_dora": True}),
    *(Case(f"images, pad {side}", padding=side, images=True) for side in ("right", "left")),
    Case("images, plus one", images=True, plus_one=True, targets=EVERYTHING),
    *(
        Case(f"gemma4 {layers}/{shared} window {window} pad {side}", "gemma4", layers, shared, window, side)
        for layers, shared in ((10, 5), (30, 18))
        for window, side in ((16, "right"), (512, "left"))
    ),
    Case("gemma4, plus one", "gemma4", plus_one=True, padding="left", targets=FAMILIES["gemma4_text"]),
)
CONTROLS = (
    Case("k_proj and v_proj of the plus-one layer", plus_one=True, targets=("k_proj", "v_proj")),
    Case("modality_router of the plus-one layer", plus_one=True, targets=("modality_router",)),
    Case("a layer below the cut", below=3),
    Case(
        "gemma4: k_proj and v_proj of the plus-one layer",
        "gemma4",
        plus_one=True,
        targets=("k_proj", "v_proj"),
    ),
)


@contextmanager
def fp64_all_the_way() -> Iterator[None]:
    """The library's norms and routers compute in `.float()`; rounding to fp32 there would hide a small error."""
    to_float = Tensor.float
    Tensor.float = lambda t, *a: t if t.dtype == torch.float64 else to_float(t, *a)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.float = to_float  # type: ignore[method-assign]


def small_model(case: Case) -> Any:
    """A random fp64 model of the case's shape."""
    kinds = ["full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(case.layers)]
    common: dict[str, Any] = {
        "vocab_size": 112,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": case.layers,
        "num_kv_shared_layers": case.shared,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "hidden_size_per_layer_input": 8,
        "sliding_window": case.window,
        "layer_types": kinds,
        "final_logit_softcapping": 30.0,
    }
    torch.manual_seed(len(case.name))
    if case.family == "gemma4":
        config = Gemma4TextConfig(**common, global_head_dim=16)
        model = Gemma4ForCausalLM(config)
    else:
        sparsity = [0.95] * (case.layers // 3) + [0.0] * (case.layers - case.layers // 3)
        text = Gemma3nTextConfig(**common, laurel_rank=8, activation_sparsity_pattern=sparsity)
        if not case.images:
            model = Gemma3nForCausalLM(text)
        else:
            model = Gemma3nForConditionalGeneration(
                Gemma3nConfig(
                    text_config=text,
                    vision_config=SmallVisionConfig(hidden_size=32, vocab_size=8, vocab_offset=96),
                    audio_config=Gemma3nAudioConfig(
                        vocab_size=8,
                        vocab_offset=104,
                        hidden_size=32,
                        conf_num_attention_heads=2,
                        conf_num_hidden_layers=1,
                    ),
                    vision_soft_tokens_per_image=IMAGE_TOKENS,
                    image_token_id=IMAGE,
                )
            )
    with torch.no_grad():  # a random start is nearly linear, and some of it zero: make every part matter
        for name, parameter in model.named_parameters():
            if not bool(parameter.any()):
                parameter.normal_(0.0, 0.5)
            elif parameter.dim() > 1 and "audio" not in name:
                parameter.mul_(6.0 if "embed" not in name else 1.0)
            # A fresh model's padding token is all zeros, where the library's sqrt has no gradient.
            if "embed_tokens" in name:
                parameter[0] = parameter[1]
    for part in (model.config, decoder_of(model).config):
        part._attn_implementation = "sdpa"  # eager with padding gives NaN in fp64
    return model.double().eval()


def with_lora(model: Any, case: Case) -> Any:
    """PEFT LoRA with random A and B: with B = 0 half of the gradients would be zero."""
    first = decoder_of(model, plus_one=case.plus_one).first
    layers = [case.below] if case.below is not None else list(range(first, case.layers))
    wanted = [
        name
        for name, _ in model.named_modules()
        if name.rsplit(".", 1)[-1] in case.targets
        and any(f".layers.{i}." in name for i in layers)
        # AltUp's router feeds keys and values where the layer has some of its own.
        and not (
            "modality_router" in name and f".layers.{first}." in name and case in CASES and case.plus_one
        )
    ]
    wrapped = get_peft_model(model, LoraConfig(r=3, lora_alpha=5, target_modules=wanted, **case.lora))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return wrapped


def batches(case: Case) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of four ragged samples, padded on the case's side; labels with `IGNORED` where none is."""
    generator = torch.Generator().manual_seed(2)
    lengths = (LENGTH, 33, 40, 26)
    ids = torch.randint(3, 90, (4, LENGTH), generator=generator)
    labels = torch.full_like(ids, IGNORED)
    attention = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        start = 0 if case.padding == "right" else LENGTH - length
        attention[row, start : start + length] = 1
        ids[row, :start], ids[row, start + length :] = 0, 0
        if case.images:
            ids[row, start + 2 : start + 2 + IMAGE_TOKENS] = IMAGE
        # Answers of different lengths; one sample answers in two places.
        answer = slice(start + length - 2 - row, start + length)
        labels[row, answer] = ids[row, answer]
        if row == 1:
            labels[row, start + 21] = ids[row, start + 21]
    inputs = {"input_ids": ids, "attention_mask": attention}
    if case.images:
        inputs["pixel_values"] = torch.randn(4, 3, 32, 32, generator=generator, dtype=torch.float64)
    return inputs, labels


def gradients(model: Any) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def whole(model: Any, inputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """(a) transformers' forward, full logits, PEFT's backward."""
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    wanted = labels[:, 1:]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED).backward()
    return gradients(model)


def suffix(model: Any, case: Case, inputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """(b) one pass below the cut, samples apart, together again in another order, the layers above."""
    decoder = decoder_of(model, plus_one=case.plus_one)
    answers = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    with torch.no_grad():
        bottom = capture(decoder, lambda: model(**inputs, use_cache=False))
        kept = keep(
            decoder,
            bottom,
            [(row != IGNORED).nonzero().flatten() for row in answers],
            inputs["attention_mask"],
        )
    order = [2, 0, 3, 1]
    batch = collate([kept[i] for i in order])
    padded = torch.full(batch.index.shape, IGNORED)
    for place, i in enumerate(order):
        own = answers[i][answers[i] != IGNORED]
        padded[place, : len(own)] = own
    hidden = run_suffix(decoder, batch)
    if hidden.requires_grad:  # a control may train nothing that a step runs
        head = PlainRows(decoder.lm_head.weight)
        head_loss(hidden, padded, head, soft_cap=decoder.soft_cap, chunk=40).backward()
    return gradients(model)


def relative_error(case: Case) -> float:
    """Largest relative L2 error of any LoRA tensor's gradient; 1.0 for one that gets none at all."""
    model = with_lora(small_model(case), case)
    inputs, labels = batches(case)
    right, ours = whole(model, inputs, labels), suffix(model, case, inputs, labels)
    if not right or any(not bool(g.abs().max() > 0) for g in right.values()):
        raise RuntimeError(f"{case.name}: PEFT itself gives no gradient: nothing is compared")
    errors = [float((ours[n] - g).norm() / g.norm()) if n in ours else 1.0 for n, g in right.items()]
    return max(errors)


def measure() -> dict[str, Any]:
    """All cases and controls."""
    with fp64_all_the_way(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = track((*CASES, *CONTROLS), description="comparing", console=Console(stderr=True))
        found = {case.name: relative_error(case) for case in both}
        errors = {case.name: found[case.name] for case in CASES}
        controls = {case.name: found[case.name] for case in CONTROLS}
    return {
        "max_rel_error": max(errors.values()),
        "cases": len(errors),
        "controls_failed": sum(error > CONTROL for error in controls.values()),
        "controls": len(controls),
        "goal": GOAL,
        "case_errors": errors,
        "control_errors": controls,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    as_json = parser.parse_args().json
    result = measure()
    if as_json:
        print(json.dumps(result))
    else:
        for name, error in result["case_errors"].items():
            print(f"{error:9.1e}  {name}")
        for name, error in result["control_errors"].items():
            print(f"{error:9.1e}  control, must fail: {name}")
        print(
            f"largest relative error of {result['cases']} cases {result['max_rel_error']:.1e} (goal {GOAL:g}); "
            f"{result['controls_failed']} of {result['controls']} negative controls failed as they must"
        )
    good = result["max_rel_error"] <= GOAL and result["controls_failed"] == result["controls"]
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
