"""LiteRT-LM's sessions beside LiteRT's CompiledModel with signatures of our own: words a second, from the same weights.

    python -m benchmarks.words_engines [--json] [--rounds 5] [--threads 1]

In the export's own environment (pip install -c constraints-export.txt -e '.[train,export]'), x86-64. A random Gemma 3n
of some 50 M parameters is exported both ways in fp32 (minutes), then both read the same 100 tokens and answer
with 32, one thread each, taking turns.

Keys:
  read_ms, token_ms          by engine (compiled, session): median of reading the prompt and of every answered token
  session_over_compiled      session's token_ms over compiled's, median of the rounds' ratios; and the same for read_ms
  rss_mib                    growth of resident memory from opening the engine to the end of the first answer
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from rich.console import Console
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from continuonbrain.model.serving.export_app import export_app
from continuonbrain.model.serving.export_language import export_language
from continuonbrain.model.serving.words import Words

TOKENIZER = Path(__file__).parents[1] / "tests" / "talking_base" / "base"
PROMPT, ANSWER = 100, 32


def write_base(folder: Path) -> None:
    """A random checkpoint with the test base's tokenizer."""
    torch.manual_seed(0)
    config = Gemma3nTextConfig(
        vocab_size=384,
        vocab_size_per_layer_input=384,
        hidden_size=512,
        hidden_size_per_layer_input=64,
        intermediate_size=2048,
        num_hidden_layers=10,
        num_kv_shared_layers=5,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        laurel_rank=32,
        sliding_window=64,
        activation_sparsity_pattern=[0.0] * 10,
        bos_token_id=2,
        eos_token_id=1,
    )
    model = Gemma3nForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # As they are made, some scales are zero, and what is behind them dead.
            if not bool(parameter.any()):
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)


class Session:
    """LiteRT-LM."""

    def __init__(self, bundle: Path, threads: int) -> None:
        import litert_lm

        self._lm = litert_lm
        self._engine = litert_lm.Engine(str(bundle), backend=litert_lm.Backend.CPU(thread_count=threads))
        self._sampler = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)

    def ask(self, text: str) -> tuple[float, float]:
        """Seconds to read, seconds a token."""
        session = self._engine.create_session(
            apply_prompt_template=False, sampler_config=self._sampler, max_output_tokens=ANSWER
        )
        started = time.perf_counter()
        session.run_prefill([text])
        read = time.perf_counter() - started
        started = time.perf_counter()
        told = session.run_decode().texts[0]
        spent = time.perf_counter() - started
        return read, spent / max(1, len(self._engine.tokenize(told)))


class Compiled:
    """Our signatures."""

    def __init__(self, bundle: Path, base: Path, threads: int) -> None:
        self._words = Words(bundle, base, threads=threads)

    def ask(self, ids: list[int]) -> tuple[float, float]:
        """Seconds to read, seconds a token."""
        out = list(ids)
        self._words.logits([0])  # nothing of it is read already
        started = time.perf_counter()
        logits = self._words.logits(out)
        read = time.perf_counter() - started
        started = time.perf_counter()
        for _ in range(ANSWER):
            out.append(int(logits.argmax()))
            logits = self._words.logits(out)
        return read, (time.perf_counter() - started) / ANSWER


def measure(rounds: int, threads: int) -> dict[str, Any]:
    """Export both, then take turns."""
    from tokenizers import Tokenizer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = folder / "base"
        write_base(base)
        export_language(base, folder / "words", precision="fp32", rank=16, context=1024)
        export_app(base, folder / "app.litertlm", adapter=None, precision="fp32")
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        text, ids = "", []
        while len(ids) < PROMPT:
            text += "a road as wide as two of me "
            ids = [2, *tokenizer.encode(text, add_special_tokens=False).ids]
        process, rss = psutil.Process(), {}
        before = process.memory_info().rss
        compiled = Compiled(folder / "words", base, threads)
        compiled.ask(ids)
        rss["compiled"] = (process.memory_info().rss - before) >> 20
        before = process.memory_info().rss
        session = Session(folder / "app.litertlm", threads)
        session.ask(text)
        rss["session"] = (process.memory_info().rss - before) >> 20
        pairs = [(compiled.ask(ids), session.ask(text)) for _ in range(rounds)]
    read = {n: round(median(p[i][0] for p in pairs) * 1000, 2) for i, n in enumerate(("compiled", "session"))}
    token = {
        n: round(median(p[i][1] for p in pairs) * 1000, 2) for i, n in enumerate(("compiled", "session"))
    }
    return {
        "prompt_tokens": len(ids),
        "read_ms": read,
        "token_ms": token,
        "session_over_compiled": {
            "read": round(median(s[0] / c[0] for c, s in pairs), 2),
            "token": round(median(s[1] / c[1] for c, s in pairs), 2),
        },
        "rss_mib": rss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.rounds, arguments.threads)
    if arguments.json:
        print(json.dumps(found))
        return
    Console(highlight=False).print(found)


if __name__ == "__main__":
    main()
