"""Bases made by hand and signed by somebody who is trusted: what `cloud pack-base` would not have packed is refused by
the import itself, without a trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from continuonbrain.loops import base_import
from continuonbrain.loops.adapter_import import ImportRefused
from continuonbrain.loops.base_content import content_refusal
from continuonbrain.loops.base_import import ImportedBase
from continuonbrain.loops.cloud_import import import_bundle
from continuonbrain.model.base_identity import tiny_base_folder
from continuonbrain.storage.trusted_keys import KeyRefused, TrustedKeys
from tests.loops.base_bundles import ADAPTER, BasePair, listing, zipped


@pytest.fixture
def pair(tmp_path: Path) -> BasePair:
    return BasePair(tmp_path)


def by_hand(pair: BasePair) -> Path:
    """The base as it lies there, signed without a question."""
    files = pair.contents()
    return pair.write(zipped(pair.envelope(files), list(files.items())))


def refused(pair: BasePair, match: str) -> None:
    bundle = by_hand(pair)
    before = listing(pair.folder)
    with pytest.raises(ImportRefused, match=match):
        import_bundle(pair.here, bundle)
    assert listing(pair.folder) == before


def with_graphs(pair: BasePair, place: str, **said: Any) -> None:
    """The tiny base's own graphs in the base's folder, with other words in their `bundle.json`."""
    folder = pair.base / "serving" / place
    shutil.copytree(tiny_base_folder() / "serving" / place, folder)
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | said))


@pytest.mark.parametrize("name", ["config.json", "connector.json", "tokenizer.json", "card.json"])
@pytest.mark.parametrize("value", ["[]", "null", '"text"'])
def test_json_that_is_no_object_is_refused(pair: BasePair, name: str, value: str) -> None:
    (pair.base / name).write_text(value)
    refused(pair, f"{name} holds no JSON object")


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("model.safetensors", b"\2" + b"\0" * 7 + b"[]", r"is refused: model\.safetensors is no safetensors"),
        ("serving/int8/bundle.json", b"{}", r"is refused: serving/int8/bundle\.json"),
    ],
)
def test_a_file_that_is_refused_is_named_as_it_is_in_the_bundle(
    pair: BasePair, name: str, data: bytes, match: str
) -> None:
    with_graphs(pair, "int8")
    (pair.base / name).write_bytes(data)
    refused(pair, match)


def test_graphs_of_another_base_are_refused(pair: BasePair) -> None:
    with_graphs(pair, "int8")
    refused(pair, "serving/int8 holds graphs of base")


@pytest.mark.parametrize(("folder", "said"), [("int8", "fp32"), ("fp32", "int8")])
def test_graphs_of_another_precision_than_their_folders_are_refused(
    pair: BasePair, folder: str, said: str
) -> None:
    with_graphs(pair, folder, base_sha256=pair.sha256, precision=said)
    refused(pair, f"serving/{folder} holds graphs of base {pair.sha256[:8]} in {said}")


def test_a_card_that_names_another_base_is_refused_though_it_names_the_same_adapter(pair: BasePair) -> None:
    card = json.loads((pair.base / "card.json").read_bytes())
    card["grown_from"] = {"base_sha256": "c" * 64, "adapter_sha256": ADAPTER}
    (pair.base / "card.json").write_text(json.dumps(card))
    refused(pair, "card.json says that it grew from base cccccccc")


@pytest.mark.parametrize("revoked", [False, True])
def test_a_key_that_is_revoked_while_gigabytes_are_read_counts_no_more(
    pair: BasePair, monkeypatch: pytest.MonkeyPatch, revoked: bool
) -> None:
    keys = TrustedKeys(pair.here.layout)

    def looked(*given: Any, **how: Any) -> str:
        if revoked:
            keys.revoke("shop")
        return content_refusal(*given, **how)

    monkeypatch.setattr(base_import, "content_refusal", looked)
    bundle = by_hand(pair)
    if not revoked:
        assert isinstance(import_bundle(pair.here, bundle), ImportedBase)
        return
    before = {n: s for n, s in listing(pair.folder).items() if "keys/" not in n}
    with pytest.raises(KeyRefused, match="revoked"):
        import_bundle(pair.here, bundle)
    after = listing(pair.folder)
    assert {n: s for n, s in after.items() if "keys/" not in n} == before
    assert not any("1000" in p.read_text() for p in (pair.here.layout.root / "keys/accepted").iterdir())
