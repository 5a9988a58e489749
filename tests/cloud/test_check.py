"""Every way of changing a bundle is found."""

from __future__ import annotations

import json
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud.check import check_bundle, is_memory, read_envelope
from continuonbrain.cloud.manifest import parse_manifest
from continuonbrain.cloud.privacy import FACES
from continuonbrain.errors import BrainError
from continuonbrain.storage.canonical_json import signable_bytes
from continuonbrain.storage.public_key import PublicKey, parse_public_key
from continuonbrain.storage.signing import new_private_key, public_key_of
from continuonbrain.storage.trusted_keys import PrivateKeys
from continuonbrain.storage.zip64 import Member, directory, is_member_name, local_header, read_local_header

from .conftest import KEY, export, files_in


@pytest.fixture
def key(brain: BrainRoot) -> PublicKey:
    path = PrivateKeys(brain.layout).public_path(KEY)
    return parse_public_key(path.read_bytes(), what=str(path))


def zipped(files: dict[str, bytes]) -> bytes:
    """A bundle of these files, spelled as ours are, whatever is in them."""
    import hashlib
    import zlib

    members = [Member(n, len(d), zlib.crc32(d), hashlib.sha256(d).hexdigest()) for n, d in files.items()]
    bodies = [local_header(m.name, m.bytes, m.crc32) + files[m.name] for m in members]
    return b"".join([*bodies, directory(members)])


def in_order(folder: Path) -> dict[str, bytes]:
    files = files_in(folder)
    names = [m.name for m in parse_manifest(files["manifest.json"], what="test").members]
    return {name: files[name] for name in [*names, "manifest.json", "bundle.json"]}


def refused(path: Path, key: PublicKey) -> str:
    with pytest.raises(BrainError) as caught:
        check_bundle(path, key)
    return caught.value.message


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_byte_of_a_zip_can_change(
    brain: BrainRoot, key: PublicKey, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("flip")
    whole = export(brain, place / "a.zip").path.read_bytes()
    check_bundle(place / "a.zip", key)
    how = data.draw(st.sampled_from(("flip", "cut", "grow", "insert")))
    at = data.draw(st.integers(0, len(whole) - 1))
    if how == "flip":
        changed = whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :]
    elif how == "cut":
        changed = whole[:at]
    elif how == "grow":
        changed = whole + data.draw(st.binary(min_size=1, max_size=8))
    else:
        changed = whole[:at] + data.draw(st.binary(min_size=1, max_size=8)) + whole[at:]
    (place / "a.zip").write_bytes(changed)
    refused(place / "a.zip", key)


def test_members_swapped_moved_added_and_taken_away(brain: BrainRoot, key: PublicKey, tmp_path: Path) -> None:
    files = in_order(export(brain, tmp_path / "folder", as_zip=False).path)
    path = tmp_path / "b.zip"
    path.write_bytes(zipped(files))
    assert check_bundle(path, key).contents.episodes == 3
    names = list(files)
    swapped = {**files, names[3]: files[names[4]], names[4]: files[names[3]]}
    moved = {n: files[n] for n in [names[1], names[0], *names[2:]]}
    extra = {"evil.pt": b"pickle", **files}
    missing = {n: d for n, d in files.items() if n != names[0]}
    for changed, what in (
        (swapped, "sha256 differs"),
        (moved, "another order"),
        (extra, "evil.pt"),
        (missing, "members"),
    ):
        path.write_bytes(zipped(changed))
        assert what in refused(path, key)


def test_manifest_of_another_bundle(brain: BrainRoot, key: PublicKey, tmp_path: Path) -> None:
    first = in_order(export(brain, tmp_path / "first", as_zip=False).path)
    second = in_order(export(brain, tmp_path / "second", as_zip=False, frames="none").path)
    path = tmp_path / "c.zip"
    path.write_bytes(zipped({**first, "manifest.json": second["manifest.json"]}))
    assert "not this manifest" in refused(path, key)
    both = {"manifest.json": second["manifest.json"], "bundle.json": second["bundle.json"]}
    path.write_bytes(zipped({**first, **both}))
    assert "members" in refused(path, key)


def test_another_key(brain: BrainRoot, tmp_path: Path) -> None:
    done = export(brain, tmp_path / "a.zip")
    assert "signature" in refused(done.path, PublicKey("other", public_key_of(new_private_key())))


def test_a_document_of_another_kind_is_none(brain: BrainRoot, key: PublicKey, tmp_path: Path) -> None:
    """The key's owner signed it, as an adapter."""
    from continuonbrain.cloud.manifest import document_of
    from continuonbrain.storage.signing import Document, sign

    files = in_order(export(brain, tmp_path / "folder", as_zip=False).path)
    own = PrivateKeys(brain.layout)
    like = document_of(files["manifest.json"], "0" * 64)
    document = Document(kind="adapter", key_id=key.key_id, counter=9, base_sha256="0" * 64, files=like.files)
    path = tmp_path / "d.zip"
    path.write_bytes(zipped({**files, "bundle.json": sign(document, own.load(KEY))}))
    assert "not this manifest" in refused(path, key)


@pytest.mark.parametrize(
    "change",
    [
        lambda sets: {"/somebody/elses/dataset": next(iter(sets.values()))},
        lambda sets: {"../../elsewhere": next(iter(sets.values()))},
        lambda sets: {**sets, "rlds/none": next(iter(sets.values()))},
        lambda sets: {name: {} for name in sets},
        lambda sets: {name: {**told, "more": 1} for name, told in sets.items()},
    ],
)
def test_a_dataset_that_is_no_folder_of_its_members_is_refused_whoever_signed_it(
    brain: BrainRoot, tmp_path: Path, change: Any
) -> None:
    """Else a robot that is trusted could have files read that nobody signed."""
    files = in_order(export(brain, tmp_path / "folder", as_zip=False).path)
    told = json.loads(files["manifest.json"])
    parse_manifest(files["manifest.json"], what="test")
    told["datasets"] = change(told["datasets"])
    with pytest.raises(BrainError, match=r"is none of its members"):
        parse_manifest(signable_bytes(told), what="test")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "continuonbrain.memory.2"}, "format is 'continuonbrain.memory.2'"),
        ({"format": None}, "format is"),
        ({"robot": "my car"}, "no robot's pseudonym"),
        ({"robot": "robot-0123456789ABCDEF"}, "no robot's pseudonym"),
        ({"robot": "robot-0123456789abcdef0"}, "no robot's pseudonym"),
        ({"robot": 7}, "is not one"),
        ({"frames": "k" * 257}, "is not one"),
        ({"episodes": -1}, "is not one"),
        ({"episodes": True}, "is not one"),
        ({"steps": "12"}, "is not one"),
        ({"steps": None}, "is not one"),
        ({"datasets": []}, "is not one"),
        ({"adapters": {"current": {"version": 1}}}, "is not one"),
        ({"members": [{"name": "config.json", "bytes": -1, "sha256": "0" * 64}]}, "is not one"),
        ({"members": [{"name": "config.json", "bytes": 1}]}, "is not one"),
        (
            {"members": [{"name": "../config.json", "bytes": 1, "sha256": "0" * 64}]},
            "a member's name is none",
        ),
        ({"members": [{"name": "a.json", "bytes": 1, "sha256": "0" * 64}] * 2}, "there twice"),
        ({"privacy": {"coarsened": {FACES: 1}}}, "is not one"),
    ],
)
def test_a_manifest_that_is_none_is_refused_whoever_signed_it(
    brain: BrainRoot, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    files = in_order(export(brain, tmp_path / "folder", as_zip=False).path)
    told = {**json.loads(files["manifest.json"]), **change}
    with pytest.raises(BrainError, match=re.escape(says)):
        parse_manifest(signable_bytes(told), what="test")


def test_the_largest_and_the_smallest_that_a_manifest_says(brain: BrainRoot, tmp_path: Path) -> None:
    files = in_order(export(brain, tmp_path / "folder", as_zip=False).path)
    told = {**json.loads(files["manifest.json"]), "frames": "k" * 256, "episodes": 0}
    contents = parse_manifest(signable_bytes(told), what="test")
    assert (len(contents.frames), contents.episodes) == (256, 0)


def test_a_manifest_and_its_signature_name_one_base(brain: BrainRoot, key: PublicKey, tmp_path: Path) -> None:
    from continuonbrain.cloud.manifest import document_of
    from continuonbrain.storage.signing import sign

    files = in_order(export(brain, tmp_path / "folder", as_zip=False).path)
    own = PrivateKeys(brain.layout)
    path = tmp_path / "e.zip"
    real = json.loads(files["manifest.json"])["base_sha256"]
    for base, says in ((real, ""), ("0" * 64, "name two bases")):
        document = replace(document_of(files["manifest.json"], base), key_id=key.key_id, counter=9)
        path.write_bytes(zipped({**files, "bundle.json": sign(document, own.load(KEY))}))
        if says:
            assert says in refused(path, key)
        else:
            check_bundle(path, key)


def test_folders(brain: BrainRoot, key: PublicKey, tmp_path: Path) -> None:
    whole = export(brain, tmp_path / "whole", as_zip=False).path
    check_bundle(whole, key)
    for number, change in enumerate(("flip", "extra", "missing", "link", "no manifest", "no signature")):
        folder = tmp_path / f"copy{number}"
        shutil.copytree(whole, folder)
        file = folder / "config.json"
        if change == "flip":
            file.write_bytes(file.read_bytes().replace(b"1", b"2", 1))
        elif change == "extra":
            (folder / "rlds" / "more").write_text("x")
        elif change == "missing":
            file.unlink()
        elif change == "link":
            shutil.move(file, tmp_path / "elsewhere")
            file.symlink_to(tmp_path / "elsewhere")
        elif change == "no manifest":
            (folder / "manifest.json").unlink()
        else:
            (folder / "bundle.json").unlink()
        refused(folder, key)


@pytest.mark.parametrize(
    "name", ["../a", "/etc/passwd", "a//b", "a/../b", "a\\b", "A", "", ".a", "a/", "a\0b", "a/b/c/d/e/f/g"]
)
def test_names_that_lead_elsewhere_are_none(name: str) -> None:
    assert not is_member_name(name)
    assert read_local_header(local_header(name, 3, 4) + b"abc") is None


def test_a_size_that_lies_reads_nothing_that_is_not_there(key: PublicKey, tmp_path: Path) -> None:
    path = tmp_path / "lies.zip"
    path.write_bytes(local_header("manifest.json", 1 << 60, 0) + b"{}")
    assert "cut short" in refused(path, key)
    huge = json.dumps({"a": "b" * (17 << 20)}).encode()
    path.write_bytes(zipped({"manifest.json": huge, "bundle.json": b"{}"}))
    assert "longer than" in refused(path, key)


@given(
    st.text("abc/.-_1", min_size=1, max_size=20).filter(is_member_name),
    st.integers(0, 2**63),
    st.integers(0, 2**32 - 1),
)
def test_a_header_is_read_as_it_was_written(name: str, size: int, crc32: int) -> None:
    header = local_header(name, size, crc32)
    assert read_local_header(header + b"content") == (name, size, crc32)
    assert struct.unpack_from("<I", header)[0] == 0x04034B50


def test_the_envelope_is_read_whatever_is_around_it(brain: BrainRoot, key: PublicKey, tmp_path: Path) -> None:
    """A zip that others made, or that is damaged, is no bundle: that is said, and nothing else happens."""
    import io
    import zipfile

    path = tmp_path / "a.zip"
    folder = export(brain, tmp_path / "folder", as_zip=False).path
    files = in_order(folder)
    whole = zipped(files)
    path.write_bytes(whole)
    assert read_envelope(path) == read_envelope(folder) == files["bundle.json"]
    assert is_memory(path)
    assert is_memory(folder)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bundle.json", files["bundle.json"])
    deflated = bytearray(packed.getvalue())
    deflated[41:81] = b"\xff" * 40  # behind the header of 30 bytes and the name
    name = whole.index(b"PK\x01\x02")
    directory_name = bytearray(whole)
    directory_name[name + 9] |= 0x08  # "the name is UTF-8"
    directory_name[name + 46] = 0xFF
    for odd in (bytes(deflated), b"", b"PK\x03\x04", whole[:1000]):
        path.write_bytes(odd)
        with pytest.raises(BrainError, match=r"there is no bundle\.json"):
            read_envelope(path)
    path.write_bytes(directory_name)
    assert read_envelope(path) == files["bundle.json"], "what is behind it is checked with all the rest"
    assert "directory" in refused(path, key)


def test_a_folder_around_a_bundle_is_none_and_says_where_it_is(
    brain: BrainRoot, key: PublicKey, tmp_path: Path
) -> None:
    (tmp_path / "stick").mkdir()
    inside = export(brain, tmp_path / "stick" / "continuonbrain-memory", as_zip=False).path
    for read in (lambda p: check_bundle(p, key), read_envelope):
        with pytest.raises(BrainError, match="there is one in it") as told:
            read(tmp_path / "stick")
        assert str(inside) in told.value.remedy


def test_another_key_is_named_with_the_one_that_signed(
    brain: BrainRoot, key: PublicKey, tmp_path: Path
) -> None:
    other = PublicKey("other", public_key_of(new_private_key()))
    done = export(brain, tmp_path / "a.zip")
    said = refused(done.path, other)
    assert key.key_id[:16] in said
    assert other.key_id[:16] in said
