"""Going back to what drove before, whatever was lost, damaged or left by a crash."""

from __future__ import annotations

import shutil

import pytest

from continuonbrain.storage.adapters import AdapterError, AdapterStore, AdapterVersion
from continuonbrain.storage.layout import BrainLayout


def test_rollback_returns_to_the_one_before_and_again_returns(store: AdapterStore, adapters: type) -> None:
    first, second = adapters.promoted(store, "a"), adapters.promoted(store, "b")
    assert store.previous() == first
    assert store.rollback() == first
    assert (store.current(), store.previous()) == (first, second)
    assert store.rollback() == second
    assert [entry.event for entry in store.history()] == ["promote", "promote", "rollback", "rollback"]
    assert store.verify_history().ok


def test_rollback_of_the_first_adapter_leaves_the_base_alone(store: AdapterStore, adapters: type) -> None:
    first = adapters.promoted(store, "a")
    assert store.rollback() is None
    assert (store.current(), store.previous()) == (None, first)


def test_rollback_with_nothing_before_says_so(store: AdapterStore) -> None:
    with pytest.raises(AdapterError, match="nothing to roll back"):
        store.rollback()


def test_a_supervisor_that_rolls_back_twice_does_not_bring_the_bad_one_back(
    store: AdapterStore, adapters: type
) -> None:
    first, bad = adapters.promoted(store, "a"), adapters.promoted(store, "b")
    store.rollback(from_version=bad.version_id)
    with pytest.raises(AdapterError, match="drives now"):
        store.rollback(from_version=bad.version_id)
    assert store.current() == first


@pytest.mark.parametrize("gone", [True, False])
def test_where_the_one_before_is_lost_a_rollback_leads_to_the_base_and_another_one_back(
    store: AdapterStore, adapters: type, gone: bool
) -> None:
    first, second = adapters.promoted(store, "a"), adapters.promoted(store, "b")
    if gone:
        shutil.rmtree(first.path)
    else:
        (first.path / "adapter_model.safetensors").write_bytes(b"bit rot")
    assert store.rollback() is None
    assert (store.current(), store.previous()) == (None, second)
    assert store.history()[-1].about["instead_of"] == first.version_id
    assert store.rollback() == second


def test_what_only_shares_eight_digits_with_the_one_before_does_not_drive(
    store: AdapterStore, adapters: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _second = adapters.promoted(store, "a"), adapters.promoted(store, "b")
    honest = AdapterVersion.compute_sha256

    def forged(version: AdapterVersion) -> str:
        return version.sha8 + "0" * 56 if version == first else honest(version)

    monkeypatch.setattr(AdapterVersion, "compute_sha256", forged)
    assert store.rollback() is None


def test_a_file_named_like_a_version_is_none(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    first = adapters.promoted(store, "a")
    (layout.versions_dir / "000009-0123abcd").write_text("mine")
    assert store.list() == (first,)
    with pytest.raises(AdapterError, match="there is no adapter"):
        store.get("000009-0123abcd")


@pytest.mark.parametrize("slot", ["candidate", "previous"])
@pytest.mark.parametrize("kind", ["foreign", "loop", "folder", "file"])
def test_what_stands_in_the_place_of_another_link_keeps_nobody_from_going_back(
    store: AdapterStore, layout: BrainLayout, adapters: type, slot: str, kind: str
) -> None:
    first, _bad = adapters.promoted(store, "a"), adapters.promoted(store, "b")
    path = getattr(layout, slot)
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
        (path / "letter").write_text("mine")
    elif kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to("/etc" if kind == "foreign" else path.name)
    store.recover()
    assert store.rollback() == first
    assert store.current() == first
    aside = list(layout.adapters_dir.glob(f"{slot}.aside-*"))
    assert len(aside) == (slot == "previous")
    if kind == "folder" and slot == "previous":
        assert (aside[0] / "letter").read_text() == "mine"
    store.stage(adapters.files("c"))
    assert store.candidate() is not None


def test_a_rollback_that_a_crash_interrupted_never_leaves_what_it_took_back(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    first, bad = adapters.promoted(store, "a"), adapters.promoted(store, "b")
    store.rollback()
    # As after a crash between history and links; and what was to drive rots.
    for link, name in ((layout.current, bad), (layout.previous, first)):
        link.unlink()
        link.symlink_to(f"versions/{name.version_id}")
    shutil.rmtree(first.path)
    assert store.recover()
    assert store.current() is None
    assert store.history()[-1].event == "abandon"


def test_a_link_that_was_moved_by_hand_is_not_what_an_abandoned_change_leaves(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    first, bad = adapters.promoted(store, "a"), adapters.promoted(store, "b")
    last = adapters.promoted(store, "c")
    layout.current.unlink()
    layout.current.symlink_to(f"versions/{first.version_id}")
    shutil.rmtree(last.path)
    assert store.recover()
    assert store.current() is None, "b drove before, not what the link names"
    assert bad.path.is_dir()


def test_where_everything_is_lost_the_base_drives(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    for version in (adapters.promoted(store, "a"), adapters.promoted(store, "b")):
        shutil.rmtree(version.path)
    layout.previous.unlink()
    assert store.recover()
    assert (store.current(), store.previous()) == (None, None)
    assert store.stage(adapters.files("c")).counter == 3


@pytest.mark.parametrize("gone", [True, False])
def test_where_what_drives_and_what_drove_before_are_lost_the_base_drives(
    store: AdapterStore, adapters: type, gone: bool
) -> None:
    for version in (adapters.promoted(store, "a"), adapters.promoted(store, "b")):
        if gone:
            shutil.rmtree(version.path)
        else:
            (version.path / "adapter_model.safetensors").write_bytes(b"bit rot")
    assert store.rollback() is None
    assert (store.current(), store.previous()) == (None, None)
    assert store.history()[-1].about["instead_of"].startswith("000001-")
    assert store.recover() is False


def test_where_what_drives_is_lost_a_rollback_returns_what_drove_before(
    store: AdapterStore, adapters: type
) -> None:
    first, second = adapters.promoted(store, "a"), adapters.promoted(store, "b")
    shutil.rmtree(second.path)
    assert store.rollback() == first
    assert (store.current(), store.previous()) == (first, None)
