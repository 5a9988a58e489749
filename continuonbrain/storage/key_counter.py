"""The last counter of each key, one small file a key, durable, and never guessed.

A counter that is lost cannot be told from one that was never there, so a key that is trusted and has none is refused:
beginning at 0 again would take every old bundle once more. A person who knows the last number gives it by hand.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from continuonbrain.errors import BrainError
from continuonbrain.storage.canonical_json import (
    LARGEST_INTEGER,
    NotSignableError,
    parse_signable,
    signable_bytes,
)
from continuonbrain.storage.durable import remove_staging_leftovers, write_bytes_durably
from continuonbrain.storage.owned_file import make_folder, read_owned


class CounterLostError(BrainError):
    """A key's counter file is missing or damaged: what is old can no longer be told from what is new."""


class KeyCounters:
    """The counters in one folder.

    Args:
        folder: `<key_id>.json` each.
        remedy: the command that sets a counter again, for errors.
    """

    def __init__(self, folder: Path, *, remedy: str) -> None:
        self._folder = folder
        self._remedy = remedy

    def last(self, key_id: str) -> int:
        """The last counter of this key. Raises CounterLostError, FileNotSafeError."""
        path = self._path(key_id)
        try:
            data = read_owned(path)
        except FileNotFoundError as error:
            raise CounterLostError(f"the counter {path} is missing", remedy=self._remedy) from error
        try:
            value = parse_signable(data, what=str(path))
        except NotSignableError as error:
            raise CounterLostError(f"the counter is damaged: {error.message}", remedy=self._remedy) from error
        last = value.get("last")
        whole = value == _sealed(key_id, last) if isinstance(last, int) else False
        if isinstance(last, bool) or not isinstance(last, int) or not whole or last < 0:
            raise CounterLostError(
                f"the counter {path} is damaged: its sha256 does not match", remedy=self._remedy
            )
        return last

    def is_there(self, key_id: str) -> bool:
        """Whether there is a file, whole or not."""
        return self._path(key_id).exists() or self._path(key_id).is_symlink()

    def write(self, key_id: str, last: int) -> None:
        """Set the counter (0 to 2^53 - 1): one atomic, durable replacement. Call under the keys' lock.

        Raises OSError, CounterLostError.
        """
        if not 0 <= last <= LARGEST_INTEGER:
            raise CounterLostError(
                f"the counter of key {key_id[:16]} cannot be {last}",
                remedy="give a number from 0 to 2^53 - 1",
            )
        make_folder(self._folder)
        remove_staging_leftovers(self._folder)
        write_bytes_durably(self._path(key_id), signable_bytes(_sealed(key_id, last)))

    def _path(self, key_id: str) -> Path:
        return self._folder / f"{key_id}.json"


def _sealed(key_id: str, last: int) -> dict[str, object]:
    """The file's object. Its sha256 is no protection from people, only from a flipped bit."""
    body: dict[str, object] = {"schema": 1, "key_id": key_id, "last": last}
    return body | {"sha256": hashlib.sha256(signable_bytes(body)).hexdigest()}
