"""Canonical JSON, signed documents and bundles: one spelling each, and nothing else is taken."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuonbrain.errors import BrainError
from continuonbrain.storage import bundle
from continuonbrain.storage.bundle import BundleError, bundle_bytes, read_bundle
from continuonbrain.storage.canonical_json import (
    LARGEST_INTEGER,
    NotSignableError,
    canonical_json,
    parse_signable,
    signable_bytes,
)
from continuonbrain.storage.signing import (
    PREFIX,
    Document,
    Signature,
    SignatureRefused,
    SignedFile,
    key_id_of,
    parse_envelope,
    public_key_of,
    sign,
    verify,
)

# RFC 8032, section 7.1, test 1.
PRIVATE = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
OTHER = bytes(range(32))
DOCUMENT = Document(
    kind="adapter",
    key_id=key_id_of(PUBLIC),
    counter=7,
    base_sha256="b" * 64,
    files={
        "adapter_config.json": SignedFile("a" * 64, 2),
        "adapter_model.safetensors": SignedFile("c" * 64, 9),
    },
)

texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8)
signable = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-LARGEST_INTEGER, LARGEST_INTEGER), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=20,
)
documents = st.dictionaries(texts, signable, max_size=5)


def shuffled(value: Any, draw: Any) -> Any:
    """The same value, its keys inserted in another order."""
    if isinstance(value, dict):
        keys = draw(st.permutations(list(value)))
        return {key: shuffled(value[key], draw) for key in keys}
    if isinstance(value, list):
        return [shuffled(inner, draw) for inner in value]
    return value


def rfc8785(value: Any) -> str:
    """Written anew from the RFC, for values without floats."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{rfc8785(key)}:{rfc8785(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(rfc8785, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


@given(st.data(), documents)
def test_canonical_bytes_do_not_depend_on_the_order_of_keys_and_are_rfc_8785(
    data: st.DataObject, value: dict[str, Any]
) -> None:
    canonical = signable_bytes(value)
    assert signable_bytes(shuffled(value, data.draw)) == canonical
    assert canonical == rfc8785(value).encode()
    assert parse_signable(canonical, what="it") == value


@given(documents, st.integers(0), st.integers(1, 255))
def test_no_other_bytes_mean_the_same(value: dict[str, Any], at: int, mask: int) -> None:
    canonical = bytearray(signable_bytes(value))
    canonical[at % len(canonical)] ^= mask
    try:
        changed = parse_signable(bytes(canonical), what="it")
    except NotSignableError:
        return
    assert repr(changed) != repr(value)  # repr: True is not 1 here


@pytest.mark.parametrize(
    "value",
    [1.0, float("nan"), -0.0, 2**53, "é", "a\u0301", "\n", "\x7f", b"", {1: 2}, {"\u00e9": 1}, {"a": {1, 2}}],
)
def test_what_has_two_spellings_somewhere_is_not_signed(value: Any) -> None:
    with pytest.raises(NotSignableError, match="the document"):
        signable_bytes({"key": value} if not isinstance(value, dict) else value)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"a":2}',
        '{"a": 1}',
        '{"a":1}\n',
        '\ufeff{"a":1}',
        '{"b":1,"a":1}',
        '{"a":1.0}',
        '{"a":1e3}',
        '{"a":-0}',
        '{"a":NaN}',
        '{"a":"\\u0041"}',
        '{"a":"\\/"}',
        '{"a":"é"}',
        '{"a":' + "[" * 17 + "]" * 17 + "}",
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a":' + "9" * 10_000 + "}",
        "[]",
        "1",
        "",
    ],
)
def test_only_the_canonical_spelling_is_read(text: str) -> None:
    with pytest.raises(NotSignableError, match="the file") as refused:
        parse_signable(text.encode(), what="the file")
    assert refused.value.remedy


def test_the_history_and_signatures_write_the_same_text() -> None:
    value = {"b": [1, None, True], "a": "text"}
    assert signable_bytes(value) == canonical_json(value).encode()


# Documents.


def test_the_format_is_what_it_was() -> None:
    """Signed elsewhere and long ago must stay readable: these bytes never change."""
    data = sign(DOCUMENT, PRIVATE)
    assert public_key_of(PRIVATE) == PUBLIC
    assert PREFIX == b"continuonbrain signed document 1\0"
    assert data.startswith(b'{"document":{"algorithms":["ed25519"],"base_sha256":"bbbb')
    assert json.loads(data)["signatures"] == [
        {
            "alg": "ed25519",
            "key_id": "21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9",
            "value": GOLDEN,
        }
    ]


GOLDEN = (
    "eb690225e8dd25beab4ce419a75dd46cfe96f58cfc003ee3fcc987224065def6"
    "37a389cc9615bd828a421ec6896c01b53dc6a04aacd08f47b2ea56bb10495c07"
)


def test_a_signed_document_is_read_back_and_verified() -> None:
    envelope = parse_envelope(sign(DOCUMENT, PRIVATE))
    assert envelope.document == DOCUMENT
    assert verify(envelope, PUBLIC) == ()


def test_another_key_other_bytes_or_no_prefix_are_refused() -> None:
    envelope = parse_envelope(sign(DOCUMENT, PRIVATE))
    with pytest.raises(SignatureRefused):
        verify(envelope, public_key_of(OTHER))
    with pytest.raises(SignatureRefused):
        verify(replace(envelope, document=replace(DOCUMENT, counter=8)), PUBLIC)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    bare = (
        Ed25519PrivateKey.from_private_bytes(PRIVATE).sign(DOCUMENT.signed_bytes().removeprefix(PREFIX)).hex()
    )
    with pytest.raises(SignatureRefused):
        verify(replace(envelope, signatures=(Signature("ed25519", DOCUMENT.key_id, bare),)), PUBLIC)
    with pytest.raises(SignatureRefused, match="key_id"):
        sign(DOCUMENT, OTHER)


def test_an_unknown_second_signature_is_kept_and_counts_for_nothing() -> None:
    document = replace(DOCUMENT, algorithms=("ed25519", "ml-dsa-65"))
    second = Signature("ml-dsa-65", "d" * 64, "00" * 3309)
    envelope = parse_envelope(sign(document, PRIVATE, [second]))
    assert verify(envelope, PUBLIC) == (second,)
    wrong_first = (replace(envelope.signatures[0], value="00" * 64), second)
    with pytest.raises(SignatureRefused):
        verify(replace(envelope, signatures=wrong_first), PUBLIC)


def test_a_second_signature_cannot_be_taken_off_added_or_moved() -> None:
    second = Signature("ml-dsa-65", "d" * 64, "00")
    document = replace(DOCUMENT, algorithms=("ed25519", "ml-dsa-65"))
    whole = json.loads(sign(document, PRIVATE, [second]))
    for change in (whole["signatures"][:1], whole["signatures"][1:], whole["signatures"][::-1]):
        with pytest.raises(SignatureRefused):
            parse_envelope(signable_bytes({**whole, "signatures": change}))
    alone = json.loads(sign(DOCUMENT, PRIVATE))
    with pytest.raises(SignatureRefused, match="algorithms"):
        parse_envelope(signable_bytes({**alone, "signatures": whole["signatures"]}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 2),
        ("schema", True),
        ("counter", 0),
        ("counter", -1),
        ("counter", True),
        ("counter", "7"),
        ("key_id", "21FE"),
        ("base_sha256", "b" * 63),
        ("kind", "../adapter"),
        ("files", {}),
        ("files", []),
        ("files", {"../up": {"sha256": "a" * 64, "bytes": 1}}),
        ("files", {"a/b": {"sha256": "a" * 64, "bytes": 1}}),
        ("files", {".hidden": {"sha256": "a" * 64, "bytes": 1}}),
        ("files", {"A": {"sha256": "a" * 64, "bytes": 1}}),
        ("files", {"a": {"sha256": "a" * 64, "bytes": -1}}),
        ("files", {"a": {"sha256": "a" * 64, "bytes": True}}),
        ("files", {"a": {"sha256": "a" * 64}}),
        ("files", {"a": {"sha256": "a" * 64, "bytes": 1, "mode": 511}}),
        ("files", {f"f{i}": {"sha256": "a" * 64, "bytes": 1} for i in range(17)}),
        ("algorithms", []),
        ("algorithms", ["ml-dsa-65"]),
        ("algorithms", ["ed25519", "ed25519"]),
        ("algorithms", "ed25519"),
        ("unknown", 1),
    ],
)
def test_a_field_that_is_not_what_it_has_to_be_is_named(field: str, value: Any) -> None:
    whole = json.loads(sign(DOCUMENT, PRIVATE))
    whole["document"][field] = value
    with pytest.raises(BrainError, match="document" if field == "unknown" else field) as refused:
        parse_envelope(signable_bytes(whole))
    assert refused.value.remedy


# Bundles.

FILES = {"a.json": b"{}", "weights": b"w" * 300}
SIGNED = {name: SignedFile(hashlib.sha256(data).hexdigest(), len(data)) for name, data in FILES.items()}
ENVELOPE = b'{"any":"thing"}'


def read(data: bytes, expected: Mapping[str, SignedFile] = SIGNED) -> dict[str, bytes]:
    return read_bundle(io.BytesIO(data), len(data), lambda _: expected, what="x.bundle")


def test_a_bundle_is_a_zip_like_any_other_and_reads_back(tmp_path: Path) -> None:
    data = bundle_bytes(ENVELOPE, FILES)
    assert read(data) == FILES
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        assert zipped.testzip() is None
        assert zipped.namelist() == ["bundle.json", "a.json", "weights"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in zipped.infolist())
        assert zipped.read("weights") == FILES["weights"]
    if (unzip := shutil.which("unzip")) is not None:
        (tmp_path / "x.zip").write_bytes(data)
        assert (
            subprocess.run([unzip, "-tq", tmp_path / "x.zip"], check=False, capture_output=True).returncode
            == 0
        )


def test_every_flipped_bit_cut_and_added_byte_is_refused() -> None:
    data = bundle_bytes(ENVELOPE, FILES)
    # What is read of bundle.json is the checker's to judge: here it compares.
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            with pytest.raises(BundleError):
                read(bytes(changed))
        with pytest.raises(BundleError):
            read(data[:at])
    for changed in (data + b"\0", b"\0" + data, data + data):
        with pytest.raises(BundleError):
            read(bytes(changed))


def by_zipfile(entries: list[tuple[str, bytes]], **info: Any) -> bytes:
    """A bundle as somebody would make it with a zip library."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", info.pop("compression", zipfile.ZIP_STORED)) as zipped:
        for name, data in entries:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipped.compression
            entry.external_attr = info.get("external_attr", 0o100644 << 16)
            with (
                pytest.warns(UserWarning, match="Duplicate name")
                if name in zipped.namelist()
                else contextlib.nullcontext()
            ):
                zipped.writestr(entry, data)
    return out.getvalue()


GOOD = [("bundle.json", ENVELOPE), *sorted(FILES.items())]


def test_a_zip_library_can_write_one_too() -> None:
    assert by_zipfile(GOOD) == bundle_bytes(ENVELOPE, FILES)


@pytest.mark.parametrize(
    "data",
    [
        by_zipfile([*GOOD, ("more", b"x")]),
        by_zipfile(GOOD[:-1]),
        by_zipfile([GOOD[1], GOOD[0], GOOD[2]]),
        by_zipfile([GOOD[0], GOOD[2], GOOD[1]]),
        by_zipfile([GOOD[0], ("../a.json", b"{}"), GOOD[2]]),
        by_zipfile([GOOD[0], ("/etc/a", b"{}"), GOOD[2]]),
        by_zipfile(GOOD, external_attr=0o120777 << 16),
        by_zipfile(GOOD, compression=zipfile.ZIP_DEFLATED),
        b"",
        b"PK\x05\x06" + bytes(18),
        b"\x80\x04.",
    ],
)
def test_more_fewer_moved_linked_or_compressed_entries_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"x\.bundle") as refused:
        read(data)
    assert refused.value.remedy


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(BundleError):
        read(by_zipfile([*GOOD, GOOD[2]]))


class Counted(io.BytesIO):
    """Counts what is read of it."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def test_sizes_that_lie_reserve_no_memory_and_read_nothing_further() -> None:
    huge = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 0, 0, 0x21, 0, 2**32 - 1, 2**32 - 1, 11, 0)
    file = Counted(huge + b"bundle.json" + bytes(1000))
    with pytest.raises(BundleError, match="4294967295"):
        read_bundle(file, 1041, lambda _: SIGNED, what="x.bundle")
    assert file.taken == 41
    # The same in a document that is verified: not a byte behind it is read.
    data = bundle_bytes(ENVELOPE, FILES)
    for size in (2**40, bundle.LARGEST_TOTAL + 1, 299, 301):
        file = Counted(data)
        with pytest.raises(BundleError):
            read_bundle(
                file,
                len(data),
                lambda _, size=size: {**SIGNED, "weights": replace(SIGNED["weights"], bytes=size)},
                what="x.bundle",
            )
        assert file.taken == 41 + len(ENVELOPE)


def test_nothing_is_read_before_the_document_is_verified() -> None:
    file = Counted(bundle_bytes(ENVELOPE, FILES))

    def refuse(_: bytes) -> Mapping[str, SignedFile]:
        raise SignatureRefused("no")

    with pytest.raises(SignatureRefused):
        read_bundle(file, 1000, refuse, what="x.bundle")
    assert file.taken == 41 + len(ENVELOPE)


def test_a_file_with_the_right_size_and_crc_and_other_bytes_is_refused() -> None:
    forged = dict(FILES, weights=b"x" * 300)
    with pytest.raises(BundleError, match="weights is not the file that was signed"):
        read(bundle_bytes(ENVELOPE, forged))
    assert zlib.crc32(b"x" * 300) != zlib.crc32(FILES["weights"])
