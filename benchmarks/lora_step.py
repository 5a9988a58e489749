"""One LoRA training step at the size of Gemma 3n E2B: the cached suffix beside plain PEFT.

    python -m benchmarks.lora_step --shapes e2b --batch 8 --tokens 128 [--json]

Both train the same adapters (rank 8, the same modules of the KV-shared layers) on the same prompts with
`--supervised` answer tokens a sample, forward and backward, in bf16; PEFT computes logits at the supervised
positions only. The two take turns in one process, so that whatever else the machine does falls on both.

Keys: speedup_vs_peft (median of the ratios of neighbouring turns), suffix_s_per_sample, peft_s_per_sample (medians),
fraction_of_gemm_peak (arithmetic of the frozen projections in a suffix step over the time, against the machine's own
best bf16 matrix product, measured between the turns), fraction_of_roofline (the same against what the machine could
do at best: a step with few rows reads its weights from memory, and where the CPU has matrix units that takes longer
than the arithmetic), peak_rss_mib (of a process that ran suffix steps alone, on
the trained layers and the head; the comparison itself needs the whole model). Needs 14 GiB and two minutes for e2b.
Do not set OMP_WAIT_POLICY=passive here: waking threads costs a suffix step a third of its time.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from benchmarks.e2b_shapes import SHAPES, fill, random_causal_lm, text_config
from continuonbrain.model.decoder import Decoder, decoder_of
from continuonbrain.model.frozen_linear import FrozenLinear
from continuonbrain.model.head_loss import IGNORED, PlainRows, head_loss
from continuonbrain.model.packed_weight import PackedWeight, can_pack
from continuonbrain.model.streams import Streams, collate
from continuonbrain.model.suffix import capture, keep, run_suffix
from continuonbrain.trainer.steps import peak_rss_mib

TARGETS = ["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK = 8


def seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def gemm_peak_flops() -> float:
    """The best of a few large bf16 products, in floating-point operations a second."""
    n = 2048
    a, b = torch.randn(n, n).bfloat16(), torch.randn(n, n).bfloat16()
    return 2 * n**3 / min(seconds(lambda: a @ b) for _ in range(5))


def memory_bandwidth() -> float:
    """Bytes a second at which a product with few rows can read weights that no cache holds."""
    weights = [torch.randn(8192, 2048).bfloat16() for _ in range(24)]
    total = sum(w.nbytes for w in weights)
    x = torch.randn(4, 2048).bfloat16()
    if can_pack(torch.bfloat16):
        packed = [PackedWeight(w) for w in weights]
        return total / min(seconds(lambda: [p.ahead(x) for p in packed]) for _ in range(5))
    return total / min(seconds(lambda: [w @ x.T for w in weights]) for _ in range(5))


def step_flops(decoder: Decoder, positions: int) -> float:
    """Multiplications and additions of a step's frozen projections: forward, and backward to the inputs."""
    weights = sum(
        p.numel()
        for i in decoder.layers
        for n, p in decoder.text.layers[i].named_parameters()
        if p.dim() == 2 and "lora_" not in n and "k_proj" not in n and "v_proj" not in n
    )
    weights += sum(p.numel() for p in decoder.text.altup_unembed_projections.parameters())
    head = decoder.lm_head.weight.numel()
    return 2.0 * positions * 2 * (weights + head)


def step_bytes(decoder: Decoder, positions: int) -> float:
    """What a step has to read at least: each layer's projections twice, the output projection once."""
    head = decoder.lm_head.weight.numel()
    layers = step_flops(decoder, positions) / (4.0 * positions) - head
    return 2.0 * (2 * layers + head)


def suffix_step(
    decoder: Decoder, batch: Streams, labels: torch.Tensor, head: Any, parameters: list[Any]
) -> None:
    head_loss(run_suffix(decoder, batch), labels, head, soft_cap=decoder.soft_cap).backward()
    for parameter in parameters:
        parameter.grad = None


def prompts(vocabulary: int, batch: int, tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, vocabulary, (batch, tokens), generator=generator)


def suffix_alone(
    shapes: str, batch: int, tokens: int, supervised: int, packed: bool, steps: int
) -> dict[str, float]:
    """Steps on made-up streams, with nothing in memory but what training needs: its peak memory."""
    full = text_config(shapes)
    shared = full.num_kv_shared_layers
    # A model of which only the shared layers are real: what lies below is of the smallest size.
    config = text_config(shapes, vocab_size_per_layer_input=16)
    model = random_top(config)
    decoder = decoder_of(model)
    freeze_as_trained(decoder, packed=packed)
    parameters = add_lora(model, decoder)
    kv_shape = (batch, config.num_key_value_heads, tokens, config.head_dim)
    made = Streams(
        torch.randn(config.altup_num_inputs, batch, supervised, config.hidden_size).bfloat16(),
        torch.randn(batch, supervised, shared, config.hidden_size_per_layer_input).bfloat16(),
        {
            t: (torch.randn(kv_shape).bfloat16(), torch.randn(kv_shape).bfloat16())
            for t in decoder.layer_types
        },
        {t: torch.zeros(batch, dtype=torch.int64) for t in decoder.layer_types},
        torch.arange(tokens - supervised, tokens).expand(batch, -1),
        torch.arange(tokens - supervised, tokens).expand(batch, -1),
    )
    labels = prompts(config.vocab_size, batch, supervised)
    head = PlainRows(decoder.lm_head.weight, packed=packed)
    times = [seconds(lambda: suffix_step(decoder, made, labels, head, parameters)) for _ in range(steps)]
    return {
        "suffix_s_per_sample": statistics.median(times[1:] or times) / batch,
        "peak_rss_mib": peak_rss_mib(),
    }


def random_top(config: Any) -> Any:
    """A causal model with random weights above the cut and none below."""
    from accelerate import init_empty_weights
    from transformers import Gemma3nForCausalLM

    with init_empty_weights(include_buffers=False):
        model = Gemma3nForCausalLM(config)
    decoder = decoder_of(model)
    generator = torch.Generator().manual_seed(0)
    above = [decoder.text.layers[i] for i in decoder.layers]
    above += [decoder.text.altup_unembed_projections, decoder.text.norm, decoder.lm_head]
    for part in above:
        fill(part, generator)
    return model.eval()


def freeze_as_trained(decoder: Decoder, *, packed: bool) -> None:
    """The trained layers' projections as `load_top` makes them (for many rows they are torch's own)."""
    text = decoder.text
    for part in [*(text.layers[i] for i in decoder.layers), text.altup_unembed_projections]:
        for parent in list(part.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.Linear) and "coefs" not in name:
                    weight = child.weight.detach()
                    copy = PackedWeight(weight) if packed else None
                    setattr(parent, name, FrozenLinear(weight, packed=copy))


def contiguous_head(decoder: Decoder) -> None:
    """PEFT at its best: a strided slice of hidden states would make torch copy the output projection."""
    decoder.lm_head.register_forward_pre_hook(lambda _, args: (args[0].flatten(0, -2).contiguous(),))


def add_lora(model: Any, decoder: Decoder) -> list[Any]:
    lora = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=TARGETS,
        layers_to_transform=list(decoder.layers),
        layers_pattern="layers",
    )
    wrapped = get_peft_model(model, lora)
    return [p for p in wrapped.parameters() if p.requires_grad]


def compare(
    shapes: str, batch: int, tokens: int, supervised: int, packed: bool, rounds: int
) -> dict[str, Any]:
    """Both ways, in turns."""
    # Token ids below 4,096 only: the tables of per-layer embeddings are looked up, not multiplied.
    model = random_causal_lm(text_config(shapes, vocab_size_per_layer_input=4096))
    decoder = decoder_of(model)
    freeze_as_trained(decoder, packed=packed)
    parameters = add_lora(model, decoder)
    ids = prompts(4096, batch, tokens)
    answers = torch.full_like(ids, IGNORED)
    answers[:, -supervised - 1 : -1] = ids[:, -supervised:]
    labels = answers[:, -supervised - 1 : -1]
    place = torch.arange(tokens - supervised - 1, tokens - 1)

    contiguous_head(decoder)

    def peft_step() -> None:
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=place).logits
        torch.nn.functional.cross_entropy(logits.float(), labels.flatten()).backward()
        for parameter in parameters:
            parameter.grad = None

    with torch.no_grad():
        bottom = capture(decoder, lambda: model(input_ids=ids, use_cache=False))
        streams = collate(keep(decoder, bottom, [place] * batch))
    del bottom
    gc.collect()
    head = PlainRows(decoder.lm_head.weight, packed=packed)

    def ours() -> None:
        suffix_step(decoder, streams, labels, head, parameters)

    ours(), ours(), peft_step()
    peaks, suffix_times, peft_times, ratios = [], [], [], []
    for _ in range(rounds):
        before = statistics.median(seconds(ours) for _ in range(3))
        whole = seconds(peft_step)
        after = statistics.median(seconds(ours) for _ in range(3))
        peaks.append(gemm_peak_flops())
        suffix_times += [before, after]
        peft_times.append(whole)
        ratios.append(whole / ((before + after) / 2))
    suffix_s = statistics.median(suffix_times)
    positions, peak, speed = batch * supervised, statistics.median(peaks), memory_bandwidth()
    flops = step_flops(decoder, positions)
    best_s = max(flops / peak, step_bytes(decoder, positions) / speed)
    return {
        "speedup_vs_peft": round(statistics.median(ratios), 2),
        "suffix_s_per_sample": suffix_s / batch,
        "peft_s_per_sample": statistics.median(peft_times) / batch,
        "fraction_of_gemm_peak": round(flops / suffix_s / peak, 3),
        "fraction_of_roofline": round(best_s / suffix_s, 3),
        "gemm_peak_gflops": round(peak / 1e9, 1),
        "memory_gb_per_s": round(speed / 1e9, 1),
        "ratios": [round(r, 2) for r in ratios],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="e2b")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--supervised", type=int, default=4, help="answer tokens of a sample")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--lean",
        action="store_true",
        help="without packed copies of the weights: a third of the memory, slower",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    case = (asked.shapes, asked.batch, asked.tokens, asked.supervised, not asked.lean)
    if asked.alone:
        print(json.dumps(suffix_alone(*case, 6)))
        return 0
    again = [sys.executable, "-m", "benchmarks.lora_step", "--alone", "--shapes", asked.shapes]
    again += ["--batch", str(asked.batch), "--tokens", str(asked.tokens)]
    again += ["--supervised", str(asked.supervised), "--threads", str(asked.threads)]
    again += ["--lean"] if asked.lean else []
    alone = json.loads(subprocess.run(again, capture_output=True, text=True, check=True).stdout)
    result = compare(*case, asked.rounds) | {"peak_rss_mib": round(alone["peak_rss_mib"])}
    result |= {"shapes": asked.shapes, "batch": asked.batch, "tokens": asked.tokens, "threads": asked.threads}
    if asked.json:
        print(json.dumps(result))
    else:
        print(
            f"{asked.shapes}, batch {asked.batch}, {asked.tokens} tokens, {asked.supervised} of them answers: "
            f"{result['suffix_s_per_sample']:.3f} s a sample, plain PEFT {result['peft_s_per_sample']:.3f} s "
            f"({result['speedup_vs_peft']} times); {result['fraction_of_gemm_peak']:.0%} of the machine's "
            f"{result['gemm_peak_gflops']:.0f} GFLOP/s; {result['peak_rss_mib']} MiB"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
