"""JSON that others wrote, as everybody can read it on.

A file may hold what is JSON to its reader and to nobody behind it: half of a surrogate pair (a file name that was no
UTF-8), NaN, a thousand arrays in each other, UTF-16. Whoever passes it on would break at it, each time anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

_DEEPEST = 64
_LARGEST = 2**64


def load_plain(data: bytes | str) -> Any:
    """What `data` says, with replacement characters for broken text and null for what is no number.

    Raises:
        ValueError: no JSON, or nested deeper than 64.
    """
    try:
        return _plain(json.loads(_text(data)), _DEEPEST)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def load_strict(data: bytes | str) -> Any:
    """What `data` says, where all of it can be passed on as it is: for what this program wrote itself.

    Raises:
        ValueError: no JSON, nested deeper than 64, broken text, or a number that is none (NaN, 1e999, 10^400).
    """
    try:
        value = json.loads(_text(data))
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    strict(value)
    return value


def _text(data: bytes | str) -> str:
    """As UTF-8, without a mark before it (RFC 8259, section 8.1): Python alone would guess UTF-16, too."""
    return data if isinstance(data, str) else data.decode("utf-8")


def strict(value: object, *, depth: int = _DEEPEST) -> None:
    """The same for what is in memory. Raises ValueError."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"{value} is not a finite number")
    elif isinstance(value, int):
        if abs(value) > _LARGEST:
            raise ValueError("a whole number is beyond 2^64")
    elif isinstance(value, Mapping | list | tuple):
        if depth == 0:
            raise ValueError(f"nested deeper than {_DEEPEST}")
        for key in value if isinstance(value, Mapping) else ():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is no text")
            key.encode()
        for part in value.values() if isinstance(value, Mapping) else value:
            strict(part, depth=depth - 1)
    elif value is not None:
        raise ValueError(f"{type(value).__name__} is no JSON")


def plain(value: Any) -> Any:
    """The same for what is in memory. `ValueError` where it is nested too deep."""
    return _plain(value, _DEEPEST)


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if isfinite(value) else None
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        raise ValueError(f"nested deeper than {_DEEPEST}")
    if isinstance(value, list):
        return [_plain(v, depth - 1) for v in value]
    return {_plain(str(k), 1): _plain(v, depth - 1) for k, v in value.items()}
