"""What a stranger wrote does not command a terminal, and does not read as something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.storage.plain_text import is_plain, printable


@pytest.mark.parametrize(
    "text", ["\x1b]0;owned\x07", "a\nb", "a\rb", "\x00", "\x9b2J", "a\u202eb", "\u2066x", "\u2028", "\ud800"]
)
def test_what_commands_or_turns_a_line_is_not_plain(text: str) -> None:
    assert not is_plain(text)
    assert is_plain(printable(text))
    assert "\ufffd" in printable(text)


@pytest.mark.parametrize("text", ["keep left, slowly", "fahr über die Brücke", "左に寄って", "🐢 slow", ""])
def test_words_of_any_language_are_plain(text: str) -> None:
    assert is_plain(text)
    assert printable(text) == text


@given(st.text())
def test_what_is_printed_is_always_plain_and_as_long(text: str) -> None:
    assert is_plain(printable(text))
    assert len(printable(text)) == len(text)
