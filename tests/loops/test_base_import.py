"""Bases between two machines: what is taken is exactly what was signed, a slot and no more, once."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.errors import BrainError
from continuonbrain.loops import base_import
from continuonbrain.loops.adapter_import import ExportRefused, ImportRefused
from continuonbrain.loops.base_import import ImportedBase
from continuonbrain.loops.base_pack import pack_base
from continuonbrain.loops.cloud_import import import_bundle
from continuonbrain.model.base_identity import base_sha256, tiny_base_folder
from continuonbrain.storage.base_slots import BaseSlots
from continuonbrain.storage.durable import STAGING_PREFIX
from continuonbrain.storage.signing import GrownFrom
from continuonbrain.storage.trusted_keys import PrivateKeys, TrustedKeys
from tests.loops.base_bundles import ADAPTER, BasePair, grown, listing, zipped


@pytest.fixture
def pair(tmp_path: Path) -> BasePair:
    return BasePair(tmp_path)


def test_a_base_comes_whole_into_a_slot_and_does_not_drive(pair: BasePair) -> None:
    taken = import_bundle(pair.here, pair.packed())
    assert isinstance(taken, ImportedBase)
    (slot,) = BaseSlots(pair.here.layout).list()
    assert slot.slot == taken.slot == pair.sha256[:16]
    there = {p.name: p.read_bytes() for p in slot.base.iterdir()}
    assert there == pair.contents()
    assert base_sha256(slot.base) == slot.base_sha256 == pair.sha256
    assert slot.about["grown_from"] == {
        "base_sha256": base_sha256(tiny_base_folder()),
        "adapter_sha256": ADAPTER,
    }
    assert slot.about["imported"]["key_name"] == "shop"
    assert BaseSlots(pair.here.layout).state().current == ""
    (status,) = TrustedKeys(pair.here.layout).list()
    assert status.last == 1


def test_how_far_an_import_is_can_be_told_at_any_time(
    pair: BasePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of gigabytes each piece is told: written, looked at for numbers, and hashed for what base it is."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr("continuonbrain.model.weight_shapes._PIECE", 1 << 16)
    bundle = pair.packed()
    import_bundle(pair.here, bundle, progress=lambda done, total: told.append((done, total)))
    done, (total,) = [d for d, _ in told], {t for _, t in told}
    assert done == sorted(done)
    assert max(b - a for a, b in itertools.pairwise([0, *done])) <= 1 << 20
    size = sum(len(data) for data in pair.contents().values())
    assert size < total <= 3 * size
    assert 0.95 * total < done[-1] <= total


def test_graphs_come_along_in_their_folders(pair: BasePair) -> None:
    """The tiny base's own graphs: of another base, so they are refused; of its own they would be taken."""
    import shutil

    shutil.copytree(tiny_base_folder() / "serving", pair.base / "serving")
    with pytest.raises(ExportRefused, match="holds graphs of base"):
        pair.packed()
    for precision in ("fp32", "int8"):
        path = pair.base / "serving" / precision / "bundle.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"base_sha256": pair.sha256}))
    taken = import_bundle(pair.here, pair.packed())
    assert isinstance(taken, ImportedBase)
    slot = BaseSlots(pair.here.layout).get(taken.slot)
    for path in sorted((pair.base / "serving").rglob("*.*")):
        assert (slot.base / path.relative_to(pair.base)).read_bytes() == path.read_bytes()


def test_a_slot_may_grow_from_a_slot(pair: BasePair, tmp_path: Path) -> None:
    import_bundle(pair.here, pair.packed())
    first = pair.sha256
    pair.base = grown(tmp_path / "second", by=1.002, of=first)
    taken = import_bundle(pair.here, pair.packed())
    assert isinstance(taken, ImportedBase)
    assert taken.grown_from.base_sha256 == first
    assert len(BaseSlots(pair.here.layout).list()) == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"grown_from": GrownFrom("c" * 64, ADAPTER)}, "grew from another base"),
    ],
)
def test_a_base_that_grew_elsewhere_is_refused(pair: BasePair, options: dict[str, Any], match: str) -> None:
    (pair.base / "card.json").unlink()
    bundle = pair.packed(**options)
    before = listing(pair.folder)
    with pytest.raises(ImportRefused, match=match):
        import_bundle(pair.here, bundle)
    assert listing(pair.folder) == before


def test_the_same_base_again_is_refused(pair: BasePair) -> None:
    import_bundle(pair.here, pair.packed())
    bundle = pair.packed()
    before = listing(pair.folder)
    with pytest.raises(ImportRefused, match="there already"):
        import_bundle(pair.here, bundle)
    assert listing(pair.folder) == before


def test_a_full_disk_is_told_before_anything_is_written(
    pair: BasePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = pair.packed()
    monkeypatch.setattr(base_import, "_KEPT_FREE", 1 << 60)
    before = listing(pair.folder)
    with pytest.raises(ImportRefused, match="MiB are free"):
        import_bundle(pair.here, bundle)
    assert listing(pair.folder) == before


@pytest.mark.parametrize("file", ["model.safetensors", "connector.safetensors"])
def test_a_base_of_other_shapes_is_refused(pair: BasePair, file: str) -> None:
    from safetensors.numpy import load_file, save_file

    path = pair.base / file
    weights = load_file(path)
    name = next(n for n, weight in sorted(weights.items()) if weight.ndim > 1)
    weights[name] = weights[name].reshape(-1)
    save_file(weights, path)
    bundle = pair.packed()
    before = listing(pair.folder)
    with pytest.raises(ImportRefused, match=f"{file}: {name} is .* in the base it grew from"):
        import_bundle(pair.here, bundle)
    assert listing(pair.folder) == before


@pytest.mark.parametrize("name", ["model.safetensors", "connector.safetensors"])
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_base_with_numbers_that_are_none_is_refused(pair: BasePair, name: str, number: float) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(pair.base / name)
    odd = sorted(weights)[-1]
    weights[odd].reshape(-1)[-1] = number
    save_file(weights, pair.base / name)
    bundle = pair.packed()
    before = listing(pair.folder)
    with pytest.raises(ImportRefused, match=f"{name}: {odd} holds numbers that are none"):
        import_bundle(pair.here, bundle)
    assert listing(pair.folder) == before


@pytest.mark.parametrize("spelled", ["utf-16", "utf-8-sig"])
def test_a_base_whose_json_not_everybody_reads_is_refused(pair: BasePair, spelled: str) -> None:
    path = pair.base / "connector.json"
    path.write_bytes(path.read_text().encode(spelled))
    bundle = pair.packed()
    before = listing(pair.folder)
    with pytest.raises(ImportRefused, match=r"connector.json is no JSON"):
        import_bundle(pair.here, bundle)
    assert listing(pair.folder) == before


@pytest.mark.parametrize("name", ["config.json", "connector.json", "tokenizer.json", "card.json"])
def test_a_base_with_a_key_that_is_there_twice_is_refused(pair: BasePair, name: str) -> None:
    """Of two values one reader takes the first and another the last: what was compared is not what is used."""
    path = pair.base / name
    key = next(iter(json.loads(path.read_bytes())))
    path.write_text(f'{{"{key}": 1000000000, ' + path.read_text().lstrip().removeprefix("{"))
    files = pair.contents()
    bundle = pair.write(zipped(pair.envelope(files), list(files.items())))
    before = listing(pair.folder)
    with pytest.raises(ImportRefused, match=f"{name} is no JSON .*'{key}' is there twice"):
        import_bundle(pair.here, bundle)
    assert listing(pair.folder) == before


def test_a_base_whose_card_says_something_else_than_what_was_signed_is_not_packed_and_not_taken(
    pair: BasePair,
) -> None:
    other = GrownFrom(base_sha256(tiny_base_folder()), "b" * 64)
    with pytest.raises(ExportRefused, match="says that this base grew from"):
        pair.packed(grown_from=other)
    files = pair.contents()
    by_hand = pair.write(zipped(pair.envelope(files, grown_from=other), list(files.items())))
    before = listing(pair.folder)
    with pytest.raises(
        ImportRefused, match=r"card.json says that it grew from .* adapter aaaaaaaa, .* bbbbbbbb"
    ):
        import_bundle(pair.here, by_hand)
    assert listing(pair.folder) == before


def test_a_reflex_head_that_is_none_is_refused_with_its_base(pair: BasePair) -> None:
    from safetensors.numpy import load_file, save_file

    path = pair.base / "reflex.safetensors"
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)
    bundle = pair.packed()
    before = listing(pair.folder)
    with pytest.raises(ImportRefused, match="reflex"):
        import_bundle(pair.here, bundle)
    assert listing(pair.folder) == before


def test_what_cannot_say_where_it_grew_is_not_packed(pair: BasePair) -> None:
    (pair.base / "card.json").unlink()
    with pytest.raises(ExportRefused, match="grew from"):
        pack_base(pair.there, pair.base, pair.folder / "out", key_name="shop")
    assert not (pair.folder / "out").exists()


def test_a_base_that_grew_from_itself_is_refused(pair: BasePair) -> None:
    (pair.base / "card.json").unlink()
    with pytest.raises(ExportRefused, match="names the base itself"):
        pair.packed(grown_from=GrownFrom(pair.sha256, ADAPTER))
    files = pair.contents()
    envelope = pair.envelope(files, grown_from=GrownFrom(pair.sha256, ADAPTER))
    with pytest.raises(ImportRefused, match="names the base itself"):
        import_bundle(pair.here, pair.write(zipped(envelope, list(files.items()))))


@pytest.mark.parametrize("link", [False, True])
def test_what_is_there_is_not_written_over(pair: BasePair, link: bool) -> None:
    out = pair.folder / "there.base"
    if link:
        out.symlink_to(pair.folder / "nowhere")
    else:
        out.write_bytes(b"mine")
    with pytest.raises(ExportRefused, match="exists already"):
        pack_base(pair.there, pair.base, out, key_name="shop")
    assert out.is_symlink() if link else out.read_bytes() == b"mine"
    assert PrivateKeys(pair.there.layout).next_counter(pair.key.key_id) == 1, "its counter is not used up"


@pytest.mark.parametrize(
    "name", ["config.json", "connector.safetensors", "tokenizer.json", "model.safetensors"]
)
def test_half_a_base_is_not_packed(pair: BasePair, name: str) -> None:
    (pair.base / name).unlink()
    out = pair.folder / "half.base"
    with pytest.raises(BrainError, match=name):
        pack_base(pair.there, pair.base, out, key_name="shop")
    assert not out.exists()


def test_the_base_that_serves_already_is_no_news(pair: BasePair) -> None:
    pair.base = tiny_base_folder()
    files = pair.contents()
    envelope = pair.envelope(files, grown_from=GrownFrom("c" * 64, ADAPTER))
    with pytest.raises(ImportRefused, match=r"the base that config\.json names"):
        import_bundle(pair.here, pair.write(zipped(envelope, list(files.items()))))


def test_what_a_killed_import_left_is_gone_after_the_next(pair: BasePair) -> None:
    left = pair.here.layout.bases_dir / f"{STAGING_PREFIX}0123abcd-{'e' * 16}" / "base"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    import_bundle(pair.here, pair.packed())
    assert [p.name for p in pair.here.layout.bases_dir.iterdir() if p.name != ".lock"] == [pair.sha256[:16]]


@pytest.mark.parametrize("name", ["config.json", "connector.json", "tokenizer.json"])
def test_what_merging_leaves_as_it_was_has_to_be_as_it_was(pair: BasePair, name: str) -> None:
    value = json.loads((pair.base / name).read_bytes())
    (pair.base / name).write_text(json.dumps(value | {"vocab_size": 10**9}))
    files = pair.contents()
    bundle = pair.write(zipped(pair.envelope(files), list(files.items())))
    before = listing(pair.folder)
    with pytest.raises(ImportRefused, match=f"{name} is not that of the base it grew from"):
        import_bundle(pair.here, bundle)
    assert listing(pair.folder) == before


def test_whole_numbers_instead_of_weights_are_refused(pair: BasePair) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    path = pair.base / "model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[3]
    weights[name] = np.ones(weights[name].shape, np.int8)
    save_file(weights, path)
    bundle = pair.packed()
    with pytest.raises(ImportRefused, match=f"{name} holds I8"):
        import_bundle(pair.here, bundle)
