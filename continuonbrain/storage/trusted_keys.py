"""Whom this brain trusts, and how far it has followed each of them.

`keys/trusted/<key_id>.json` are the trusted public keys, `keys/revoked/<key_id>.json` those that never count again,
`keys/accepted/<key_id>.json` the last counter that was taken from each. Revoked wins over trusted. All of them must be
files that only this user (or root) can write.

Writing, in this order, each step one atomic durable replacement:
  trust    the counter, then the key: a key without a counter is never trusted.
  revoke   the revocation, then the key's file goes: no moment in which it still counts and its revocation is lost.
  accept   the counter alone, before anything of the document appears.

`PrivateKeys` are this root's own: `keys/private/<name>.json` (0600 in a folder of 0700), `keys/public/<name>.pub` to
hand to others, `keys/issued/<key_id>.json` the last counter signed. A key belongs on one machine: two that sign with it
would give the same counter to two documents.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from continuonbrain.errors import BrainError
from continuonbrain.storage.canonical_json import NotSignableError, parse_signable, signable_bytes
from continuonbrain.storage.durable import remove_durably, remove_staging_leftovers, write_bytes_durably
from continuonbrain.storage.key_counter import CounterLostError, KeyCounters
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.storage.owned_file import check_folder, make_folder, read_owned
from continuonbrain.storage.public_key import KeyFileError, PublicKey, checked_name, is_name, parse_public_key
from continuonbrain.storage.signing import key_id_of, new_private_key, public_key_of

_KEY_ID = re.compile(r"[0-9a-f]{64}")
_SHORTEST_PREFIX = 8
_LOCK_WAIT_S = 10.0


class KeyRefused(BrainError):
    """A key is not trusted, was revoked, or cannot become trusted."""


class OldCounterError(BrainError):
    """A document is not newer than the last one that was taken from its key."""


@dataclass(frozen=True)
class KeyStatus:
    """A key as `keys list` tells it.

    Attributes:
        name: "" where its file cannot be read.
        last: the last counter taken; None when it is revoked, or `problem` says why it is unknown.
    """

    name: str
    key_id: str
    revoked: bool
    last: int | None
    problem: str = ""


class TrustedKeys:
    """The trusted keys of one brain root."""

    def __init__(self, layout: BrainLayout) -> None:
        self._layout = layout
        self._counters = KeyCounters(
            layout.accepted_counters_dir,
            remedy="look up the last counter taken from this key (adapters show), then: "
            f"continuonbrain keys trust FILE --counter LAST --root {layout.root}",
        )

    def lock(self, purpose: str) -> ProcessLock:
        """Held by whoever changes keys or counters, or decides by them; `keys/` must be there.

        Raises as `ProcessLock`, and FileNotSafeError when others could put other folders in place of these.
        """
        path = self._layout.keys_lock_path
        check_folder(path.parent)
        return ProcessLock(path, purpose=f"{purpose} in {path.parent}", timeout_s=_LOCK_WAIT_S)

    def get(self, key_id: str) -> PublicKey:
        """The trusted key of this id (64 hex digits). Raises KeyRefused, KeyFileError, FileNotSafeError."""
        if self.is_revoked(key_id):
            raise KeyRefused(
                f"key {key_id[:16]} was revoked on this brain",
                remedy="do not use what it signed; have it signed with a key that is trusted",
            )
        path = self._path(key_id)
        try:
            key = parse_public_key(read_owned(path), what=str(path))
        except FileNotFoundError as error:
            raise KeyRefused(
                f"key {key_id[:16]} is not trusted on this brain",
                remedy="if you know whose it is: continuonbrain keys trust FILE.pub "
                f"--root {self._layout.root}",
            ) from error
        if key.key_id != key_id:
            raise KeyFileError(f"{path} holds another key ({key.key_id[:16]})", remedy=f"remove {path}")
        return key

    def is_revoked(self, key_id: str) -> bool:
        """Whether a revocation is there; a damaged one counts. Raises OSError where that cannot be seen."""
        try:
            os.lstat(self._revoked_path(key_id))
        except FileNotFoundError:
            return False
        return True

    def list(self) -> tuple[KeyStatus, ...]:
        """Trusted keys by name, then revoked ones. A file that is not what it should be is a `problem`, no error."""
        found: list[KeyStatus] = []
        for folder, revoked in (
            (self._layout.trusted_keys_dir, False),
            (self._layout.revoked_keys_dir, True),
        ):
            # Only names that were given here: a killed writer's half file is none.
            for path in (p for p in folder.glob("*.json") if _KEY_ID.fullmatch(p.stem)):
                if revoked or not self.is_revoked(path.stem):
                    found.append(self._status(path, revoked=revoked))
        return tuple(sorted(found, key=lambda s: (s.revoked, s.name, s.key_id)))

    def _status(self, path: Path, *, revoked: bool) -> KeyStatus:
        key_id, name = path.stem, ""
        try:
            name = parse_public_key(read_owned(path), what=str(path)).name
            return KeyStatus(name, key_id, revoked, None if revoked else self._counters.last(key_id))
        except (BrainError, OSError) as error:
            # What is revoked stays revoked, whatever its file looks like.
            return KeyStatus(name, key_id, revoked, None, "" if revoked else str(error))

    def trust(self, key: PublicKey, *, counter: int | None = None) -> KeyStatus:
        """Take documents of this key from now on.

        Args:
            counter: take only counters above it. Never lowers one that is known; needed where the known one was lost.

        Raises:
            KeyRefused: it was revoked, its name is another key's, or `counter` is below the one known.
            CounterLostError: the key was trusted before and its counter is missing or damaged.
            FileNotSafeError, OSError.
        """
        make_folder(self._layout.trusted_keys_dir)
        with self.lock("trust a key"):
            if self.is_revoked(key.key_id):
                raise KeyRefused(
                    f"key {key.name} ({key.key_id[:16]}) was revoked on this brain and is not trusted again",
                    remedy="have its owner make a new one: continuonbrain keys new",
                )
            for other in self.list():
                if not other.revoked and other.name == key.name and other.key_id != key.key_id:
                    raise KeyRefused(
                        f"another key is called {key.name!r} here ({other.key_id[:16]})",
                        remedy="give it another name: continuonbrain keys trust FILE --name NAME",
                    )
            last = self._next_floor(key, counter)
            self._counters.write(key.key_id, last)
            remove_staging_leftovers(self._layout.trusted_keys_dir)
            write_bytes_durably(self._path(key.key_id), key.to_bytes())
        return KeyStatus(key.name, key.key_id, False, last)

    def _next_floor(self, key: PublicKey, counter: int | None) -> int:
        """The counter that `trust` writes."""
        if not self._counters.is_there(key.key_id) and not self._path(key.key_id).exists():
            return counter or 0  # never seen
        try:
            last = self._counters.last(key.key_id)
        except CounterLostError:
            if counter is None:
                raise
            return counter
        if counter is not None and counter < last:
            raise KeyRefused(
                f"counter {counter} is below {last}, the last one taken from key {key.name}",
                remedy="leave --counter out",
            )
        return last if counter is None else counter

    def revoke(self, named: str) -> KeyStatus:
        """Never take anything of this key again. Adapters that it signed stay: see their cards.

        Args:
            named: a trusted key's name or at least 8 digits of its id; or the whole id of any key, known or not.

        Raises KeyRefused when no trusted key is meant, or several; FileNotSafeError, OSError.
        """
        make_folder(self._layout.revoked_keys_dir)
        with self.lock("revoke a key"):
            trusted = [s for s in self.list() if not s.revoked]
            meant = [s for s in trusted if named and s.name == named] or [
                s for s in trusted if len(named) >= _SHORTEST_PREFIX and s.key_id.startswith(named)
            ]
            if not meant and _KEY_ID.fullmatch(named):
                meant = [KeyStatus("", named, False, None)]
            if len(meant) != 1:
                raise KeyRefused(
                    f"{named!r} names no trusted key, or several",
                    remedy=f"see: continuonbrain keys list --root {self._layout.root}",
                )
            key_id = meant[0].key_id
            try:
                data = self._path(key_id).read_bytes()
            except OSError:
                data = b""  # that the file is there is what counts
            remove_staging_leftovers(self._layout.revoked_keys_dir)
            write_bytes_durably(self._revoked_path(key_id), data)
            if self._layout.trusted_keys_dir.is_dir():
                remove_durably(self._path(key_id))
        return replace(meant[0], revoked=True, last=None, problem="")

    def check_newer(self, key: PublicKey, counter: int) -> None:
        """Raises OldCounterError, CounterLostError, FileNotSafeError. Call under `lock`."""
        last = self._counters.last(key.key_id)
        if counter <= last:
            raise OldCounterError(
                f"document.counter={counter} of key {key.name} is not above {last}, the last one taken",
                remedy="it is old, or was taken already; have it exported again",
            )

    def accept(self, key: PublicKey, counter: int) -> None:
        """Take this counter, durably: it and all below are refused from now on. Call under `lock`.

        Raises as `check_newer`, and OSError.
        """
        self.check_newer(key, counter)
        self._counters.write(key.key_id, counter)

    def _path(self, key_id: str) -> Path:
        return self._layout.trusted_keys_dir / f"{key_id}.json"

    def _revoked_path(self, key_id: str) -> Path:
        return self._layout.revoked_keys_dir / f"{key_id}.json"


class PrivateKeys:
    """The keys with which this brain root signs."""

    def __init__(self, layout: BrainLayout) -> None:
        self._layout = layout
        self._issued = KeyCounters(
            layout.issued_counters_dir,
            remedy="look up the last counter that was signed (with whoever took it), then: continuonbrain keys recount "
            f"NAME --counter LAST --root {layout.root}",
        )

    def new(self, name: str) -> PublicKey:
        """Make a key. Its private file comes last: where it is, all of it is. Raises KeyFileError, OSError."""
        private_path = self._private_path(checked_name(name))
        make_folder(self._layout.private_keys_dir, private=True)
        make_folder(self._layout.public_keys_dir)
        with TrustedKeys(self._layout).lock("make a key"):
            if private_path.exists() or private_path.is_symlink():
                raise KeyFileError(
                    f"there is a key {name!r} already: {private_path}", remedy="choose another name"
                )
            # What a killed one left is half a private key.
            remove_staging_leftovers(self._layout.private_keys_dir)
            remove_staging_leftovers(self._layout.public_keys_dir)
            private = new_private_key()
            key = PublicKey(name, public_key_of(private))
            write_bytes_durably(self.public_path(name), key.to_bytes())
            self._issued.write(key.key_id, 0)
            body = {
                "schema": 1,
                "alg": "ed25519",
                "name": name,
                "key_id": key.key_id,
                "private": private.hex(),
            }
            write_bytes_durably(private_path, signable_bytes(body) + b"\n", mode=0o600)
        return key

    def names(self) -> tuple[str, ...]:
        """Of all keys of this root."""
        try:
            check_folder(self._layout.private_keys_dir, private=True)
        except FileNotFoundError:
            return ()
        stems = (path.stem for path in self._layout.private_keys_dir.glob("*.json"))
        return tuple(sorted(stem for stem in stems if is_name(stem)))

    def load(self, name: str) -> bytes:
        """The 32 private bytes. Raises KeyFileError, FileNotSafeError."""
        path = self._private_path(checked_name(name))
        try:
            data = read_owned(path, private=True)
        except FileNotFoundError as error:
            raise KeyFileError(
                f"there is no key {name!r} in {path.parent}",
                remedy=f"continuonbrain keys new {name} --root {self._layout.root}",
            ) from error
        try:
            value = parse_signable(data.removesuffix(b"\n"), what=str(path))
            private = bytes.fromhex(str(value.get("private")))
            whole = len(private) == 32 and key_id_of(public_key_of(private)) == value.get("key_id")
        except (NotSignableError, ValueError):
            whole = False
        if not whole:  # nothing of its content in the message: it may be half a private key
            raise KeyFileError(f"{path} is damaged", remedy="restore it from a backup, or make a new key")
        return private

    def key_id(self, name: str) -> str:
        """The id of a key of this root. Raises as `load`."""
        return key_id_of(public_key_of(self.load(name)))

    def next_counter(self, key_id: str, *, counter: int | None = None) -> int:
        """The counter to sign with next. Call under `TrustedKeys.lock`, and `issue` it before anybody sees it signed.

        Args:
            counter: this one instead of the last + 1; where the last one is known, it must be above it.

        Raises CounterLostError, OldCounterError, FileNotSafeError.
        """
        try:
            last = self._issued.last(key_id)
        except CounterLostError:
            if counter is None:
                raise
            last = 0
        chosen = last + 1 if counter is None else counter
        if chosen <= last:
            raise OldCounterError(
                f"counter {chosen} is not above {last}, the last one signed", remedy="leave --counter out"
            )
        return chosen

    def issue(self, key_id: str, counter: int) -> None:
        """Use up a counter, durably. Raises CounterLostError, OSError."""
        self._issued.write(key_id, counter)

    def last_issued(self, key_id: str) -> int:
        """The last counter that was signed. Raises CounterLostError, FileNotSafeError."""
        return self._issued.last(key_id)

    def recount(self, name: str, counter: int) -> PublicKey:
        """Sign only with counters above this one from now on. Raises OldCounterError where a later one is known, and as
        `load`."""
        key = PublicKey(name, public_key_of(self.load(name)))
        with TrustedKeys(self._layout).lock("set a counter"):
            with suppress(CounterLostError):
                if counter < (last := self._issued.last(key.key_id)):
                    raise OldCounterError(
                        f"counter {counter} is below {last}, the last one signed with key {name}",
                        remedy="nothing to do: that one is known",
                    )
            self._issued.write(key.key_id, counter)
        return key

    def public_path(self, name: str) -> Path:
        """The file to hand to others."""
        return self._layout.public_keys_dir / f"{name}.pub"

    def _private_path(self, name: str) -> Path:
        return self._layout.private_keys_dir / f"{name}.json"
