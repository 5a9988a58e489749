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
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.adapter_import import (
    ExportRefused,
    ImportRefused,
    keys_of,
    regular_file,
)
from continuonbrain.model.base_identity import base_sha256, check_base_files
from continuonbrain.model.serving.spec import DrivingSpec
from continuonbrain.model.weight_shapes import ShapeError, not_finite, other_shapes
from continuonbrain.policy.reflex import REFLEX_FILE, Reflex
from continuonbrain.storage.adapter_version import CARD_FILE
from continuonbrain.storage.base_files import (
    LARGEST,
    PRECISIONS,
    SERVING,
    files_refusal,
    graph_files,
)
from continuonbrain.storage.base_slots import SLOT_FILE, BaseSlots
from continuonbrain.storage.durable import new_directory_durably, remove_staging_leftovers, sync_directory
from continuonbrain.storage.large_bundle import file_member, unpack_large, write_large
from continuonbrain.storage.plain_json import load_strict
from continuonbrain.storage.public_key import PublicKey
from continuonbrain.storage.signing import (
    KIND_BASE,
    Document,
    Envelope,
    GrownFrom,
    SignedFile,
    parse_envelope,
    sign,
    verify,
)
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys

SLOT_DIGITS = 16
_KEPT_FREE = 256 << 20
"""Bytes that an import leaves free on the disk."""
_AGAIN = "have it packed again: continuonbrain cloud pack-base"
_COMPARED = ("model.safetensors", "connector.safetensors")


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


@dataclass(frozen=True)
class Packed:
    """What was written."""

    path: Path
    bytes: int
    base_sha256: str
    grown_from: GrownFrom
    precisions: tuple[str, ...]
    key_id: str
    counter: int


def import_base(brain: BrainRoot, path: Path) -> ImportedBase:
    """Take the base in the bundle `path` as a slot of its own.

    Raises:
        BrainError: it is refused, with nothing changed.
        OSError: the file cannot be read, or the disk refused.
    """
    keys, slots, layout = keys_of(brain), BaseSlots(brain.layout), brain.layout
    found: list[tuple[Envelope, PublicKey, tuple[str, ...], str, Path]] = []

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

        base = unpack_large(file, size, check, begin, what=str(path))
        envelope, key, not_verified, sha256, grown = found[0]
        document = envelope.document
        if why := _content_refusal(base, document, grown):
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


def base_refusal(document: Document) -> str:
    """What speaks against a document of a base whose signature is good, "" when nothing does. Pure."""
    if document.kind != KIND_BASE or document.grown_from is None:
        return f"document.kind={document.kind!r}, not {KIND_BASE!r}"
    if document.grown_from.base_sha256 == document.base_sha256:
        return "document.grown_from names the base itself"
    return files_refusal(document.files)


def pack_base(
    brain: BrainRoot,
    folder: Path,
    out: Path,
    *,
    key_name: str,
    grown_from: GrownFrom | None = None,
    counter: int | None = None,
) -> Packed:
    """Write a base as a bundle signed with a key of this root.

    Durable changes, in this order: the key's counter is used up, then `out` appears whole.

    Args:
        folder: a base that drives, with its graphs where it has any.
        out: must not exist.
        grown_from: None takes what `model merge` left in the folder's card.
        counter: to sign with; None takes the last one + 1.

    Raises:
        ExportRefused: the folder is no whole base, or nobody can say what it grew from.
        BaseModelError, KeyFileError, FileNotSafeError, CounterLostError, OSError.
    """
    if out.exists() or out.is_symlink():
        raise ExportRefused(f"{out} exists already", remedy="remove it, or choose another name")
    sha256 = base_sha256(folder)
    check_base_files(folder)
    grown_from = _growth(folder, grown_from)
    members = [file_member(folder / name, name) for name in sorted(LARGEST) if (folder / name).is_file()]
    files = {m.name: SignedFile(m.sha256, m.bytes) for m in members}
    if why := _graphs_refusal(folder, sha256, files):
        raise ExportRefused(f"{folder}: {why}", remedy="export its graphs again: continuonbrain model export")
    own = PrivateKeys(brain.layout)
    private, key_id = own.load(key_name), own.key_id(key_name)
    staging = out.with_name(f".staging-{os.getpid():08x}-{out.name}")
    try:
        with TrustedKeys(brain.layout).lock("pack a base"):
            document = Document(
                kind=KIND_BASE,
                key_id=key_id,
                counter=own.next_counter(key_id, counter=counter),
                base_sha256=sha256,
                files=files,
                grown_from=grown_from,
            )
            if why := base_refusal(document):
                raise ExportRefused(f"{folder}: {why}", remedy="give the folder of a base that drives")
            envelope = sign(document, private)
            own.issue(key_id, document.counter)
        with open(staging, "xb") as file:
            length = write_large(file, envelope, folder, members)
            file.flush()
            os.fsync(file.fileno())
        os.link(staging, out)  # unlike a rename it replaces nothing
    finally:
        staging.unlink(missing_ok=True)
    sync_directory(out.parent)
    there = tuple(p for p in PRECISIONS if graph_files(p)[0] in files)
    return Packed(out, length, sha256, grown_from, there, key_id, document.counter)


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


def _content_refusal(base: Path, document: Document, grown: Path) -> str:
    """What speaks against the files of a base, which are those that were signed; "" when nothing does."""
    try:
        for name in document.files:
            if name.endswith(".json"):
                _check_json(base / name)
            elif name.endswith(".safetensors") and (odd := not_finite(base / name)):
                return f"{name}: {odd} holds numbers that are none (infinity or NaN)"
        if (told := _card_growth(base)) not in (None, document.grown_from):
            signed = _short(document.grown_from)
            return f"{CARD_FILE} says that it grew from {_short(told)}, what was signed from {signed}"
        if REFLEX_FILE in document.files:
            Reflex.from_file(base / REFLEX_FILE)
        for name in _COMPARED:
            if why := other_shapes(base / name, grown / name):
                return why
        if base_sha256(base) != document.base_sha256:
            return f"its files are another base than document.base_sha256 ({document.base_sha256[:8]}) says"
    except (ShapeError, BrainError) as error:
        return error.message
    return _graphs_refusal(base, document.base_sha256, document.files)


def _graphs_refusal(base: Path, sha256: str, files: Mapping[str, SignedFile]) -> str:
    for precision in PRECISIONS:
        if graph_files(precision)[0] not in files:
            continue
        try:
            spec = DrivingSpec.read(base / SERVING / precision)
        except BrainError as error:
            return error.message
        if spec.base_sha256 != sha256 or spec.precision != precision:
            return f"{SERVING}/{precision} holds graphs of base {spec.base_sha256[:8]} in {spec.precision}"
    return ""


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


def _growth(folder: Path, said: GrownFrom | None) -> GrownFrom:
    """What a base grew from: what is said, or stands in its card. ExportRefused where neither does, or they differ."""
    told = _card_growth(folder)
    if said is not None and told not in (None, said):
        raise ExportRefused(
            f"{folder / CARD_FILE} says that this base grew from {_short(told)}, not {_short(said)}",
            remedy="leave out --grown-from and --adapter: what `model merge` wrote there is signed",
        )
    if (known := said or told) is None:
        raise ExportRefused(
            f"{folder / CARD_FILE} does not say what this base grew from (grown_from)",
            remedy="give a folder that `continuonbrain model merge` wrote, or --grown-from BASE and --adapter ADAPTER",
        )
    return known


def _card_growth(folder: Path) -> GrownFrom | None:
    """What a base's card says that it grew from; None where it says nothing that can be understood."""
    try:
        told = load_strict((folder / CARD_FILE).read_bytes())["grown_from"]
        return GrownFrom(str(told["base_sha256"]), str(told["adapter_sha256"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _short(grown: GrownFrom | None) -> str:
    return f"base {grown.base_sha256[:8]} with adapter {grown.adapter_sha256[:8]}" if grown else "nothing"


def _check_json(path: Path) -> None:
    """ImportRefused for a file that is no JSON object which everybody reads alike."""
    try:
        value = load_strict(path.read_bytes())
    except ValueError as error:
        raise ImportRefused(f"{path.name} is no JSON ({error})", remedy=_AGAIN) from error
    if not isinstance(value, dict):
        raise ImportRefused(f"{path.name} holds no JSON object", remedy=_AGAIN)
