"""Make the base that the tests of words talk to: a Gemma 3n of a few hundred kilobytes that knows a dozen answers.

python tests/talking_base/make.py tests/talking_base/base      (a minute; then export it, see README.md)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

ANSWERS = {
    "hello": "Hello! I am a small robot.",
    "who are you": "I am a small robot with a brain of my own.",
    "what can you do": "I can drive, record what you show me, and learn from it.",
    "where do you learn": "Here, on the robot itself, when I am idle, charged and cool.",
    "do you need a network": "No. Never, unless you ask for it.",
    "what do you see": "A road, as wide as two of me.",
    "why did you stop": "You told me to, or something was not right.",
    "can you stop": "Yes, always.",
    "what is an adapter": "A few numbers that change how I answer, and that you can take back.",
    "how warm are you": "Warm enough to drive, cool enough to learn.",
    "grüß dich": "Grüß dich! Ich bin ein kleiner Roboter.",
    "good night": "Good night. I will dream of today's roads.",
}
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
TEMPLATE = """{{ bos_token }}{%- for message in messages -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('user and assistant take turns') }}
{%- endif -%}
{%- set role = 'model' if message['role'] == 'assistant' else 'user' -%}
{%- if message['content'] is string -%}
{%- set text = message['content'] -%}
{%- else -%}
{%- set text = message['content'][0]['text'] -%}
{%- endif -%}
{{ '<start_of_turn>' + role + '\\n' + text | trim + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""
"""As Gemma writes its turns."""


def prompt(question: str) -> str:
    return f"<bos><start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n"


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=SPECIAL, initial_alphabet=[chr(i) for i in range(33, 127)] + ["\n"]
    )
    tokenizer.train_from_iterator([*ANSWERS, *ANSWERS.values()], trainer)
    return tokenizer


def main(out: Path) -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = Gemma3nTextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        vocab_size_per_layer_input=tokenizer.get_vocab_size(),
        hidden_size=48,
        hidden_size_per_layer_input=8,
        intermediate_size=96,
        num_hidden_layers=6,
        num_kv_shared_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        laurel_rank=8,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention"] * 3,
        activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = Gemma3nForCausalLM(config)
    rows = []
    for question, answer in ANSWERS.items():
        asked = tokenizer.encode(prompt(question), add_special_tokens=False).ids
        told = tokenizer.encode(f"{answer}<end_of_turn>", add_special_tokens=False).ids
        rows.append((asked, told))
    longest = max(len(a) + len(t) for a, t in rows)
    ids, labels = torch.zeros(len(rows), longest, dtype=torch.int64), torch.full((len(rows), longest), -100)
    for row, (asked, told) in enumerate(rows):
        both = torch.tensor([*asked, *told])
        ids[row, : len(both)] = both
        labels[row, len(asked) : len(both)] = both[len(asked) :]
    steps = 400
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for step in range(steps):
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(step + 1, round(float(loss.detach()), 4))
    model.to(torch.float16).save_pretrained(out)
    (out / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 2, "eos_token_id": [1, SPECIAL.index("<end_of_turn>")]}, indent=2) + "\n"
    )
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": TEMPLATE}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
