"""A base that comes from a bigger machine: signed, streamed into a staging folder, and a slot at most.

Before a byte of it is written: the envelope's form, its key and signature, kind, names and sizes, which base it grew
from, the counter, the file's own length, free space on the disk. Then every file is hashed while it is written below
one hidden folder in `model/bases`; after the last one the base's identity, its JSON, its numbers, their shapes beside
those that it grew from, and whose graphs it brings. What is refused leaves nothing behind.

What is accepted makes two durable changes, in this order: the counter of the key, then the folder's name. Killed
between them the counter is used up and there is no slot: it has to be packed again. An imported base does not drive:
that takes a verdict of this brain (`base_judging.py`) and a person who switches.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.adapter_import import ImportRefused, keys_of, regular_file
from continuonbrain.loops.base_content import base_refusal, bytes_to_look_at, content_refusal
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.storage.base_slots import SLOT_FILE, BaseSlots
from continuonbrain.storage.durable import new_directory_durably, remove_staging_leftovers, sync_directory
from continuonbrain.storage.large_bundle import unpack_large
from continuonbrain.storage.public_key import PublicKey
from continuonbrain.storage.signing import (
    Document,
    Envelope,
    GrownFrom,
    SignedFile,
    parse_envelope,
    verify,
)
from continuonbrain.storage.trusted_keys import TrustedKeys

SLOT_DIGITS = 16
_KEPT_FREE = 256 << 20
"""Bytes that an import leaves free on the disk."""
_AGAIN = "have it packed again: continuonbrain cloud pack-base"


@dataclass(frozen=True)
class ImportedBase:
    """What was taken. not_verified: algorithms of further signatures, which count for nothing."""

    slot: str
    base_sha256: str
    grown_from: GrownFrom
    key: PublicKey
    counter: int
    bytes: int
    not_verified: tuple[str, ...]


def import_base(
    brain: BrainRoot, path: Path, *, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> ImportedBase:
    """Take the base in the bundle `path` as a slot of its own. progress: called with (bytes read, in all).

    Raises:
        BrainError: it is refused, with nothing changed.
        OSError: the file cannot be read, or the disk refused.
    """
    keys, slots, layout = keys_of(brain), BaseSlots(brain.layout), brain.layout
    found: list[tuple[Envelope, PublicKey, tuple[str, ...], str, Path]] = []
    done = total = 0

    def on_bytes(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    def check(data: bytes) -> Mapping[str, SignedFile]:
        envelope = parse_envelope(data)
        key = keys.get(envelope.document.key_id)
        others = verify(envelope, key.public)
        grown = _grown_from(brain, slots, envelope.document, path)
        with keys.lock("import a base"):
            keys.check_newer(key, envelope.document.counter)
        names = tuple(s.alg for s in others)
        found.append((envelope, key, names, hashlib.sha256(data).hexdigest(), grown))
        return envelope.document.files

    # The last to be entered is the first to end: what is refused is gone before the lock is.
    with slots.lock("import a base"), regular_file(path) as (file, size), ExitStack() as undo:

        def begin(count: int) -> Path:
            nonlocal total
            total = count + bytes_to_look_at(found[0][0].document.files)
            _make_folder(brain, undo)
            free = shutil.disk_usage(layout.bases_dir).free
            if count + _KEPT_FREE > free:
                raise ImportRefused(
                    f"{path} needs {(count + _KEPT_FREE) >> 20} MiB in {layout.bases_dir}, {free >> 20} MiB are free",
                    remedy="free some space, then import it again",
                )
            slot = found[0][0].document.base_sha256[:SLOT_DIGITS]
            staging = undo.enter_context(new_directory_durably(layout.slot_dir(slot)))
            (staging / "base").mkdir()
            return staging / "base"

        base = unpack_large(file, size, check, begin, what=str(path), on_bytes=on_bytes)
        envelope, key, not_verified, sha256, grown = found[0]
        document = envelope.document
        if why := content_refusal(base, document, grown, on_bytes=on_bytes):
            raise ImportRefused(f"{path} is refused: {why}", remedy=_AGAIN)
        about = _about(document, key, not_verified, sha256)
        (base.parent / SLOT_FILE).write_text(json.dumps(about, indent=2) + "\n")
        (base.parent / "adapters").mkdir()
        _accept(keys, key, document.counter)
    assert document.grown_from is not None
    return ImportedBase(
        document.base_sha256[:SLOT_DIGITS],
        document.base_sha256,
        document.grown_from,
        key,
        document.counter,
        sum(signed.bytes for signed in document.files.values()),
        not_verified,
    )


def _grown_from(brain: BrainRoot, slots: BaseSlots, document: Document, path: Path) -> Path:
    """The folder of the base that a document's base grew from; `ImportRefused` for anything against it."""
    if why := base_refusal(document):
        raise ImportRefused(f"{path} is refused: {why}", remedy=_AGAIN)
    assert document.grown_from is not None
    wanted = document.grown_from.base_sha256
    slot = document.base_sha256[:SLOT_DIGITS]
    if os.path.lexists(brain.layout.slot_dir(slot)):
        raise ImportRefused(
            f"{path} is refused: its base is there already, in {brain.layout.slot_dir(slot)}",
            remedy="continuonbrain base list; remove that folder first if it is damaged and does not drive",
        )
    own = {s.base_sha256: s.base for s in slots.list()}
    if wanted in own:
        return own[wanted]
    configured = brain.configured.base_model_dir
    serving = base_sha256(configured)
    if document.base_sha256 == serving:
        raise ImportRefused(
            f"{path} is refused: it is the base that config.json names", remedy="nothing to do"
        )
    if wanted != serving:
        raise ImportRefused(
            f"{path} is refused: it grew from another base (document.grown_from {wanted[:8]}, this robot's is "
            f"{serving[:8]})",
            remedy="merge the adapter into a base that this robot has",
        )
    return configured


def _about(document: Document, key: PublicKey, not_verified: tuple[str, ...], sha256: str) -> dict[str, Any]:
    assert document.grown_from is not None
    return {
        "schema": 1,
        "base_sha256": document.base_sha256,
        "grown_from": {
            "base_sha256": document.grown_from.base_sha256,
            "adapter_sha256": document.grown_from.adapter_sha256,
        },
        "imported": {
            "key_name": key.name,
            "key_id": key.key_id,
            "counter": document.counter,
            "document_sha256": sha256,
            "signatures_not_verified": list(not_verified),
            "imported_unix_s": round(time.time(), 3),
        },
    }


def _accept(keys: TrustedKeys, key: PublicKey, counter: int) -> None:
    """Use the counter up, if the key still counts: minutes may have gone by."""
    with keys.lock("import a base"):
        keys.get(key.key_id)
        keys.accept(key, counter)


def _make_folder(brain: BrainRoot, undo: ExitStack) -> None:
    """The folder of all bases, without what a killed import left; gone again when nothing comes of it."""
    folder = brain.layout.bases_dir
    if not folder.is_dir():
        folder.mkdir(parents=True)
        sync_directory(folder.parent)
        undo.callback(_remove_empty, folder)
    remove_staging_leftovers(folder)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
