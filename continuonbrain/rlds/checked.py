"""Values that came from outside, checked: JSON, objects, texts, numbers, pairs.

Each check of `(value, name)` returns the value as the type that it names, or raises an `EpisodeError` that names the
field and shows what was there. An unknown key is an error that names the nearest known one, because a misspelt key
silently read as "absent" is how a memory rots. A number that is not finite never gets past here: it never reaches a
file, a tensor or a servo.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from continuonbrain.rlds.errors import EpisodeError

Action: TypeAlias = tuple[float, float]
"""(steering, throttle), each in [-1, 1]; positive steering turns left."""


def parse_json(text: str | bytes) -> Any:
    """JSON without NaN and Infinity; every failure is an `EpisodeError`."""

    def refuse(token: str) -> Any:
        raise EpisodeError(f"{token} is not a number that an episode may hold")

    def finite(token: str) -> float:
        number = float(token)
        return number if math.isfinite(number) else refuse(shown(token))  # 1e999 is JSON, and infinite

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise EpisodeError(f"not JSON: {error}") from error


def as_mapping(value: Any, name: str) -> Mapping[str, Any]:
    """The object (`{...}`) that `name` must be."""
    if not isinstance(value, Mapping):
        raise EpisodeError(f"an object is needed, not {shown(value)}", field=name)
    return value


def as_text(value: Any, name: str) -> str:
    """The text that `name` must be: Unicode that a file can hold."""
    if not isinstance(value, str):
        raise EpisodeError(f"text is needed, not {shown(value)}", field=name)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # half a surrogate pair: JSON can say it, no file can hold it
            raise EpisodeError(f"text that is not Unicode: {shown(value)}", field=name) from error
    return value


def as_flag(value: Any, name: str) -> bool:
    """The true or false that `name` must be."""
    if not isinstance(value, bool):
        raise EpisodeError(f"true or false is needed, not {shown(value)}", field=name)
    return value


def as_integer(value: Any, name: str) -> int:
    """The integer of at most 64 bits that `name` must be; a flag is none."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise EpisodeError(f"an integer is needed, not {shown(value)}", field=name)
    if not -(1 << 63) <= value < 1 << 63:
        raise EpisodeError("an integer of at most 64 bits is needed", field=name)
    return int(value)


def as_number(value: Any, name: str) -> float:
    """The finite number that `name` must be, as a float; a flag is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise EpisodeError(f"a number is needed, not {shown(value)}", field=name)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise EpisodeError(
            f"a finite number is needed, not {shown(value)}",
            field=name,
            remedy="record None where the robot does not measure a value, and let the guard refuse NaN first",
        )
    return number


def as_pair(value: Any, name: str) -> Action:
    """(steering, throttle), both finite, from any two numbers."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise EpisodeError(f"[steering, throttle] is needed, not {shown(value)}", field=name)
    items = list(value)
    if len(items) != 2:
        raise EpisodeError(f"[steering, throttle] is needed, not {len(items)} numbers", field=name)
    return as_number(items[0], f"{name}[0]"), as_number(items[1], f"{name}[1]")


def shown(value: Any) -> str:
    """`value` as an error shows it: its repr, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def only_known_keys(value: Mapping[str, Any], known: Iterable[str], name: str) -> None:
    """Refuse a key that is not in `known`, and name the nearest known one."""
    names = list(known)
    for key in value:
        if key not in names:
            near = difflib.get_close_matches(str(key)[:100], names, n=1)  # comparing costs by the length
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(names)}"
            raise EpisodeError(f"unknown key {shown(key)}{hint}", field=name)


def finite_pair(steering: float | np.floating[Any], throttle: float | np.floating[Any]) -> Action | None:
    """(steering, throttle), or None when either is not finite.

    For the control loop: a policy that proposes NaN is recorded as "no proposal" with the guard's reason,
    never as a NaN and never as an exception in the loop.
    """
    return (float(steering), float(throttle)) if math.isfinite(steering) and math.isfinite(throttle) else None


def number_from_text(text: str, name: str) -> float:
    """The finite number that stands in `text`."""
    try:
        return as_number(float(text), name)
    except ValueError:
        raise EpisodeError(f"a number as text is needed, not {shown(text)}", field=name) from None


def integer_from_text(text: str, name: str) -> int:
    """The integer of at most 64 bits that stands in `text`."""
    try:
        return as_integer(int(text), name)
    except ValueError:
        raise EpisodeError(f"an integer as text is needed, not {shown(text)}", field=name) from None
