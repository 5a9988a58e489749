"""Words that a person or a stranger wrote, as they may stand in a line of a page or of a terminal. Pure."""

from __future__ import annotations

import unicodedata

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Change the direction of what follows (Unicode Standard Annex 9): a line then reads as something else."""


def is_plain(text: str) -> bool:
    """Whether there is no control character in it (a terminal obeys those), no line break, no change of direction, and
    nothing that is no character."""
    return not any(map(_is_odd, text))


def printable(text: str) -> str:
    """The text with U+FFFD for whatever is not plain."""
    return "".join("\ufffd" if _is_odd(c) else c for c in text)


def _is_odd(character: str) -> bool:
    return character in _TURNING or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
