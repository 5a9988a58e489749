"""A base as one signed file, on the machine that made it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from continuonbrain.brain_root import BrainRoot
from continuonbrain.loops.adapter_import import ExportRefused
from continuonbrain.loops.base_content import base_refusal, card_growth, graphs_refusal, short
from continuonbrain.model.base_identity import base_sha256, check_base_files
from continuonbrain.storage.adapter_version import CARD_FILE
from continuonbrain.storage.base_files import LARGEST, PRECISIONS, graph_files
from continuonbrain.storage.durable import sync_directory
from continuonbrain.storage.large_bundle import file_member, write_large
from continuonbrain.storage.signing import KIND_BASE, Document, GrownFrom, SignedFile, sign
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys


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
    if why := graphs_refusal(folder, sha256, files):
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


def _growth(folder: Path, said: GrownFrom | None) -> GrownFrom:
    """What a base grew from: what is said, or stands in its card. ExportRefused where neither does, or they differ."""
    told = card_growth(folder)
    if said is not None and told not in (None, said):
        raise ExportRefused(
            f"{folder / CARD_FILE} says that this base grew from {short(told)}, not {short(said)}",
            remedy="leave out --grown-from and --adapter: what `model merge` wrote there is signed",
        )
    if (known := said or told) is None:
        raise ExportRefused(
            f"{folder / CARD_FILE} does not say what this base grew from (grown_from)",
            remedy="give a folder that `continuonbrain model merge` wrote, or --grown-from BASE and --adapter ADAPTER",
        )
    return known
