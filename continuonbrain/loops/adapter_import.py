"""Adapters that go from one brain to another: signed, checked in memory, and a candidate at most.

`import_adapter` verifies everything before it writes anything, in this order: the file's shape, the signature by a
trusted key, kind, base model, names, counter, then sizes and sha256 of every file. What is refused changes nothing.
What is accepted makes these durable changes, in this order, under the locks of trainer and keys (a candidate that comes
while the sidecar judges its own would be taken for that one; so while a round lasts an import is refused):

  1. the counter of the key (one atomic replacement): this bundle and all older ones are refused from now on;
  2. `AdapterStore.stage`: the version's folder, whole, then the link `candidate`.

Killed before 1, nothing has happened. Killed between 1 and 2, or inside 2, the counter is used up and there may be a
version that is nobody's candidate: the bundle has to be exported again, and the next one works. The other order could
leave a candidate whose counter was never noted, and the same bundle could come back later.

A candidate does not drive. The sender's verdict is kept in the card and is none here: this brain promotes only on a
verdict of its own. Another robot's calibration is not taken (`adapter_origin.py`). `lora_adapters.pt` is a pickle; it
neither travels nor is taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from continuonbrain.brain_root import BrainRoot
from continuonbrain.errors import BrainError
from continuonbrain.loops.adapter_origin import ORIGIN, with_own_servo
from continuonbrain.loops.base_watch import refuse_if_moved
from continuonbrain.model.base_identity import checkpoint_sha256
from continuonbrain.storage.adapters import (
    BEHAVIOURAL_FILES,
    CARD_FILE,
    REQUIRED_FILES,
    VERDICT_FILE,
    AdapterStore,
    AdapterVersion,
    adapter_sha256,
)
from continuonbrain.storage.bundle import bundle_bytes, read_bundle
from continuonbrain.storage.durable import write_bytes_durably
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.storage.plain_json import load_plain, plain
from continuonbrain.storage.public_key import PublicKey
from continuonbrain.storage.signing import (
    KIND_ADAPTER,
    Document,
    Envelope,
    SignedFile,
    parse_envelope,
    sign,
    verify,
)
from continuonbrain.storage.trusted_keys import KeyRefused, PrivateKeys, TrustedKeys

PAPERS = (CARD_FILE, VERDICT_FILE)
"""About the adapter; of the sender, so they end up inside this brain's own card."""

LARGEST_PAPER = 4 << 20
"""Bytes of a card or verdict."""

_LOCK_WAIT_S = 2.0
"""A round in which there is nothing to learn is over sooner."""


class ImportRefused(BrainError):
    """A bundle is not taken. Nothing was changed."""


class StagingFailed(BrainError):
    """A bundle was verified and its counter used up, but it could not become the candidate."""


class ExportRefused(BrainError):
    """An adapter cannot be exported. Nothing was changed."""


@dataclass(frozen=True)
class Imported:
    """What was taken. not_verified: algorithms of further signatures, which count for nothing; instead_of: the
    candidate whose place it took, "" where there was none; servo: whose calibration it is driven with, in words."""

    version: AdapterVersion
    sha256: str
    key: PublicKey
    counter: int
    not_verified: tuple[str, ...]
    instead_of: str = ""
    servo: str = ""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    version_id: str
    path: Path
    bytes: int
    key_id: str
    counter: int


def no_refusal(_files: Mapping[str, bytes], _base_sha256: str) -> str:
    """Nothing more speaks against these files."""
    return ""


def import_adapter(
    brain: BrainRoot, path: Path, *, fits: Callable[[Mapping[str, bytes], str], str] = no_refusal
) -> Imported:
    """Take the adapter in the bundle `path` as candidate. It drives only after a verdict of this brain.

    fits: given the verified files and this brain's base, says what else speaks against them, "" for nothing.

    Raises:
        BrainError: it is refused, with nothing changed (`ImportRefused`, `BundleError`, `SignatureRefused`,
            `KeyRefused`, `OldCounterError`, `CounterLostError`, ...).
        StagingFailed: after the counter was used up.
        OSError: the file cannot be read, or the disk refused.
    """
    keys = keys_of(brain)
    serving = checkpoint_sha256(brain.layout.base_model_dir)
    brain.layout.trainer_dir.mkdir(parents=True, exist_ok=True)
    training = ProcessLock(
        brain.layout.trainer_lock_path, purpose=f"change the candidate of {brain.layout.root}"
    )
    with training, keys.lock("import an adapter"):
        refuse_if_moved(brain.layout)
        store = AdapterStore(brain.layout)
        before = store.candidate_id()
        store.last_change()  # a damaged history would refuse the candidate after its counter was used up
        checked = _checked_bundle(path, keys, base_sha256=serving)
        if why := fits(checked.files, serving):
            raise ImportRefused(f"{path} is refused: {why}", remedy="have it exported again, for this base")
        behaviour = {n: d for n, d in checked.files.items() if n in BEHAVIOURAL_FILES}
        files, servo = with_own_servo(brain.layout, behaviour, checked.files.get(CARD_FILE, b"{}"))
        files[CARD_FILE] = _card(checked, sha256=adapter_sha256(files), base_sha256=serving, servo=servo)
        keys.accept(checked.key, checked.envelope.document.counter)
        try:
            version = store.stage(files)
        except (BrainError, OSError) as error:
            raise StagingFailed(
                f"{path} was verified, but cannot become the candidate: {error}",
                remedy="put that right, then have it exported again: this bundle's counter is used up",
            ) from error
    return Imported(
        version,
        adapter_sha256(files),
        checked.key,
        checked.envelope.document.counter,
        checked.not_verified,
        before or "",
        servo,
    )


def keys_of(brain: BrainRoot) -> TrustedKeys:
    """The keys that this brain trusts. Raises KeyRefused when it trusts none."""
    if not brain.layout.trusted_keys_dir.is_dir():
        raise KeyRefused(
            f"this brain trusts no key: there is no {brain.layout.trusted_keys_dir}",
            remedy=f"continuonbrain keys trust FILE.pub --root {brain.layout.root}",
        )
    return TrustedKeys(brain.layout)


@dataclass(frozen=True)
class _Checked:
    """A bundle against which nothing speaks."""

    envelope: Envelope
    key: PublicKey
    not_verified: tuple[str, ...]
    files: Mapping[str, bytes]
    envelope_sha256: str


def _checked_bundle(path: Path, keys: TrustedKeys, *, base_sha256: str) -> _Checked:
    """Read and verify a bundle. Writes nothing. Call under the lock of the keys."""
    found: list[tuple[Envelope, PublicKey, tuple[str, ...], str]] = []

    def check(data: bytes) -> Mapping[str, SignedFile]:
        envelope = parse_envelope(data)
        document = envelope.document
        key = keys.get(document.key_id)
        others = verify(envelope, key.public)
        if (refusal := bundle_refusal(document, base_sha256=base_sha256)) is not None:
            raise ImportRefused(f"{path} is refused: {refusal[0]}", remedy=refusal[1])
        keys.check_newer(key, document.counter)
        found.append((envelope, key, tuple(s.alg for s in others), hashlib.sha256(data).hexdigest()))
        return document.files

    with regular_file(path) as (file, size):
        files = read_bundle(file, size, check, what=str(path))
    for name in files:
        if name.endswith(".json"):
            json_object(files[name], f"{path}: {name}")
    envelope, key, not_verified, sha256 = found[0]
    return _Checked(envelope, key, not_verified, files, sha256)


def bundle_refusal(document: Document, *, base_sha256: str) -> tuple[str, str] | None:
    """What speaks against a document whose signature is good, and what to do; None when nothing does. Pure."""
    names = set(document.files)
    if document.kind != KIND_ADAPTER:
        return f"document.kind={document.kind!r}, not {KIND_ADAPTER!r}", "import an adapter's bundle"
    if document.base_sha256 != base_sha256:
        other, serving = document.base_sha256[:8], base_sha256[:8]
        return (
            f"it belongs to another base model (document.base_sha256 {other}, serving {serving})",
            "copy the base of whoever exported it, or train on this one",
        )
    if missing := [name for name in REQUIRED_FILES if name not in names]:
        return f"document.files has no {missing[0]}", "have it exported again"
    if extra := sorted(names - {*BEHAVIOURAL_FILES, *PAPERS}):
        return (
            f"document.files has {extra[0]}, which is no part of an adapter",
            "have it exported with: continuonbrain adapters export",
        )
    for name in names:
        if document.files[name].bytes == 0:
            return f"document.files.{name} is empty", "have it exported again"
        if name in PAPERS and document.files[name].bytes > LARGEST_PAPER:
            return f"document.files.{name} is larger than {LARGEST_PAPER >> 20} MiB", "have it exported again"
    return None


def _card(checked: _Checked, *, sha256: str, base_sha256: str, servo: str) -> bytes:
    """This brain's card of an adapter that it did not train. The sender's papers stand under `origin`, where nothing
    that reads cards (retention of episodes, a resumed training) takes them for this brain's own."""
    document = checked.envelope.document
    origin: dict[str, Any] = {
        name.removesuffix(".json"): load_plain(checked.files[name])
        for name in PAPERS
        if name in checked.files
    }
    card = {
        "adapter_sha256": sha256,
        "base_sha256": base_sha256,
        "imported": {
            "key_name": checked.key.name,
            "key_id": document.key_id,
            "counter": document.counter,
            "document_sha256": checked.envelope_sha256,
            "signatures_not_verified": list(checked.not_verified),
            "imported_unix_s": round(time.time(), 3),
            "servo": servo,
        },
        ORIGIN: origin,
    }
    try:
        plain(card)
    except (
        ValueError
    ) as error:  # one level deeper than the sender's: nobody who passes cards on may break at it
        raise ImportRefused(
            f"the papers are {error}", remedy="have it exported again without them"
        ) from error
    return (json.dumps(card, indent=2) + "\n").encode()


def export_adapter(
    brain: BrainRoot, name: str, out: Path, *, key_name: str, counter: int | None = None
) -> Exported:
    """Write an adapter as a bundle signed with a key of this root.

    Durable changes, in this order: the key's counter is used up, then `out` appears whole.

    Args:
        name: a version's id, or the slot that it stands in.
        out: must not exist.
        counter: to sign with; None takes the last one + 1.

    Raises:
        ExportRefused, AdapterError, KeyFileError, FileNotSafeError, CounterLostError, OSError.
    """
    if out.exists() or out.is_symlink():
        raise ExportRefused(f"{out} exists already", remedy="remove it, or choose another name")
    version = AdapterStore(brain.layout).find(name)
    files = _files_of(version)
    version.whole_sha256(root=brain.layout.root)
    if not adapter_sha256({n: d for n, d in files.items() if n in BEHAVIOURAL_FILES}).startswith(
        version.sha8
    ):
        raise ExportRefused(f"adapter {version.version_id} changed while it was read", remedy="try again")
    what = f"adapter {version.version_id}"
    data = write_bundle(
        brain, files, out, base_sha256=_base_of(version), key_name=key_name, counter=counter, what=what
    )
    return Exported(version.version_id, out, data.bytes, data.key_id, data.counter)


def write_bundle(
    brain: BrainRoot,
    files: Mapping[str, bytes],
    out: Path,
    *,
    base_sha256: str,
    key_name: str,
    counter: int | None = None,
    what: str,
) -> Exported:
    """Write an adapter's files as a bundle signed with a key of this root; `export_adapter` says how.

    Args:
        base_sha256: of the base that it was trained on.
        what: names the adapter in errors.

    Raises:
        ExportRefused, KeyFileError, FileNotSafeError, CounterLostError, OSError.
    """
    own = PrivateKeys(brain.layout)
    private, key_id = own.load(key_name), own.key_id(key_name)
    with TrustedKeys(brain.layout).lock("export an adapter"):
        document = Document(
            kind=KIND_ADAPTER,
            key_id=key_id,
            counter=own.next_counter(key_id, counter=counter),
            base_sha256=base_sha256,
            files={n: SignedFile(hashlib.sha256(d).hexdigest(), len(d)) for n, d in files.items()},
        )
        if (refusal := bundle_refusal(document, base_sha256=base_sha256)) is not None:
            raise ExportRefused(f"{what}: {refusal[0]}", remedy="train it again")
        data = bundle_bytes(sign(document, private), files)
        own.issue(key_id, document.counter)
        write_bytes_durably(out, data)
    return Exported(what, out, len(data), key_id, document.counter)


def _files_of(version: AdapterVersion) -> dict[str, bytes]:
    """What travels: the files that decide how it behaves, and its papers."""
    files: dict[str, bytes] = {}
    for name in (*BEHAVIOURAL_FILES, *PAPERS):
        try:
            files[name] = (version.path / name).read_bytes()
        except FileNotFoundError:
            continue
        if name.endswith(".json"):
            json_object(files[name], str(version.path / name))
    return files


def _base_of(version: AdapterVersion) -> str:
    """The base model that an adapter was trained on, as its papers say. Not guessed from what serves here now."""
    for paper in (version.card(), version.verdict()):
        if paper is not None and isinstance(paper.get("base_sha256"), str):
            return str(paper["base_sha256"])
    raise ExportRefused(
        f"adapter {version.version_id} does not say on which base model it was trained (card.json: base_sha256)",
        remedy="export one that this program has trained",
    )


def json_object(data: bytes, what: str) -> None:
    remedy = "have it exported again from an adapter that is whole"
    try:
        value = load_plain(data)
    except ValueError as error:
        raise ImportRefused(f"{what} is no JSON ({error})", remedy=remedy) from error
    if not isinstance(value, dict):
        raise ImportRefused(f"{what} holds no JSON object", remedy=remedy)


@contextmanager
def regular_file(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file, opened for reading, and its size. A pipe or a device would keep the reader waiting. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ImportRefused(
            f"{path} is no file",
            remedy="give the one file that `adapters export` or `cloud pack` wrote; pack a training's folder first",
        )
    with open(descriptor, "rb") as file:
        yield file, found.st_size
