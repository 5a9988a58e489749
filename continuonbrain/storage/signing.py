"""Signed documents: what was made elsewhere, who vouches for it, and in which order. No I/O.

A document names a set of files by size and sha256, the base model that they belong to, the key that signs, and a
counter that grows with every document of that key. Its envelope (`bundle.json` in a bundle) is

    {"document": {"algorithms": ["ed25519"], "base_sha256": ..., "counter": 7, "files": {NAME: {"bytes": ...,
     "sha256": ...}}, "key_id": ..., "kind": "adapter", "schema": 1},
     "signatures": [{"alg": "ed25519", "key_id": ..., "value": HEX}]}

in canonical form (`canonical_json.signable_bytes`) and nothing else: other bytes are refused, also where they mean the
same. A document of kind "base" has one field more, `grown_from`: {"adapter_sha256": ..., "base_sha256": ...}, and its
files have the names of `base_files.LARGEST`; all others have plain file names. Signed are `PREFIX` and the canonical
bytes of `document`. The prefix separates domains: no signature made for anything else can be taken for one of these.

`algorithms` has room for a second signature (post-quantum, e.g. "ml-dsa-65"). It is inside what is signed, so that one
cannot be taken off again unseen. A second signature is kept and reported as not verified, and counts for nothing;
Ed25519 alone decides, until a version of this program can check the other.

Ed25519 as in RFC 8032; the key id is the sha256 of the 32 raw bytes of the public key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from continuonbrain.errors import BrainError
from continuonbrain.storage.base_files import LARGEST
from continuonbrain.storage.canonical_json import LARGEST_INTEGER, parse_signable, signable_bytes

SCHEMA = 1
KIND_ADAPTER = "adapter"
KIND_BASE = "base"
ED25519 = "ed25519"
PREFIX = b"continuonbrain signed document 1\0"

MOST_FILES = 16
MOST_SIGNATURES = 4
LONGEST_SIGNATURE = 64 << 10
"""Hex digits; ML-DSA-65 needs 6618 (FIPS 204: 3309 bytes), SLH-DSA-128s some 16 thousand."""

_HEX64 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_ALGORITHM = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
_ASK_AGAIN = "ask whoever made it for a new one: continuonbrain adapters export"


_MADE_WITH = {KIND_ADAPTER: "adapters export", KIND_BASE: "cloud pack-base", "memory": "cloud export"}


class SignatureRefused(BrainError):
    """A document or its signature is not what it has to be."""


@dataclass(frozen=True)
class SignedFile:
    """A file as a document names it: sha256 in 64 hex digits, size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class GrownFrom:
    """What a base was made of: another base and the adapter that was merged into it, 64 hex digits each."""

    base_sha256: str
    adapter_sha256: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """What is signed.

    Attributes:
        kind: what the files are ("adapter", "base").
        key_id: of the Ed25519 key that signs.
        counter: 1 to 2^53 - 1; a reader takes a counter of a key only above the last one it took.
        base_sha256: the base model that the files belong to; of a base the one that they are.
        files: by name, in any order.
        algorithms: of all signatures, Ed25519 first.
        grown_from: of a base, and of nothing else.
    """

    kind: str
    key_id: str
    counter: int
    base_sha256: str
    files: Mapping[str, SignedFile]
    algorithms: tuple[str, ...] = (ED25519,)
    grown_from: GrownFrom | None = None

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "schema": SCHEMA,
            "kind": self.kind,
            "key_id": self.key_id,
            "counter": self.counter,
            "base_sha256": self.base_sha256,
            "files": {n: {"sha256": f.sha256, "bytes": f.bytes} for n, f in self.files.items()},
            "algorithms": list(self.algorithms),
        }
        if self.grown_from is not None:
            told["grown_from"] = {
                "base_sha256": self.grown_from.base_sha256,
                "adapter_sha256": self.grown_from.adapter_sha256,
            }
        return told

    def signed_bytes(self) -> bytes:
        """What a signature is made over."""
        return PREFIX + signable_bytes(self.to_json())


@dataclass(frozen=True)
class Signature:
    """One signature: which algorithm, which key, and its value in lower-case hex."""

    alg: str
    key_id: str
    value: str


@dataclass(frozen=True)
class Envelope:
    """A document with its signatures, none of them checked yet."""

    document: Document
    signatures: tuple[Signature, ...]


def key_id_of(public: bytes) -> str:
    """The name of a public key (32 raw bytes): 64 hex digits."""
    return hashlib.sha256(public).hexdigest()


def new_private_key() -> bytes:
    """32 bytes from the operating system's generator."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key_of(private: bytes) -> bytes:
    """The 32 raw bytes of the public key that belongs to 32 private ones."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(document: Document, private: bytes, others: Sequence[Signature] = ()) -> bytes:
    """The envelope of `document`, in its canonical bytes.

    Args:
        private: 32 raw bytes, of the key that `document.key_id` names.
        others: made elsewhere, for the algorithms after the first.

    Raises:
        SignatureRefused: it would be refused by `parse_envelope`, or the key is another.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if key_id_of(public_key_of(private)) != document.key_id:
        raise SignatureRefused(f"document.key_id={document.key_id[:16]!r} is not the key that signs")
    value = Ed25519PrivateKey.from_private_bytes(private).sign(document.signed_bytes()).hex()
    signatures = (Signature(ED25519, document.key_id, value), *others)
    envelope = {
        "document": document.to_json(),
        "signatures": [{"alg": s.alg, "key_id": s.key_id, "value": s.value} for s in signatures],
    }
    data = signable_bytes(envelope)
    parse_envelope(data)
    return data


def parse_envelope(data: bytes) -> Envelope:
    """Read an envelope, checking everything but the signatures themselves.

    Raises:
        NotSignableError: not canonical.
        SignatureRefused: a field is missing, unknown or out of range.
    """
    raw = parse_signable(data, what="bundle.json")
    _fields(raw, {"document", "signatures"}, "bundle.json")
    document = _document(raw["document"])
    given = raw["signatures"]
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_SIGNATURES:
        raise _wrong("signatures", given, f"a list of 1 to {MOST_SIGNATURES}")
    signatures = tuple(_signature(s, f"signatures[{i}]") for i, s in enumerate(given))
    if tuple(s.alg for s in signatures) != document.algorithms:
        raise SignatureRefused(
            "bundle.json: its signatures are not those that document.algorithms names "
            f"({', '.join(document.algorithms)}): one was taken off, added or moved",
            remedy=_ASK_AGAIN,
        )
    if signatures[0].key_id != document.key_id:
        raise SignatureRefused("bundle.json: signatures[0].key_id is not document.key_id", remedy=_ASK_AGAIN)
    return Envelope(document, signatures)


def verify(envelope: Envelope, public: bytes) -> tuple[Signature, ...]:
    """Check the Ed25519 signature with the trusted key `public` (32 raw bytes).

    Returns:
        The other signatures: kept, not verified, counting for nothing.

    Raises:
        SignatureRefused: the document was not signed, in exactly these bytes, by this key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    document, signature = envelope.document, envelope.signatures[0]
    if (given := key_id_of(public)) != document.key_id:
        raise SignatureRefused(
            f"the signature is one of key {document.key_id[:16]}; the key that was given is {given[:16]}",
            remedy="give the .pub file of whoever signed it, if you trust them",
        )
    again = _MADE_WITH.get(document.kind, "")
    refused = SignatureRefused(
        f"the signature does not belong to this document and key {document.key_id[:16]}",
        remedy="do not use it; ask whoever made it for a new one" + (again and f": continuonbrain {again}"),
    )
    if signature.alg != ED25519:
        raise refused
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(
            bytes.fromhex(signature.value), document.signed_bytes()
        )
    except (InvalidSignature, ValueError) as error:
        raise refused from error
    return envelope.signatures[1:]


def _document(raw: object) -> Document:
    names = {"schema", "kind", "key_id", "counter", "base_sha256", "files", "algorithms"}
    is_base = isinstance(raw, dict) and raw.get("kind") == KIND_BASE
    known = _fields(raw, names | {"grown_from"} if is_base else names, "document")
    if known["schema"] != SCHEMA or isinstance(known["schema"], bool):
        raise SignatureRefused(
            f"bundle.json: document.schema={known['schema']!r}; this program reads {SCHEMA}",
            remedy="install a newer continuonbrain, or have it exported by the same version",
        )
    counter = known["counter"]
    if isinstance(counter, bool) or not isinstance(counter, int) or not 1 <= counter <= LARGEST_INTEGER:
        raise _wrong("document.counter", counter, "an integer from 1 to 2^53 - 1")
    files = known["files"]
    if not isinstance(files, dict) or not 1 <= len(files) <= MOST_FILES:
        raise _wrong("document.files", files, f"an object of 1 to {MOST_FILES} files")
    algorithms = known["algorithms"]
    if (
        not isinstance(algorithms, list)
        or not 1 <= len(algorithms) <= MOST_SIGNATURES
        or not all(isinstance(a, str) and _ALGORITHM.fullmatch(a) for a in algorithms)
        or algorithms[0] != ED25519
        or len(set(algorithms)) != len(algorithms)
    ):
        raise _wrong("document.algorithms", algorithms, '"ed25519" first, no name twice')
    return Document(
        kind=_text(known["kind"], "document.kind", _ALGORITHM),
        key_id=_text(known["key_id"], "document.key_id", _HEX64),
        counter=counter,
        base_sha256=_text(known["base_sha256"], "document.base_sha256", _HEX64),
        files={_name(n, is_base): _file(f, n) for n, f in files.items()},
        algorithms=tuple(algorithms),
        grown_from=_grown_from(known["grown_from"]) if is_base else None,
    )


def _name(name: object, is_base: bool) -> str:
    """A file's name: of a base one of a list, else a plain one. No name leads anywhere else."""
    if is_base and name not in LARGEST:
        raise _wrong("a name in document.files", name, "a file of a base")
    return str(name) if is_base else _text(name, "a name in document.files", _FILE_NAME)


def _grown_from(raw: object) -> GrownFrom:
    known = _fields(raw, {"base_sha256", "adapter_sha256"}, "document.grown_from")
    return GrownFrom(
        *(_text(known[n], f"document.grown_from.{n}", _HEX64) for n in ("base_sha256", "adapter_sha256"))
    )


def _file(raw: object, name: str) -> SignedFile:
    where = f"document.files.{name}"
    known = _fields(raw, {"sha256", "bytes"}, where)
    size = known["bytes"]
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise _wrong(f"{where}.bytes", size, "a size >= 0")
    return SignedFile(_text(known["sha256"], f"{where}.sha256", _HEX64), size)


def _signature(raw: object, where: str) -> Signature:
    known = _fields(raw, {"alg", "key_id", "value"}, where)
    value = known["value"]
    if (
        not isinstance(value, str)
        or len(value) > LONGEST_SIGNATURE
        or not re.fullmatch(r"([0-9a-f]{2})+", value)
    ):
        raise _wrong(f"{where}.value", value, f"at most {LONGEST_SIGNATURE} lower-case hex digits")
    alg = _text(known["alg"], f"{where}.alg", _ALGORITHM)
    return Signature(alg, _text(known["key_id"], f"{where}.key_id", _HEX64), value)


def _fields(raw: object, names: set[str], where: str) -> dict[str, Any]:
    """`raw`, an object of exactly these fields. An unknown field is refused: it may mean what is not understood."""
    if not isinstance(raw, dict) or raw.keys() != names:
        found = sorted(raw) if isinstance(raw, dict) else type(raw).__name__
        raise _wrong(where, found, f"an object of {', '.join(sorted(names))}")
    return raw


def _text(value: object, where: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _wrong(where, value, f"text like {pattern.pattern}")
    return value


def _wrong(where: str, value: object, wanted: str) -> SignatureRefused:
    return SignatureRefused(
        f"bundle.json: {where} is {str(value)[:60]!r}; it must be {wanted}", remedy=_ASK_AGAIN
    )
