"""One text for one JSON value, so that equal values have equal bytes and a hash or a signature can stand for them.

`canonical_json` is what the hash chain of `history.jsonl` uses. What is *signed* goes through `signable_bytes`, which
takes less: objects, arrays, booleans, null, integers up to 2^53 - 1 either way, strings and keys of printable ASCII.
Inside that subset the bytes are exactly those of RFC 8785 (JSON Canonicalization Scheme), so any other implementation
of it makes the same ones. What is left out is what makes canonical JSON hard:

- floats: RFC 8785 asks for ECMAScript's shortest form, which Python's `repr` is not (1e16, -0.0). No signed number here
  is one; measurements travel in files whose sha256 is signed.
- text beyond ASCII: sorting by UTF-16 units (the RFC) and by code points (Python) differ above U+FFFF, and the same
  word has several spellings until it is normalised to NFC. Refused, so there is neither question.

`parse_signable` takes only bytes that `signable_bytes` makes again. Duplicate keys, spaces, a second spelling of a
number or an escape, NaN and a byte order mark therefore need no rules of their own: they do not come back the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from continuonbrain.errors import BrainError

LARGEST_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8785, section 3.2.2.3; RFC 7493, section 2.2)."""

DEEPEST = 16
"""Arrays and objects in each other."""


class NotSignableError(BrainError):
    """A value that has no place in a signed document, or bytes that are not its canonical form."""


def canonical_json(value: Mapping[str, object]) -> str:
    """JSON with sorted keys and no spaces, so that equal values have equal bytes. NaN raises ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def signable_bytes(value: Mapping[str, object]) -> bytes:
    """The bytes of `value` that are signed. Raises NotSignableError naming what has no place in them."""
    _check(value, "the document", DEEPEST)
    return canonical_json(value).encode("ascii")


def parse_signable(data: bytes, *, what: str) -> dict[str, Any]:
    """The object whose `signable_bytes` are exactly `data`.

    Args:
        what: names the bytes in an error, e.g. "bundle.json".

    Raises:
        NotSignableError: they are not the canonical form of a signable object.
    """
    remedy = "get it again from whoever made it: it was damaged or changed on the way"
    try:
        value = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise NotSignableError(f"{what} is not JSON in ASCII ({error})", remedy=remedy) from error
    if not isinstance(value, dict):
        raise NotSignableError(f"{what} holds no JSON object", remedy=remedy)
    try:
        again = signable_bytes(value)
    except NotSignableError as error:
        raise NotSignableError(f"{what}: {error.message}", remedy=remedy) from error
    if again != data:
        raise NotSignableError(f"{what} is not written in canonical form", remedy=remedy)
    return value


def _check(value: object, where: str, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        if not (value.isascii() and value.isprintable()):
            raise NotSignableError(f"{where} is text beyond printable ASCII: {value[:40]!r}")
    elif isinstance(value, int):
        if not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
            raise NotSignableError(f"{where} is an integer beyond 2^53 - 1")
    elif depth == 0:
        raise NotSignableError(f"{where} is nested deeper than {DEEPEST}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise NotSignableError(f"{where} has a key that is no text: {key!r}")
            _check(key, f"a key of {where}", depth)
            _check(inner, f"{where}.{key}", depth - 1)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check(inner, f"{where}[{index}]", depth - 1)
    else:
        raise NotSignableError(f"{where} is {type(value).__name__}, which is not signed here")
