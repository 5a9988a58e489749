"""JSON that others wrote, as everybody can read it on.

A file may hold what is JSON to its reader and to nobody behind it: half of a surrogate pair (a file name that was no
UTF-8), NaN, a thousand arrays in each other, UTF-16. Whoever passes it on would break at it, each time anew. And of a
key that is there twice one reader takes the first, another the last (RFC 8259, section 4): what was checked would not
be what is used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from math import isfinite
from typing import Any

_DEEPEST = 64
_LARGEST = 2**64


def load_plain(data: bytes | str) -> Any:
    """What `data` says, with replacement characters for broken text and null for what is no number.

    Raises:
        ValueError: no JSON, nested deeper than 64, or a key is there twice.
    """
    return _plain(_read(data), _DEEPEST)


def load_strict(data: bytes | str) -> Any:
    """What `data` says, where all of it can be passed on as it is: for what this program wrote itself, and
    what comes from elsewhere and will be used by other readers.

    Raises:
        ValueError: no JSON, nested deeper than 64, a key that is there twice, broken text, or a number that is none
            (NaN, 1e999, 10^400).
    """
    value = _read(data)
    strict(value)
    return value


def _read(data: bytes | str) -> Any:
    try:
        return json.loads(_text(data), object_pairs_hook=_each_once)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r} is there twice")
    return found


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
