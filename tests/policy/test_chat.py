"""A conversation: what it answers, how the answer comes and where it ends, and what cannot be answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
pytest.importorskip("torch")

from continuonbrain.policy.chat import Chat, ChatError, ChatPrompt, Sampling, Turn, choose
from continuonbrain.policy.litert_words import LiteRTWords
from continuonbrain.policy.torch_words import TorchWords
from continuonbrain.policy.words_engine import WordsEngine
from tests.policy.talking_words import BASE, BUNDLE


@pytest.fixture(params=["torch", "litert fp32", "litert int8"])
def engine(request: pytest.FixtureRequest) -> WordsEngine:
    if request.param == "torch":
        return TorchWords(BASE)
    return LiteRTWords(BASE, BASE / "language" / str(request.param).split()[1])


def said(engine: WordsEngine, *texts: str, **sampling: Any) -> str:
    roles = ("user", "assistant")
    turns = [Turn(roles[i % 2], text) for i, text in enumerate(texts)]  # type: ignore[arg-type]
    return "".join(Chat(engine, ChatPrompt(BASE)).answer(turns, Sampling(**sampling)))


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("hello", "Hello! I am a small robot."),
        ("  do you need a network\n", "No. Never, unless you ask for it."),
        ("grüß dich", "Grüß dich! Ich bin ein kleiner Roboter."),
    ],
)
def test_it_answers_what_it_was_taught(engine: WordsEngine, asked: str, answer: str) -> None:
    assert said(engine, asked) == answer


def test_the_answer_comes_in_pieces_and_ends_where_it_is_told_to(litert: LiteRTWords) -> None:
    chat = Chat(litert, ChatPrompt(BASE))
    pieces = list(chat.answer([Turn("user", "hello")]))
    assert len(pieces) > 5
    assert "".join(pieces) == "Hello! I am a small robot."
    assert "".join(chat.answer([Turn("user", "hello")], Sampling(max_tokens=3))) == "".join(pieces[:3])
    # The context is 128 tokens: an answer that never ends, ends there.
    ids = chat._prompt.ids([Turn("user", "hello")])
    litert_end, type(litert).end = type(litert).end, property(lambda _self: ())  # type: ignore[assignment]
    try:
        endless = list(chat.answer([Turn("user", "hello")], Sampling(max_tokens=10_000)))
    finally:
        type(litert).end = litert_end  # type: ignore[assignment]
    assert len(endless) <= litert.context - len(ids)
    assert len(endless) > 50


def test_a_temperature_draws_from_the_likeliest_and_repeats_with_its_seed(litert: LiteRTWords) -> None:
    once = said(litert, "hello", temperature=2.0, seed=3, max_tokens=20)
    assert once == said(litert, "hello", temperature=2.0, seed=3, max_tokens=20)
    assert once != said(litert, "hello", temperature=2.0, seed=4, max_tokens=20)
    generator = np.random.default_rng(0)
    logits = np.full(200, -9.0, np.float32)
    logits[:2] = 0.0, np.log(3)
    drawn = np.bincount([choose(logits, 1.0, generator) for _ in range(2000)], minlength=2)
    assert 0.7 < drawn[1] / 2000 < 0.8


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([], "nothing to answer"),
        ([Turn("user", " ")], "nothing to answer"),
        ([Turn("user", "hello"), Turn("assistant", "Hello!")], "nothing to answer"),
        ([Turn("user", "hello"), Turn("user", "hello")], "take turns"),
        ([Turn("user", "hello " * 200)], "tokens long; this base holds 128"),
        ([Turn("user", "hello \udcff")], "not Unicode text"),
    ],
)
def test_a_conversation_that_cannot_be_answered_is_refused_at_once(
    litert: LiteRTWords, turns: list[Turn], words: str
) -> None:
    with pytest.raises(ChatError, match=words):
        Chat(litert, ChatPrompt(BASE)).answer(turns)


def test_bytes_of_a_character_that_never_came_do_not_end_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`DecodeStream` raises a plain Exception then."""
    from continuonbrain.policy import chat as module

    made = 0

    class Stream:
        def __init__(self, **_: object) -> None:
            nonlocal made
            made += 1
            self.steps = 0

        def step(self, _tokenizer: object, token: int) -> str:
            self.steps += 1
            if made == 1 and self.steps == 3:
                raise Exception("Invalid prefix encountered")
            return f"<{token}>"

    monkeypatch.setattr(module, "DecodeStream", Stream)
    talk = Chat(LiteRTWords(BASE, BUNDLE), ChatPrompt(BASE))
    pieces = list(talk.answer([Turn("user", "hello")], Sampling(max_tokens=6)))
    assert len(pieces) == 6
    assert made == 2
