"""Regular expressions in an adapter's configuration: they come with the bytes of a stranger. No torch.

PEFT matches the names of modules with whatever stands there. A pattern of nested repetitions takes longer than a robot
lives, so only plain ones are taken: enough for every name of a layer, and for "all of them".
"""

from __future__ import annotations

import re

_REPEATS = set("*+{")
_MOST_REPEATS = 3
_MOST_CHARACTERS = 300


def fault_of(pattern: object) -> str:
    """Why this is no pattern that is safe to match a module's name with, in words; "" for one that is."""
    if not isinstance(pattern, str):
        return f"{pattern!a} is no pattern"
    if len(pattern) > _MOST_CHARACTERS:
        return f"a pattern of {len(pattern)} characters"
    repeats = sum(c in _REPEATS for c in pattern)
    # Without repeated groups a match takes at most the name's length to the power of the repetitions.
    grouped = any(f"){c}" in pattern for c in _REPEATS)
    if repeats > _MOST_REPEATS or grouped:
        return f"the pattern {pattern!a} repeats too much"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"{error} in the pattern {pattern!a}"
    return ""
