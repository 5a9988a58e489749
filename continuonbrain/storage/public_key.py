"""A public key as people hand it to each other: a small JSON file that names itself. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

from continuonbrain.errors import BrainError
from continuonbrain.storage.canonical_json import NotSignableError, parse_signable, signable_bytes
from continuonbrain.storage.signing import ED25519, key_id_of

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
"""Field and curve of Ed25519 (RFC 8032, section 5.1): -x^2 + y^2 = 1 + d x^2 y^2."""


class KeyFileError(BrainError):
    """A key file or a key's name is not what it has to be."""


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key: what people call it, and its 32 raw bytes."""

    name: str
    public: bytes

    @property
    def key_id(self) -> str:
        """sha256 of the raw bytes, 64 hex digits."""
        return key_id_of(self.public)

    def to_bytes(self) -> bytes:
        """The content of its file."""
        body = {
            "schema": 1,
            "alg": ED25519,
            "name": self.name,
            "key_id": self.key_id,
            "public": self.public.hex(),
        }
        return signable_bytes(body) + b"\n"


def parse_public_key(data: bytes, *, what: str) -> PublicKey:
    """Read a public key's file. `what` names it in errors. Raises KeyFileError."""
    remedy = "it must be the file that `continuonbrain keys new` wrote into keys/public, unchanged"
    try:
        value = parse_signable(data.removesuffix(b"\n"), what=what)
    except NotSignableError as error:
        raise KeyFileError(error.message, remedy=remedy) from error
    name, public = value.get("name"), value.get("public")
    if not isinstance(name, str) or not isinstance(public, str) or not _HEX64.fullmatch(public):
        raise KeyFileError(f"{what} is not a public key: name={name!r}, public={public!r}", remedy=remedy)
    key = PublicKey(checked_name(name), bytes.fromhex(public))
    if _has_small_order(key.public):
        raise KeyFileError(
            f"{what} is no key of a person: anybody can sign for public={public!r}", remedy=remedy
        )
    if key.to_bytes().removesuffix(b"\n") != data.removesuffix(b"\n"):
        raise KeyFileError(
            f"{what} is not a public key of this format, or its key_id is not that of its bytes",
            remedy=remedy,
        )
    return key


def is_name(name: str) -> bool:
    """Whether a key can be called so."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """`name`, which becomes a file's. Raises KeyFileError."""
    if not is_name(name):
        raise KeyFileError(
            f"a key cannot be called {name!r}",
            remedy="use 1 to 32 lower-case letters, digits, '.', '_' and '-', a letter or digit first",
        )
    return name


def _has_small_order(public: bytes) -> bool:
    """Whether a key is one of the curve's eight points whose multiples are few, so that signatures can be guessed.

    y = 1 and -1 are the points of order 1 and 2, y = 0 those of order 4. Doubling one of order 8 gives y = 0, which
    asks for x^2 = -y^2; put into the curve's equation that is d y^4 + 2 y^2 - 1 = 0.
    """
    y = (int.from_bytes(public, "little") & (2**255 - 1)) % _P
    return y in (0, 1, _P - 1) or (_D * pow(y, 4, _P) + 2 * y * y - 1) % _P == 0
