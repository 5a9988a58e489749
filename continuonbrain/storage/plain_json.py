"""JSON that others wrote, as everybody can read it on.

A file may hold what is JSON to its reader and to nobody behind it: half of a surrogate pair (a file name that was no
UTF-8), NaN, a thousand arrays in each other. Whoever passes it on would break at it, each time anew.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

_DEEPEST = 64


def load_plain(data: bytes | str) -> Any:
    """What `data` says, with replacement characters for broken text and null for what is no number.

    Raises:
        ValueError: no JSON, or nested deeper than 64.
    """
    try:
        return _plain(json.loads(data), _DEEPEST)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


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
