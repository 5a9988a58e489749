"""A conversation in words, on any `WordsEngine`. No torch.

The prompt is made by the base's own chat template (Jinja, `chat_template.jinja` or in `tokenizer_config.json`, as
transformers keeps it), run in Jinja's sandbox. What a person says is text: a "<end_of_turn>" in it does not end a turn.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from continuonbrain.errors import BrainError
from continuonbrain.policy.words_engine import WordsEngine

_TOP = 64
"""Tokens among which a temperature chooses; what Gemma's own settings say."""


class ChatError(BrainError):
    """A conversation cannot be answered."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing that was said."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is chosen. temperature 0: always the likeliest token."""

    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


class ChatPrompt:
    """Token ids of conversations for the base in a folder.

    Raises:
        ChatError: the base has no tokenizer or no chat template.
    """

    def __init__(self, base: Path) -> None:
        path = base / "tokenizer.json"
        try:
            # tokenizers raises plain Exception for a file that it cannot read.
            self._special, self.tokenizer = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(path))
        except Exception as error:
            raise ChatError(f"{path} cannot be used: {error}", remedy="copy the base again, whole") from error
        self.tokenizer.encode_special_tokens = True
        settings = _settings(base)
        self._names = {name: _text_of(settings.get(name)) for name in ("bos_token", "eos_token")}
        self._template = _template(base, settings)

    def ids(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a conversation that the base is to answer. `ChatError` when the template refuses it."""
        from jinja2 import TemplateError

        for turn in turns:
            try:
                turn.text.encode()
            except UnicodeEncodeError as error:
                raise ChatError("what was said is not Unicode text", remedy="send it as UTF-8") from error
        marks = [f"turn-{secrets.token_hex(16)}" for _ in turns]
        messages = [{"role": t.role, "content": mark} for t, mark in zip(turns, marks, strict=True)]
        try:
            text = self._template.render(messages=messages, add_generation_prompt=True, **self._names)
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise ChatError(
                f"the base's chat template refuses this conversation: {error}",
                remedy="begin with the user, and let user and assistant take turns",
            ) from error
        if any(text.count(mark) != 1 for mark in marks):
            raise ChatError(
                "the base's chat template changes what was said, or leaves it out",
                remedy="begin with the user, and let user and assistant take turns; or copy the base again",
            )
        out: list[int] = []
        said = dict(zip(marks, (t.text.strip() for t in turns), strict=True))
        for piece in re.split("(" + "|".join(marks) + ")", text):
            tokenizer = self.tokenizer if piece in said else self._special
            out += tokenizer.encode(said.get(piece, piece), add_special_tokens=False).ids
        return out


class Chat:
    """Answers of an engine, piece by piece."""

    def __init__(self, engine: WordsEngine, prompt: ChatPrompt) -> None:
        self.engine, self._prompt = engine, prompt

    def answer(self, turns: Sequence[Turn], sampling: Sampling | None = None) -> Iterator[str]:
        """Pieces of the answer as they come; it ends where the base ends it, at `max_tokens`, or at the context's end.

        Raises:
            ChatError: nothing was said, the last turn is not the user's, or the conversation fills the context.
        """
        asked = sampling or Sampling()
        if not turns or turns[-1].role != "user" or not turns[-1].text.strip():
            raise ChatError("there is nothing to answer", remedy="say something as the user")
        ids = self._prompt.ids(turns)
        if len(ids) >= self.engine.context:
            raise ChatError(
                f"the conversation is {len(ids)} tokens long; this base holds {self.engine.context}",
                remedy="begin a new one, or say less",
            )
        return self._pieces(ids, asked)

    def _pieces(self, ids: list[int], asked: Sampling) -> Iterator[str]:
        generator = np.random.default_rng(asked.seed)
        stream = DecodeStream(skip_special_tokens=True)
        for _ in range(min(asked.max_tokens, self.engine.context - len(ids))):
            token = choose(self.engine.logits(ids), asked.temperature, generator)
            if token in self.engine.end:
                return
            ids.append(token)
            try:
                piece = stream.step(self._prompt.tokenizer, token)
            except (
                Exception
            ):  # tokenizers' own, when bytes of a character that never came are followed by a word
                stream = DecodeStream(skip_special_tokens=True)
                piece = stream.step(self._prompt.tokenizer, token)
            if piece:
                yield piece


def choose(logits: NDArray[np.float32], temperature: float, generator: np.random.Generator) -> int:
    """The likeliest token, or one of the likeliest drawn at a temperature."""
    if temperature <= 0.0:
        return int(logits.argmax())
    top = np.argsort(logits)[-_TOP:]
    weights = np.exp((logits[top] - logits[top[-1]]).astype(np.float64) / temperature)
    return int(generator.choice(top, p=weights / weights.sum()))


def _settings(base: Path) -> dict[str, Any]:
    path = base / "tokenizer_config.json"
    try:
        settings = json.loads(path.read_bytes()) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise ChatError(f"{path} cannot be used: {error}", remedy="copy the base again, whole") from error
    return settings if isinstance(settings, dict) else {}


def _text_of(token: object) -> str:
    """A special token, written as text or as an object with its text."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _template(base: Path, settings: dict[str, Any]) -> Any:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    file = base / "chat_template.jinja"
    try:
        text = file.read_text() if file.exists() else settings.get("chat_template")
        if not isinstance(text, str):
            raise ChatError(
                f"{base} has no chat template: this base was built to drive, not to talk",
                remedy="talk to a Gemma 3n folder (chat_template.jinja, or chat_template in tokenizer_config.json)",
            )
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        return environment.from_string(text)
    except (OSError, UnicodeDecodeError, TemplateError) as error:
        raise ChatError(
            f"the chat template of {base} cannot be used: {error}", remedy="copy it again"
        ) from error


def _refuse(message: str) -> None:
    raise ValueError(message)
