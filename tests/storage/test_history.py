"""The store's history: a chain of hashes in which nothing can be cut, moved or changed unseen."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest

from continuonbrain.storage.adapters import AdapterError, AdapterStore
from continuonbrain.storage.history import next_entry
from continuonbrain.storage.layout import BrainLayout


def test_a_deleted_version_does_not_lend_its_number_to_another(store: AdapterStore, adapters: type) -> None:
    version = adapters.promoted(store, "a")
    store.rollback()
    shutil.rmtree(version.path)
    assert store.stage(adapters.files("b")).counter == 2


@pytest.mark.parametrize("keep", [0, 1, 2, 3, None])
def test_a_history_that_was_cut_by_whole_lines_or_is_gone_is_found_and_nothing_changes(
    store: AdapterStore, layout: BrainLayout, adapters: type, keep: int | None
) -> None:
    for tag in "abc":
        adapters.promoted(store, tag)
    good = store.rollback()
    lines = layout.history_path.read_text().splitlines(keepends=True)
    if keep is None:
        layout.history_path.unlink()
    else:
        layout.history_path.write_text("".join(lines[:keep]))
    assert "cut off" in store.verify_history().problem
    for change in (store.recover, store.rollback, store.standing, store.last_change):
        with pytest.raises(AdapterError, match=r"cut off"):
            change()
    assert store.current() == good  # what was rolled back does not drive again


def test_a_line_with_a_number_out_of_order_is_found_though_its_hash_and_its_place_are_right(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    adapters.promoted(store, "a")
    (first,) = store.history()
    later = next_entry(
        replace(first, seq=6),
        event="confirm",
        to_version=first.to_version,
        from_version=None,
        sha256=None,
        time_unix_s=0.0,
    )
    with layout.history_path.open("a") as file:
        file.write(later.to_json_line() + "\n")
    assert store.verify_history().problem == "line 2 has number 7 out of order"


@pytest.mark.parametrize("damage", ["gone", "garbage", "not text", "another hash", "two behind", "number 0"])
def test_a_head_that_does_not_fit_the_history_is_found(
    store: AdapterStore, layout: BrainLayout, adapters: type, damage: str
) -> None:
    for tag in "abc":
        adapters.promoted(store, tag)
    head, entries = layout.history_head_path, store.history()
    if damage == "gone":
        head.unlink()
    elif damage in ("garbage", "not text"):
        head.write_bytes(b"{" if damage == "garbage" else b"\xff")
    else:
        seq = {"another hash": 3, "two behind": 1, "number 0": 0}[damage]
        at = entries[1 if damage == "another hash" else seq - 1]
        head.write_text(json.dumps({"seq": seq, "hash": at.hash}))
    assert not store.verify_history().ok
    with pytest.raises(AdapterError, match=r"history\.head"):
        store.rollback()


@pytest.mark.parametrize("number", [1, 3])
def test_a_head_one_behind_is_what_a_crash_leaves_and_is_mended(
    store: AdapterStore, layout: BrainLayout, adapters: type, number: int
) -> None:
    for tag in "abc"[:number]:
        adapters.promoted(store, tag)
    entries, whole = store.history(), layout.history_head_path.read_text()
    if number == 1:
        layout.history_head_path.unlink()
    else:
        layout.history_head_path.write_text(json.dumps({"seq": 2, "hash": entries[1].hash}))
    assert store.verify_history().ok
    store.recover()
    assert layout.history_head_path.read_text() == whole


def test_readers_find_the_history_sound_while_it_grows(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    adapters.promoted(store, "a")
    adapters.promoted(store, "b")
    writer = os.fork()
    if writer == 0:
        for _ in range(150):
            store.rollback()
        os._exit(0)
    problems, looks = set(), 0
    while os.waitpid(writer, os.WNOHANG) == (0, 0):
        problems.add(AdapterStore(layout).verify_history().problem)
        looks += 1
    assert problems == {""}
    assert looks > 150
    assert len(store.history()) == 152


@pytest.mark.parametrize("damage", ["edit", "remove", "swap", "garbage"])
def test_a_tampered_history_is_found_and_stops_further_changes(
    store: AdapterStore, layout: BrainLayout, adapters: type, damage: str
) -> None:
    for tag in "abc":
        adapters.promoted(store, tag)
    lines = layout.history_path.read_text().splitlines()
    if damage == "edit":
        lines[1] = lines[1].replace('"promote"', '"rollback"')
    elif damage == "remove":
        del lines[1]
    elif damage == "swap":
        lines[0], lines[1] = lines[1], lines[0]
    else:
        lines[1] = '{"seq": "x"'
    layout.history_path.write_text("\n".join(lines) + "\n")
    check = store.verify_history()
    assert not check.ok
    assert check.entries == (0 if damage == "swap" else 1)
    current = store.current()
    with pytest.raises(AdapterError, match=r"history\.jsonl"):
        store.rollback()
    assert store.current() == current
