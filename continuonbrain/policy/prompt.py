"""Prompt layout: instruction and state as tokens, the image's place, the questions.

    <bos> instruction (12 slots, <pad> to the right) <state_..> <image> x 20 <curvature_at_0.0m> .. <speed_in_1.5s>

The instruction is ordinary text, tokenised by the base's own tokenizer file. The state token is the measured
speed in steps of 0.1 m/s, or `<state_unknown>` on a robot that does not measure it. The length is fixed, so
prompts batch without masks; LAYOUT_VERSION names the layout wherever something computed from it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from continuonbrain.errors import BrainError
from continuonbrain.policy import codec

LAYOUT_VERSION = 1
TEXT_SLOTS = 12
IMAGE_SLOTS = 20
STATE_STEP_MPS = 0.1
STATE_LEVELS = 22
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>", "<state_unknown>")


class InstructionError(BrainError):
    """The instruction cannot be put into a prompt."""


def action_vocabulary() -> list[str]:
    """Every token that is not text, in the order in which the tokenizer numbers them."""
    states = [f"<state_{i}>" for i in range(STATE_LEVELS)]
    return [*SPECIAL, *states, *codec.query_tokens(), *codec.curvature_tokens(), *codec.speed_tokens()]


class PromptLayout:
    """Prompts for one tokenizer. length: tokens of every prompt."""

    length = 1 + TEXT_SLOTS + 1 + IMAGE_SLOTS + codec.QUERIES

    def __init__(self, tokenizer: Tokenizer) -> None:
        # What a person says is text: "<image>" in an instruction must not become the image's own token.
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self.vocabulary = tokenizer.get_vocab_size()
        self.pad, self.bos = self._id("<pad>"), self._id("<bos>")
        self.image_token = self._id("<image>")
        self.state_unknown, self.state_first = self._id("<state_unknown>"), self._id("<state_0>")
        self.curvature_first = self._id("<curvature_0>")
        self.speed_first = self._id("<speed_0>")
        self._queries = [self._id(t) for t in codec.query_tokens()]
        self._text = lru_cache(maxsize=256)(self._encode_text)

    @classmethod
    def from_folder(cls, base: Path) -> PromptLayout:
        """The layout for a base folder's `tokenizer.json`."""
        return cls(Tokenizer.from_file(str(base / "tokenizer.json")))

    def _id(self, token: str) -> int:
        found: int | None = self.tokenizer.token_to_id(token)
        if found is None:
            raise BrainError(
                f"the tokenizer lacks the token {token}",
                remedy="use a base that was built for driving (model build-tiny)",
            )
        return found

    def _encode_text(self, instruction: str) -> tuple[int, ...]:
        text = " ".join(instruction.lower().split())
        if not text:
            raise InstructionError("the instruction is empty", remedy="say what to do, for example 'drive'")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InstructionError(
                f"the instruction {instruction!r} is not Unicode text", remedy="send it as UTF-8"
            ) from error
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) > TEXT_SLOTS:
            raise InstructionError(
                f"the instruction {instruction!r} is {len(ids)} tokens long; this base reads {TEXT_SLOTS}",
                remedy="say it shorter",
            )
        return (*ids, *([self.pad] * (TEXT_SLOTS - len(ids))))

    def ids(self, instructions: Sequence[str], speeds_mps: Sequence[float | None]) -> NDArray[np.int64]:
        """Token ids `[B, length]`. `InstructionError` for an empty or too long instruction."""
        out = np.empty((len(instructions), self.length), np.int64)
        out[:, 0] = self.bos
        out[:, 2 + TEXT_SLOTS : 2 + TEXT_SLOTS + IMAGE_SLOTS] = self.image_token
        out[:, -codec.QUERIES :] = self._queries
        for row, (text, speed) in enumerate(zip(instructions, speeds_mps, strict=True)):
            out[row, 1 : 1 + TEXT_SLOTS] = self._text(text)
            out[row, 1 + TEXT_SLOTS] = self._state(speed)
        return out

    def _state(self, speed: float | None) -> int:
        if speed is None or not np.isfinite(speed):
            return self.state_unknown
        return self.state_first + round(min(max(speed / STATE_STEP_MPS, 0.0), STATE_LEVELS - 1.0))
