"""Regular expressions in an adapter's configuration: they come with the bytes of a stranger. No torch.

PEFT matches the names of modules with whatever stands there. A pattern of nested repetitions takes longer than a robot
lives, so only plain ones are taken: enough for every name of a layer, and for "all of them".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

_REPEATS = "*+{?"
_MOST_CHOICES = 4
_MOST_CHARACTERS = 300
_BACKREFERENCE = re.compile(r"\\[1-9]")


def fault_of(pattern: object) -> str:
    """Why this is no pattern that is safe to match a module's name with, in words; "" for one that is."""
    if not isinstance(pattern, str):
        return f"{pattern!a} is no pattern"
    if len(pattern) > _MOST_CHARACTERS:
        return f"a pattern of {len(pattern)} characters"
    # A match tries every way to choose: for a repetition one for each character of the name, for a group one for each
    # alternative. Where nothing that repeats contains another choice, that is at most a name's length to the power
    # of their number.
    plain = re.sub(r"([*+?}])\?", r"\1", pattern.replace("(?:", "("))  # a lazy repetition is one
    choices = sum(c in _REPEATS for c in plain) + plain.count("(")
    grouped = any(f"){c}" in plain for c in _REPEATS)
    if choices > _MOST_CHOICES or grouped:
        return f"the pattern {pattern!a} leaves too many choices"
    if "(?" in plain or _BACKREFERENCE.search(plain):
        return f"the pattern {pattern!a} has more than groups, repetitions and alternatives"
    try:
        for form in (pattern, rf"(.*\.)?({pattern})$"):
            re.compile(form)
    except (re.error, OverflowError, RecursionError) as error:
        return f"{error} in the pattern {pattern!a}"
    return ""


def by_pattern(patterns: Mapping[str, Any] | None, module: str, default: object) -> Any:
    """What PEFT takes for a module from `rank_pattern` or `alpha_pattern`: the first pattern that the end of its name
    matches. Patterns without a `fault_of`."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def is_target(
    targets: str | Sequence[str] | None, module: str, *, layers: Collection[int] | None = None
) -> bool:
    """Whether PEFT's `target_modules` or `exclude_modules` name a module: a pattern for all of its name, or a list of
    whole names and ends of names. layers: `layers_to_transform`; it bounds what is named by its end."""
    if targets is None:
        return False
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    if module in targets:
        return True
    found = re.search(r"layers\.(\d+)\.", module)
    here = layers is None or (found is not None and int(found[1]) in layers)
    return here and any(module.endswith(f".{t}") for t in targets)
