"""Adapters between two brains: what is taken is exactly what was signed, a candidate and no more, once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from continuonbrain.errors import BrainError
from continuonbrain.loops import adapter_import
from continuonbrain.loops.adapter_import import (
    ExportRefused,
    export_adapter,
    import_adapter,
)
from continuonbrain.loops.promotion import promote_candidate
from continuonbrain.model.base_identity import checkpoint_sha256, tiny_base_folder
from continuonbrain.storage.adapters import AdapterStore, PromotionRefused, adapter_sha256
from continuonbrain.storage.bundle import bundle_bytes
from continuonbrain.storage.public_key import parse_public_key
from continuonbrain.storage.signing import Document, Signature, SignedFile, sign
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys
from tests.loops.import_pair import BASE, Pair, adapter, one_base, state, taken


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    one_base(monkeypatch)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


# What is taken.


def test_an_adapter_goes_from_one_brain_to_another_and_waits_there(pair: Pair) -> None:
    done = import_adapter(pair.here, pair.export(**{"verdict.json": b'{"passed": true}'}))
    assert pair.store.candidate() == done.version
    assert pair.store.current() is None
    assert done.sha256 == done.version.compute_sha256() == adapter_sha256(taken(adapter()))
    on_disk = {p.name: p.read_bytes() for p in done.version.path.iterdir()}
    card = json.loads(on_disk.pop("card.json"))
    assert on_disk == taken(adapter()), "no pickle, no verdict, no other car's servo"
    assert card["imported"]["key_name"] == "shop"
    assert card["imported"]["key_id"] == pair.key.key_id
    assert card["imported"]["counter"] == 1
    assert card["origin"]["verdict"] == {"passed": True}
    assert card["origin"]["card"]["episodes"] == ["e1"]
    assert card.keys() == {"adapter_sha256", "base_sha256", "imported", "origin"}


def test_whose_place_it_takes_is_told(pair: Pair) -> None:
    first = import_adapter(pair.here, pair.export("a"))
    assert first.instead_of == ""
    second = import_adapter(pair.here, pair.export("b"))
    assert second.instead_of == first.version.version_id
    assert pair.store.get(first.version.version_id).path.is_dir()


def test_the_senders_verdict_does_not_make_it_drive_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real identity of a real base: everything matches but whose verdict it is."""
    monkeypatch.setattr(adapter_import, "checkpoint_sha256", checkpoint_sha256)
    pair = Pair(tmp_path)
    for brain in (pair.there, pair.here):
        brain.layout.base_model_dir.rmdir()
        brain.layout.base_model_dir.symlink_to(tiny_base_folder())
    base_sha256 = checkpoint_sha256(tiny_base_folder())
    verdict = {"passed": True, "candidate_sha256": adapter_sha256(adapter()), "base_sha256": base_sha256}
    card = {"base_sha256": base_sha256}
    import_adapter(
        pair.here,
        pair.export(**{"card.json": json.dumps(card).encode(), "verdict.json": json.dumps(verdict).encode()}),
    )
    with pytest.raises(PromotionRefused, match="no verdict") as told:
        promote_candidate(pair.here)
    assert (
        f"judged beside what drives now: continuonbrain train --root {pair.here.layout.root}"
        in told.value.remedy
    )
    assert pair.store.current() is None


def test_what_was_imported_can_be_exported_on(pair: Pair) -> None:
    import_adapter(pair.here, pair.export())
    PrivateKeys(pair.here.layout).new("robot")
    out = pair.folder / "on.bundle"
    export_adapter(pair.here, "candidate", out, key_name="robot")
    TrustedKeys(pair.there.layout).trust(
        parse_public_key(PrivateKeys(pair.here.layout).public_path("robot").read_bytes(), what="")
    )
    assert import_adapter(pair.there, out).sha256 == adapter_sha256(taken(adapter()))


def test_a_second_signature_is_told_as_not_verified(pair: Pair) -> None:
    files = taken(adapter())
    document = Document(
        kind="adapter",
        key_id=pair.key.key_id,
        counter=5,
        base_sha256=BASE,
        files={n: SignedFile(hashlib.sha256(d).hexdigest(), len(d)) for n, d in files.items()},
        algorithms=("ed25519", "ml-dsa-65"),
    )
    second = Signature("ml-dsa-65", "d" * 64, "ab" * 3309)
    data = bundle_bytes(sign(document, pair.own.load("shop"), [second]), files)
    done = import_adapter(pair.here, pair.write(data))
    assert done.not_verified == ("ml-dsa-65",)
    card = done.version.card()
    assert card is not None
    assert card["imported"]["signatures_not_verified"] == ["ml-dsa-65"]


# What is refused.


def test_an_export_is_refused_without_a_trace(pair: Pair) -> None:
    store = AdapterStore(pair.there.layout)
    out = pair.folder / "out.bundle"

    def no(match: str, *, key: str = "shop", kind: type[BrainError] = BrainError) -> None:
        before = state(pair.there)
        with pytest.raises(kind, match=match):
            export_adapter(pair.there, "candidate", out, key_name=key)
        assert state(pair.there) == before
        assert not out.exists()

    no("no candidate")
    version = store.stage(adapter(**{"card.json": b"{}"}))
    no("does not say on which base", kind=ExportRefused)
    version = store.stage(adapter())
    no("no key 'other'", key="other")
    (pair.there.layout.private_keys_dir / "shop.json").chmod(0o644)
    no("others can read")
    (pair.there.layout.private_keys_dir / "shop.json").chmod(0o600)
    (version.path / "adapter_model.safetensors").write_bytes(b"changed")
    no("damaged")
    out.write_bytes(b"mine")
    with pytest.raises(ExportRefused, match="exists already"):
        export_adapter(pair.there, "candidate", out, key_name="shop")
    assert out.read_bytes() == b"mine"


def test_each_export_has_a_counter_of_its_own(pair: Pair) -> None:
    for number in (1, 2, 3):
        AdapterStore(pair.there.layout).stage(adapter())
        done = export_adapter(pair.there, "candidate", pair.folder / f"n{number}", key_name="shop")
        assert done.counter == number
    assert (
        export_adapter(pair.there, "candidate", pair.folder / "n9", key_name="shop", counter=9).counter == 9
    )


# Killed.
