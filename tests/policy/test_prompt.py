"""Claims about the prompt: fixed length, any text, and nothing that a person says is taken for a special token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.errors import BrainError
from continuonbrain.policy.codec import QUERIES, query_tokens
from continuonbrain.policy.prompt import (
    IMAGE_SLOTS,
    STATE_LEVELS,
    TEXT_SLOTS,
    InstructionError,
    PromptLayout,
    action_vocabulary,
)
from continuonbrain.robot.sim.instructions import BY_PHRASING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXT = slice(1, 1 + TEXT_SLOTS)
STATE = 1 + TEXT_SLOTS


def test_a_prompt_is_bos_text_state_image_questions(prompt_layout: PromptLayout) -> None:
    ids = prompt_layout.ids(["drive"], [0.84])[0]
    token = prompt_layout.tokenizer.id_to_token
    assert len(ids) == prompt_layout.length == 1 + TEXT_SLOTS + 1 + IMAGE_SLOTS + QUERIES
    assert token(int(ids[0])) == "<bos>"
    assert prompt_layout.tokenizer.decode(ids[TEXT].tolist()).split() == ["drive"]
    assert token(int(ids[STATE])) == "<state_8>"
    assert (ids[STATE + 1 : STATE + 1 + IMAGE_SLOTS] == prompt_layout.image_token).all()
    assert [token(int(i)) for i in ids[-QUERIES:]] == query_tokens()


@pytest.mark.parametrize(
    ("speed", "token"),
    [
        (None, "<state_unknown>"),
        (float("nan"), "<state_unknown>"),
        (float("inf"), "<state_unknown>"),
        (0.0, "<state_0>"),
        (-0.4, "<state_0>"),
        (0.949, "<state_9>"),
        (99.0, f"<state_{STATE_LEVELS - 1}>"),
    ],
)
def test_the_speed_is_one_token_and_unknown_is_its_own(
    prompt_layout: PromptLayout, speed: float | None, token: str
) -> None:
    assert prompt_layout.tokenizer.id_to_token(int(prompt_layout.ids(["drive"], [speed])[0, STATE])) == token


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_an_empty_instruction_is_refused(prompt_layout: PromptLayout, text: str) -> None:
    with pytest.raises(InstructionError, match="empty") as caught:
        prompt_layout.ids([text], [None])
    assert "drive" in caught.value.remedy


def test_a_long_instruction_is_refused_with_its_length_instead_of_being_cut(
    prompt_layout: PromptLayout,
) -> None:
    with pytest.raises(InstructionError, match=r"is \d+ tokens long; this base reads 12"):
        prompt_layout.ids(["drive slowly then stop " * 5], [None])


def test_case_and_spaces_do_not_matter(prompt_layout: PromptLayout) -> None:
    plain, shouted = prompt_layout.ids(["keep left", "  KEEP\n Left "], [None, None])
    np.testing.assert_array_equal(plain, shouted)


def test_every_phrasing_fits_and_no_two_are_the_same(prompt_layout: PromptLayout) -> None:
    phrases = list(BY_PHRASING)
    ids = prompt_layout.ids(phrases, [None] * len(phrases))
    assert len({row[TEXT].tobytes() for row in ids}) == len(phrases)


@pytest.mark.parametrize("text", ["räume auf", "左へ", "stop 🛑", "a\u0000b", "é" * 3])
def test_unicode_is_read_byte_by_byte_and_never_unknown(prompt_layout: PromptLayout, text: str) -> None:
    ids = prompt_layout.ids([text], [None])[0, TEXT]
    assert prompt_layout.tokenizer.token_to_id("<unk>") not in ids


def test_a_lone_surrogate_is_an_instruction_error(prompt_layout: PromptLayout) -> None:
    """JSON from a socket may carry one."""
    with pytest.raises(InstructionError, match="not Unicode text"):
        prompt_layout.ids(["go \ud800"], [None])


@pytest.mark.parametrize("token", ["<image>", "<state_3>", "<bos>", "<speed_5>"])
def test_a_special_token_in_an_instruction_is_only_text(prompt_layout: PromptLayout, token: str) -> None:
    """Else "<image>" in an instruction would move the place where the camera's tokens go."""
    reserved = [prompt_layout.tokenizer.token_to_id(t) for t in action_vocabulary() if t != "<pad>"]
    try:
        ids = prompt_layout.ids([token], [None])[0, TEXT]
    except InstructionError:
        return  # as text it is too long, which is as good
    assert not set(ids.tolist()) & set(reserved)


@given(st.text(max_size=40))
def test_any_text_gives_a_prompt_or_an_instruction_error(prompt_layout: PromptLayout, text: str) -> None:
    try:
        ids = prompt_layout.ids([text], [1.0])
    except InstructionError:
        return
    assert ids.shape == (1, prompt_layout.length)
    assert ids.max() < prompt_layout.vocabulary
    assert (ids == prompt_layout.image_token).sum() == IMAGE_SLOTS


def test_as_many_speeds_as_instructions(prompt_layout: PromptLayout) -> None:
    with pytest.raises(ValueError, match="shorter"):
        prompt_layout.ids(["drive", "stop"], [None])


def test_a_tokenizer_that_was_not_built_for_driving_is_refused(tokenizer: Tokenizer) -> None:
    from tokenizers import Tokenizer as AnyTokenizer
    from tokenizers import models

    with pytest.raises(BrainError, match="the tokenizer lacks the token <pad>"):
        PromptLayout(AnyTokenizer(models.BPE()))


def test_the_tokenizer_is_built_the_same_every_time(tokenizer: Tokenizer) -> None:
    from continuonbrain.robot.sim.instructions import INSTRUCTIONS
    from continuonbrain.trainer.tokenizer import build_tokenizer

    again = build_tokenizer(p for i in INSTRUCTIONS for p in i.phrasings)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert [again.id_to_token(i) for i in range(6)] == action_vocabulary()[:6]
