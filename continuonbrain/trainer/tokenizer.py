"""Builds the tiny base's tokenizer: byte-level-safe BPE over driving instructions, plus the action vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from continuonbrain.policy.prompt import action_vocabulary

_MERGES = 120


def build_tokenizer(phrases: Iterable[str]) -> Tokenizer:
    """A `tokenizers.Tokenizer` with byte fallback (any text encodes), trained on the phrases, seedless."""
    reserved = action_vocabulary()
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    # Merges never cross a space, so that a new order of known words is still made of known tokens.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["\u2581"]
    corpus = list(phrases) * 8
    # BpeTrainer numbers special tokens first, in order; then the alphabet, then merges.
    trainer = trainers.BpeTrainer(
        vocab_size=len(reserved) + len(alphabet) + _MERGES,
        special_tokens=reserved,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    while len(vocabulary) % 64:
        vocabulary.setdefault(f"<unused_{len(vocabulary)}>", len(vocabulary))
    return Tokenizer.from_str(json.dumps(state))
