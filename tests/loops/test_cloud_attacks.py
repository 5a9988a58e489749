"""Attacks on `cloud import`, each by its name, on both kinds: refused, and not one byte anywhere afterwards.

Everything below the robot's root and its parent is compared, names, links, folders and hashes, so that a byte that
landed outside of the staging folder, or a staging folder that stayed, is found. While a base is written, nothing but
the staging folder may change.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.errors import BrainError
from continuonbrain.loops.cloud_import import import_bundle
from continuonbrain.storage import large_bundle
from continuonbrain.storage.bundle import bundle_bytes
from continuonbrain.storage.signing import key_id_of, new_private_key, public_key_of
from continuonbrain.storage.trusted_keys import TrustedKeys
from tests.loops.attacked import Attacked, adapter_files
from tests.loops.base_bundles import listing, zipped


@pytest.fixture(params=["adapter", "base"])
def robot(request: pytest.FixtureRequest, tmp_path: Path) -> Attacked:
    return Attacked(tmp_path, request.param)


def test_what_is_attacked_below_would_be_taken_as_it_is(robot: Attacked) -> None:
    """The control: without an attack the same bundle comes in."""
    import_bundle(robot.pair.here, robot.pair.write(robot.good()))


def test_flipped_bit_in_any_member(robot: Attacked) -> None:
    data = robot.good()
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        members = whole.infolist()
    assert len(members) == len(robot.files) + 1
    for member in members:
        begin = data.index(member.filename.encode(), member.header_offset) + len(member.filename)
        begin += 20 if robot.kind == "base" else 0
        for at in (begin, begin + member.file_size // 2, begin + member.file_size - 1):
            flipped = bytearray(data)
            flipped[at] ^= 0x10
            robot.refused(bytes(flipped), ".")


def test_flipped_bit_where_the_zip_around_it_is_made_to_fit(robot: Attacked) -> None:
    for name, content in robot.files.items():
        flipped = bytearray(content)
        flipped[len(flipped) // 2] ^= 0x01
        robot.refused(robot.zip(robot.envelope(), robot.files | {name: bytes(flipped)}), "sha256 differs")


def test_wrong_key(robot: Attacked) -> None:
    stranger = new_private_key()
    robot.refused(robot.zip(robot.envelope(private=stranger)), "not trusted")
    named = robot.envelope(private=stranger).replace(
        key_id_of(public_key_of(stranger)).encode(), robot.pair.key.key_id.encode()
    )
    robot.refused(robot.zip(named), "signature does not belong")


def test_revoked_key(robot: Attacked) -> None:
    data = robot.good()
    TrustedKeys(robot.pair.here.layout).revoke("shop")
    robot.refused(data, "revoked")


def test_replayed_old_counter(robot: Attacked) -> None:
    keys = TrustedKeys(robot.pair.here.layout)
    with keys.lock("test"):
        keys.accept(keys.get(robot.pair.key.key_id), 1000)
    robot.refused(robot.good(), "not above 1000")
    robot.refused(robot.good(counter=999), "not above 1000")


def test_swapped_member(robot: Attacked) -> None:
    """Each is what was signed, under the other's name; and in the other's place."""
    one, two = sorted(robot.files)[:2]
    swapped = robot.files | {one: robot.files[two], two: robot.files[one]}
    robot.refused(robot.zip(robot.envelope(), swapped), "differs|may have")
    pairs = sorted(robot.files.items())
    robot.refused(robot.zip(robot.envelope(), [pairs[1], pairs[0], *pairs[2:]]), "something else does")


def test_extra_member(robot: Attacked) -> None:
    pairs = sorted(robot.files.items())
    robot.refused(robot.zip(robot.envelope(), [*pairs, ("zz.json", b"{}")]), "long; the document asks")
    robot.refused(robot.zip(robot.envelope(), [("aa.json", b"{}"), *pairs]), "long; the document asks")
    twice = [pairs[0], *pairs]
    robot.refused(robot.zip(robot.envelope(), twice), "long; the document asks")
    robot.refused(robot.good() + b"\0", "long; the document asks")
    extra = {"sha256": hashlib.sha256(b"{}").hexdigest(), "bytes": 2}
    signed = robot.envelope_by_hand(lambda document: document["files"].update({"modeling.py": extra}))
    robot.refused(robot.zip(signed, robot.files | {"modeling.py": b"{}"}), "modeling.py")


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "serving/../../evil.json", "serving/int8/../../../evil.json", "..", "a\\..\\evil.json"],
)
def test_path_traversal(robot: Attacked, name: str) -> None:
    _named(robot, name)


@pytest.mark.parametrize("name", ["/tmp/evil.json", "//evil.json", "C:/evil.json"])
def test_absolute_path(robot: Attacked, name: str) -> None:
    _named(robot, name)
    assert not Path("/tmp/evil.json").exists()


def _named(robot: Attacked, name: str) -> None:
    """Named so in the zip alone, and in a document that was signed."""
    pairs = sorted(robot.files.items())
    renamed = [(name, pairs[0][1]), *pairs[1:]]
    robot.refused(robot.zip(robot.envelope(), renamed), "something else does|long; the document asks")

    def rename(document: dict[str, Any]) -> None:
        document["files"][name] = document["files"].pop(pairs[0][0])

    robot.refused(robot.zip(robot.envelope_by_hand(rename), renamed), "a name in document.files")


def test_symlink(robot: Attacked) -> None:
    """A member that says in its mode that it is a link, by a zip library; and a link where the bundle would write."""
    for library in (False, True):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as made:
            made.writestr("bundle.json", robot.envelope())
            for name, data in sorted(robot.files.items()):
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, (0o120777 if library else 0o100644) << 16
                made.writestr(info, b"/etc/passwd" if library else data)
        robot.refused(out.getvalue(), ".")
    data = robot.good()
    mode = struct.pack("<I", 0o100644 << 16)
    at = data.rindex(mode)
    robot.refused(data[:at] + struct.pack("<I", 0o120777 << 16) + data[at + 4 :], "directory")


def test_zip_bomb(robot: Attacked) -> None:
    """Deflated members, and sizes that lie: in the zip, and in a document that was signed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("bundle.json", robot.envelope())
        for name in sorted(robot.files):
            made.writestr(name, b"\0" * (1 << 24))
    robot.refused(out.getvalue(), ".")
    largest = max(robot.files, key=lambda name: len(robot.files[name]))

    def lie(document: dict[str, Any]) -> None:
        document["files"][largest]["bytes"] = 1 << 50

    robot.refused(robot.zip(robot.envelope_by_hand(lie)), "taken|asks for")

    def lie_within(document: dict[str, Any]) -> None:
        document["files"][largest]["bytes"] += 1 << 20

    robot.refused(robot.zip(robot.envelope_by_hand(lie_within)), "asks for")


def test_huge_header(robot: Attacked) -> None:
    """An envelope of a gigabyte is not read; nor are a thousand files, nor a safetensors header that is not there."""
    data = bytearray(robot.good())
    at = data.index(b"bundle.json") + len("bundle.json")
    size = (
        struct.pack("<QQ", 1 << 30, 1 << 30) if robot.kind == "base" else struct.pack("<II", 1 << 30, 1 << 30)
    )
    begin = at + 4 if robot.kind == "base" else 18
    data[begin : begin + len(size)] = size
    robot.refused(bytes(data), "what it may have")

    def many(document: dict[str, Any]) -> None:
        document["files"].update({f"f{i}": {"sha256": "0" * 64, "bytes": 1} for i in range(1000)})

    robot.refused(robot.zip(robot.envelope_by_hand(many)), "files")
    name = "adapter_model.safetensors" if robot.kind == "adapter" else "model.safetensors"
    lying = robot.files | {name: struct.pack("<Q", 1 << 40) + robot.files[name][8:]}
    robot.refused(robot.zip(robot.envelope(lying), lying), "safetensors")


class _Evil:
    def __reduce__(self) -> Any:
        return (Path("/tmp/continuonbrain-evil").touch, ())


def test_pickle_in_a_pt(robot: Attacked) -> None:
    """By name, signed by hand; and a pickle under the name of a file that may come."""
    evil = pickle.dumps(_Evil())
    told = {"sha256": hashlib.sha256(evil).hexdigest(), "bytes": len(evil)}
    signed = robot.envelope_by_hand(lambda document: document["files"].update({"lora_adapters.pt": told}))
    robot.refused(robot.zip(signed, robot.files | {"lora_adapters.pt": evil}), "lora_adapters.pt")
    name = "adapter_model.safetensors" if robot.kind == "adapter" else "connector.safetensors"
    dressed = robot.files | {name: evil}
    robot.refused(robot.zip(robot.envelope(dressed), dressed), "safetensors")
    assert not Path("/tmp/continuonbrain-evil").exists()


def test_adapter_for_another_base(robot: Attacked) -> None:
    """Of a base: one that grew elsewhere, and one that is not what it says."""
    if robot.kind == "adapter":
        robot.refused(robot.good(base_sha256="c" * 64), "another base model")
        wide = adapter_files(width=96)
        robot.refused(robot.zip(robot.envelope(wide), wide), "fits this base")
        return
    from continuonbrain.storage.signing import GrownFrom

    robot.refused(robot.good(grown_from=GrownFrom("c" * 64, "a" * 64)), "grew from another base")
    robot.refused(robot.good(base_sha256="c" * 64), "another base than")


def test_manifest_of_another_bundle(robot: Attacked, tmp_path: Path) -> None:
    """Both good, both of a trusted key: the envelope of one before the files of the other, of its kind and not."""
    other = dict(robot.files)
    if robot.kind == "adapter":
        other = adapter_files(2.0)
    else:
        other["config.json"] = other["config.json"] + b" "
    robot.refused(robot.zip(robot.envelope(other)), "differs|asks for")
    elsewhere = Attacked(tmp_path / "other", "base" if robot.kind == "adapter" else "adapter")
    elsewhere.pair.own, elsewhere.pair.key = robot.pair.own, robot.pair.key
    robot.refused(robot.zip(elsewhere.envelope(), elsewhere.files), "kind|long; the document|no part of")


def test_while_a_base_is_written_only_the_staging_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from within: at the last moment before a base is refused."""
    robot = Attacked(tmp_path, "base")
    name = max(robot.files)
    flipped = bytearray(robot.files[name])
    flipped[-1] ^= 1
    path = robot.pair.write(robot.zip(robot.envelope(), robot.files | {name: bytes(flipped)}))
    before = listing(robot.pair.folder)
    seen: list[set[str]] = []
    entry = large_bundle._Reader.entry

    def looked(reader: Any, *given: Any) -> Any:
        found = entry(reader, *given)
        now = listing(robot.pair.folder)
        assert {k: v for k, v in now.items() if k in before} == before
        seen.append(now.keys() - before.keys())
        return found

    monkeypatch.setattr(large_bundle._Reader, "entry", looked)
    with pytest.raises(BrainError, match="sha256 differs"):
        import_bundle(robot.pair.here, path)
    assert seen
    inside = "home/here/model/bases"
    for added in seen:
        assert added
        assert all(n == inside or n.startswith(f"{inside}/.staging-") for n in added)
    assert listing(robot.pair.folder) == before


def test_the_small_spelling_of_a_base_and_the_large_of_an_adapter_are_refused(tmp_path: Path) -> None:
    robot = Attacked(tmp_path, "base")
    small = {n: d for n, d in robot.files.items() if "/" not in n}
    robot.refused(bundle_bytes(robot.envelope(small), small), "kind")
    other = Attacked(tmp_path / "other", "adapter")
    other.refused(zipped(other.envelope(), sorted(other.files.items())), "kind")
