"""Names hidden under a secret of this root: `keys/private/pseudonyms.secret`, 32 bytes, 0600, made once.

A pseudonym is HMAC-SHA-256 (RFC 2104) of the name under that secret, which never leaves the robot. The same name has
the same pseudonym in every bundle of a root, so that a receiver can count robots and find an episode that came twice,
and so that a robot knows again what is said of it in what comes back.

Where the secret is lost, the robot is a new one to whoever receives its bundles. A backup does not hold it, as it holds
no private keys.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from continuonbrain.errors import BrainError
from continuonbrain.storage.durable import remove_staging_leftovers, write_bytes_durably
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.owned_file import make_folder, read_owned
from continuonbrain.storage.trusted_keys import TrustedKeys

SECRET_BYTES: Final = 32


class SecretError(BrainError):
    """The secret of pseudonyms is damaged."""


@dataclass(frozen=True)
class Pseudonyms:
    """Names under a secret of `SECRET_BYTES`; `repr` does not show it."""

    secret: bytes

    def __repr__(self) -> str:
        return "Pseudonyms(...)"

    def of(self, kind: str, name: str) -> str:
        """16 hex digits; the kinds are kept apart."""
        return hmac.new(self.secret, f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()[:16]

    @property
    def root(self) -> str:
        """Of the robot that this root belongs to."""
        return "robot-" + self.of("root", "")

    def episode(self, name: str) -> str:
        """Of an episode, by its folder's name."""
        return "e-" + self.of("episode", name)


def pseudonyms_of(layout: BrainLayout) -> Pseudonyms:
    """The pseudonyms of a root; the first call makes its secret.

    Raises:
        SecretError: the file is damaged. FileNotSafeError, LockHeldError, OSError.
    """
    path = layout.pseudonyms_path
    make_folder(path.parent, private=True)
    with TrustedKeys(layout).lock("read the secret of pseudonyms"):
        try:
            return Pseudonyms(_read(path))
        except FileNotFoundError:
            remove_staging_leftovers(path.parent)
            secret = os.urandom(SECRET_BYTES)
            write_bytes_durably(path, secret, mode=0o600)
            return Pseudonyms(secret)


def known_as(layout: BrainLayout) -> str:
    """What this robot is called in bundles that it has exported, "" when it has a secret for none. Nothing is made, no
    lock taken. Raises SecretError, FileNotSafeError, OSError."""
    try:
        return Pseudonyms(_read(layout.pseudonyms_path)).root
    except FileNotFoundError:
        return ""


def _read(path: Path) -> bytes:
    secret = read_owned(path, private=True)
    if len(secret) != SECRET_BYTES:
        raise SecretError(
            f"{path} has {len(secret)} bytes, not {SECRET_BYTES}",
            remedy=f"restore it; or remove it, and this robot gets new pseudonyms: rm {path}",
        )
    return secret
