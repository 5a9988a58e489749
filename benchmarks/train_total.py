"""A whole training at the size of Gemma 3n E2B: epochs over the same samples, caching included, beside plain PEFT.

    python -m benchmarks.train_total --epochs 10 [--json]

The same samples, adapters (rank 8, KV-shared layers), batches and optimiser (AdamW) on both sides; the epochs of the
two take turns in one process. The cached side pays for one pass below the cut a sample, or for none when the policy
saved its streams while it was acting; it reads its streams from disk in every step, as the job does.

Keys: speedup_with_caching, speedup_saved_while_acting (PEFT's seconds over ours); peft_s, cache_s, suffix_s (all
epochs); loss_first, loss_last of both sides. Needs 12 GiB for e2b.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.e2b_shapes import SHAPES, random_causal_lm, text_config
from benchmarks.lora_step import add_lora, contiguous_head, freeze_as_trained, prompts, seconds
from continuonbrain.model.decoder import decoder_of
from continuonbrain.model.head_loss import PlainRows, head_loss
from continuonbrain.model.record_cache import identity
from continuonbrain.model.stream_store import StreamStore
from continuonbrain.model.streams import Streams, collate
from continuonbrain.model.suffix import capture, keep, run_suffix

_LEARNING_RATE = 1e-3


def measure(
    shapes: str, epochs: int, samples: int, batch: int, tokens: int, supervised: int, folder: Path
) -> dict[str, Any]:
    """Both trainings, epoch by epoch in turns, each from the same fresh adapter."""
    model = random_causal_lm(text_config(shapes, vocab_size_per_layer_input=4096))
    decoder = decoder_of(model)
    freeze_as_trained(decoder, packed=True)
    contiguous_head(decoder)
    parameters = add_lora(model, decoder)
    start = [p.detach().clone() for p in parameters]
    ids = prompts(4096, samples, tokens)
    place = torch.arange(tokens - supervised - 1, tokens - 1)
    labels = ids[:, place + 1]
    head = PlainRows(decoder.lm_head.weight, packed=True)
    store = StreamStore(folder, identity("benchmark"), max_bytes=1 << 32)

    def cache() -> None:
        with torch.no_grad():
            for first in range(0, samples, batch):
                rows = ids[first : first + batch]
                bottom = capture(decoder, lambda rows=rows: model(input_ids=rows, use_cache=False))  # type: ignore[misc]
                for number, kept in enumerate(keep(decoder, bottom, [place] * len(rows)), start=first):
                    store.put(str(number), kept)

    def streams(number: int) -> Streams:
        found = store.get(str(number))
        assert found is not None
        return found

    def suffix_loss(rows: range) -> torch.Tensor:
        hidden = run_suffix(decoder, collate([streams(i) for i in rows]))
        return head_loss(hidden, labels[rows.start : rows.stop], head, soft_cap=decoder.soft_cap)

    def whole_loss(rows: range) -> torch.Tensor:
        here = slice(rows.start, rows.stop)
        logits = model(input_ids=ids[here], use_cache=False, logits_to_keep=place).logits
        return torch.nn.functional.cross_entropy(logits.float(), labels[here].flatten())

    sides = {}
    for name, loss_of in (("suffix", suffix_loss), ("peft", whole_loss)):
        own = [torch.nn.Parameter(p.clone()) for p in start]
        sides[name] = (loss_of, own, torch.optim.AdamW(own, _LEARNING_RATE))
    losses: dict[str, list[float]] = {name: [] for name in sides}

    def epoch(name: str) -> None:
        loss_of, own, optimiser = sides[name]
        with torch.no_grad():
            for parameter, value in zip(parameters, own, strict=True):
                parameter.copy_(value)
        for first in range(0, samples, batch):
            loss = loss_of(range(first, min(first + batch, samples)))
            loss.backward()
            for parameter, value in zip(parameters, own, strict=True):
                value.grad, parameter.grad = parameter.grad, None
            optimiser.step()
            with torch.no_grad():
                for parameter, value in zip(parameters, own, strict=True):
                    parameter.copy_(value)
            losses[name].append(float(loss.detach()))

    cache_s = seconds(cache)
    suffix_times, peft_times = [], []
    for _ in range(epochs):
        suffix_times.append(seconds(lambda: epoch("suffix")))
        peft_times.append(seconds(lambda: epoch("peft")))
    # A machine that others use has epochs that say nothing: the median stands for all.
    suffix_s, peft_s = epochs * statistics.median(suffix_times), epochs * statistics.median(peft_times)
    return {
        "speedup_with_caching": round(peft_s / (cache_s + suffix_s), 2),
        "speedup_saved_while_acting": round(peft_s / suffix_s, 2),
        "peft_s": round(peft_s, 2),
        "cache_s": round(cache_s, 2),
        "suffix_s": round(suffix_s, 2),
        "loss_first": {name: round(values[0], 4) for name, values in losses.items()},
        "loss_last": {name: round(values[-1], 4) for name, values in losses.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="e2b")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--supervised", type=int, default=4, help="answer tokens of a sample")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    case = (asked.shapes, asked.epochs, asked.samples, asked.batch, asked.tokens, asked.supervised)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(*case, Path(folder))
    result |= {k: v for k, v in vars(asked).items() if k != "json"}
    if asked.json:
        print(json.dumps(result))
    else:
        print(
            f"{asked.epochs} epochs of {asked.samples} samples: PEFT {result['peft_s']} s; caching {result['cache_s']} "
            f"s + steps {result['suffix_s']} s: {result['speedup_with_caching']} times as fast, "
            f"{result['speedup_saved_while_acting']} times with a cache saved while acting"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
