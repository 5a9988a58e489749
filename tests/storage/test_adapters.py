"""The adapter store: what it keeps, what it refuses to let drive, and that a crash never halves it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.small_verdict import judged, small_verdict
from continuonbrain.storage.adapters import (
    BEHAVIOURAL_FILES,
    AdapterError,
    AdapterStore,
    AdapterVersion,
    PromotionRefused,
    StaleVerdict,
    adapter_sha256,
    promotion_refusal,
)
from continuonbrain.storage.content_hash import sha256_of_contents, sha256_of_files
from continuonbrain.storage.history import next_entry
from continuonbrain.storage.layout import BrainLayout
from continuonbrain.storage.promotion_rule import rival_refusal
from continuonbrain.trainer.checks import Check
from continuonbrain.trainer.evidence import Evidence
from continuonbrain.trainer.verdict import Verdict

SHA = "a1" * 32
BASE = "b2" * 32


# The rule, without I/O.


def test_a_passing_verdict_for_these_bytes_on_this_base_promotes() -> None:
    verdict = small_verdict(SHA, BASE)
    refusal = promotion_refusal(verdict, candidate_sha256=SHA, staged_sha8=SHA[:8], base_sha256=BASE)
    assert refusal is None


def test_what_the_judge_writes_has_all_that_the_rule_asks_for() -> None:
    check = Check("completion", 1.0, 0.5, True, "drives")
    written = Verdict(True, "", (check,), Evidence(SHA, BASE, "", 0)).to_json()
    for verdict in (written, json.loads(json.dumps(written))):
        assert promotion_refusal(verdict, candidate_sha256=SHA, staged_sha8=SHA[:8], base_sha256=BASE) is None
        assert rival_refusal(verdict, candidate_sha256=SHA, current_sha256="") is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"passed": False}, "did not pass"),
        ({"passed": 1}, "did not pass"),
        ({"passed": "true"}, "did not pass"),
        ({"passed": None}, "did not pass"),
        ({"candidate_sha256": None}, "other bytes"),
        ({"candidate_sha256": BASE}, "other bytes"),
        ({"candidate_sha256": SHA[:8]}, "other bytes"),
        ({"base_sha256": None}, "another base"),
        ({"base_sha256": SHA}, "another base"),
        *(
            ({"checks": checks}, "its checks do not")
            for checks in ([{"passed": True}, {"passed": False}], [{}], ["yes"], [{"passed": 1}])
        ),
        *(({"checks": checks}, "no checks") for checks in ([], None, {}, "all passed", 1)),
        *(({"version": version}, "of version") for version in (1, 0, 3, True, 2.0, "2", None)),
        ({"reason": "completion: 0.1"}, "why it did not"),
        ({"reason": None}, "why it did not"),
        *(({"evidence": value}, "no evidence") for value in (None, {}, [])),
        *(({"hashes": value}, "no hashes") for value in (None, {}, [])),
        ({"hashes": {"candidate": BASE, "base": BASE, "current": ""}}, "contradicts itself"),
        ({"hashes": {"candidate": SHA, "base": SHA, "current": ""}}, "contradicts itself"),
        *(
            ({"hashes": {"candidate": SHA, "base": BASE, "current": value}}, "judged against")
            for value in (None, 0, "base", SHA.upper(), SHA[:8])
        ),
    ],
)
def test_any_other_verdict_does_not(changes: dict[str, object], reason: str) -> None:
    verdict = small_verdict(SHA, BASE) | changes
    refusal = promotion_refusal(verdict, candidate_sha256=SHA, staged_sha8=SHA[:8], base_sha256=BASE)
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (None, "no verdict"),
        ({}, "did not pass"),
        ({"version": 2, "passed": True, "candidate_sha256": SHA, "base_sha256": BASE}, "no checks"),
        ({"passed": True, "candidate_sha256": SHA, "base_sha256": BASE}, "only shown"),
    ],
)
def test_a_verdict_that_is_hardly_one_does_not(verdict: dict[str, object] | None, reason: str) -> None:
    refusal = promotion_refusal(verdict, candidate_sha256=SHA, staged_sha8=SHA[:8], base_sha256=BASE)
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    ("judged_against", "drives", "refused"),
    [
        ("", "", None),
        ("c3" * 32, "c3" * 32, None),
        ("c3" * 32, "d4" * 32, "judged against c3c3c3c3, d4d4d4d4 drives now"),
        ("", "d4" * 32, "judged against the base alone, d4d4d4d4 drives now"),
        ("c3" * 32, "", "judged against c3c3c3c3, the base alone drives now"),
        ("c3" * 32, SHA, None),  # itself: a promotion that came about
    ],
)
def test_what_drives_now_must_be_what_the_candidate_was_found_better_than(
    judged_against: str, drives: str, refused: str | None
) -> None:
    verdict = small_verdict(SHA, BASE, judged_against)
    found = rival_refusal(verdict, candidate_sha256=SHA, current_sha256=drives)
    assert found == (refused and f"it was {refused}")


def test_a_verdict_against_another_rival_promotes_nothing_until_it_is_judged_again(
    store: AdapterStore, adapters: type
) -> None:
    waiting = store.stage(adapters.files("waiting"))
    stale = adapters.verdict(waiting)
    rival = adapters.promoted(store, "rival")
    with pytest.raises(StaleVerdict, match=f"judged against the base alone, {rival.sha8} drives now"):
        store.promote(waiting.version_id, stale, base_sha256=adapters.BASE_SHA256)
    current = store.current()
    assert current is not None
    assert (current.version_id, len(store.history())) == (rival.version_id, 1)
    store.promote(waiting.version_id, adapters.verdict(waiting), base_sha256=adapters.BASE_SHA256)


def test_a_verdict_that_is_set_aside_is_kept_for_people(store: AdapterStore, adapters: type) -> None:
    version = store.stage(adapters.files("a"))
    store.attach(version, "verdict.json", b'{"passed": true}')
    for _ in range(2):
        store.set_verdict_aside(version)
        assert version.verdict() is None
        assert (version.path / "verdict.stale.json").read_bytes() == b'{"passed": true}'


@given(st.dictionaries(st.sampled_from([*BEHAVIOURAL_FILES, "card.json"]), st.binary(max_size=50)))
def test_only_behavioural_files_count_for_the_hash(files: dict[str, bytes]) -> None:
    assert adapter_sha256(files) == adapter_sha256(files | {"verdict.json": b"{}"})
    changed = files | {"adapter_model.safetensors": files.get("adapter_model.safetensors", b"") + b"\0"}
    assert adapter_sha256(changed) != adapter_sha256(files)


def test_the_hash_keeps_names_and_contents_apart() -> None:
    assert sha256_of_contents({"ab": b"c"}) != sha256_of_contents({"a": b"bc"})
    assert sha256_of_contents({"a": b"", "b": b"x"}) != sha256_of_contents({"a": b"x", "b": b""})


def test_the_hash_is_the_same_in_memory_and_on_disk(tmp_path: Path) -> None:
    files = {"b": os.urandom(3 << 20), "a": b""}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert sha256_of_files(tmp_path, ["b", "a"]) == sha256_of_contents(files)


# The store.


def test_a_staged_adapter_is_the_candidate_and_does_not_drive(store: AdapterStore, adapters: type) -> None:
    version = store.stage(adapters.files("a"))
    assert store.candidate() == version
    assert store.current() is None
    assert version.version_id == f"000001-{version.compute_sha256()[:8]}"
    assert version.card() == {"episodes": 16}
    assert {p.name: p.read_bytes() for p in version.path.iterdir()} == adapters.files("a")


def test_promotion_moves_current_and_leaves_the_ecosystems_record(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    version = store.stage(adapters.files("a"))
    verdict = adapters.verdict(version)
    store.promote(version.version_id, verdict, base_sha256=adapters.BASE_SHA256)
    assert store.current() == version
    assert store.candidate() is None
    assert (layout.current / "lora_adapters.pt").read_bytes() == b"torch weights of a"
    record = json.loads((layout.current / ".last_promotion.json").read_text())
    assert record.keys() == {"timestamp_unix_s", "current_path", "sha256"}
    assert record["sha256"] == version.compute_sha256()
    assert version.verdict() == verdict


def test_the_store_works_after_its_root_was_moved(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    version = adapters.promoted(store, "a")
    moved = layout.root.rename(layout.root.with_name("moved"))
    current = AdapterStore(BrainLayout(moved)).current()
    assert current is not None
    assert current.version_id == version.version_id


def test_a_refused_promotion_changes_nothing(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    first = adapters.promoted(store, "a")
    second = store.stage(adapters.files("b"))
    before = {path: path.lstat().st_mtime_ns for path in layout.adapters_dir.rglob("*")}
    for verdict in (None, adapters.verdict(second, passed=False), adapters.verdict(first)):
        with pytest.raises(PromotionRefused) as caught:
            store.promote(second.version_id, verdict, base_sha256=adapters.BASE_SHA256)
        assert caught.value.version_id == second.version_id
    after = {path: path.lstat().st_mtime_ns for path in layout.adapters_dir.rglob("*")}
    before.pop(layout.adapters_lock_path)
    after.pop(layout.adapters_lock_path)
    assert after == before


def test_an_adapter_for_another_base_is_refused(store: AdapterStore, adapters: type) -> None:
    version = store.stage(adapters.files("a"))
    with pytest.raises(PromotionRefused, match="another base model"):
        store.promote(version.version_id, adapters.verdict(version), base_sha256="0" * 64)


def test_bytes_that_change_between_verdict_and_promotion_are_refused(
    store: AdapterStore, adapters: type
) -> None:
    version = store.stage(adapters.files("a"))
    verdict = adapters.verdict(version)
    (version.path / "calibration.json").write_bytes(b'{"steering_trim": 9.0}')
    with pytest.raises(PromotionRefused, match="changed after staging"):
        store.promote(version.version_id, verdict, base_sha256=adapters.BASE_SHA256)
    fresh = adapters.verdict(version)
    with pytest.raises(PromotionRefused, match="changed after staging"):
        store.promote(version.version_id, fresh, base_sha256=adapters.BASE_SHA256)


def test_papers_may_be_attached_but_behaviour_may_not(store: AdapterStore, adapters: type) -> None:
    version = store.stage(adapters.files("a"))
    before = version.compute_sha256()
    store.attach(version, "verdict.json", b'{"passed": false}')
    assert version.verdict() == {"passed": False}
    assert version.compute_sha256() == before
    for name in (*BEHAVIOURAL_FILES, "../escape", ".hidden", ""):
        with pytest.raises(AdapterError):
            store.attach(version, name, b"x")


@pytest.mark.parametrize("missing", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_without_its_weights_or_config_is_not_staged(
    store: AdapterStore, adapters: type, missing: str
) -> None:
    files = adapters.files("a")
    for broken in ({k: v for k, v in files.items() if k != missing}, files | {missing: b""}):
        with pytest.raises(AdapterError, match=missing):
            store.stage(broken)
    assert store.list() == ()


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "", "nul\0"])
def test_a_file_name_cannot_leave_its_version(store: AdapterStore, adapters: type, name: str) -> None:
    with pytest.raises(AdapterError, match="plain file name"):
        store.stage(adapters.files("a") | {name: b"x"})


@pytest.mark.parametrize("version_id", ["", "..", "000009-deadbeef", "../../etc", "current"])
def test_an_unknown_version_is_named(store: AdapterStore, adapters: type, version_id: str) -> None:
    store.stage(adapters.files("a"))
    with pytest.raises(AdapterError, match="there is no adapter") as caught:
        store.get(version_id)
    assert "000001-" in caught.value.remedy


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


def test_promoting_what_drives_already_adds_no_history(store: AdapterStore, adapters: type) -> None:
    version = adapters.promoted(store, "a")
    store.promote(version.version_id, adapters.verdict(version), base_sha256=adapters.BASE_SHA256)
    assert len(store.history()) == 1
    assert store.previous() is None


def test_a_current_that_points_nowhere_is_an_error_not_the_base(store: AdapterStore, adapters: type) -> None:
    version = adapters.promoted(store, "a")
    shutil.rmtree(version.path)
    with pytest.raises(AdapterError, match="gone"):
        store.current()


def test_a_foreign_current_is_named(store: AdapterStore, layout: BrainLayout) -> None:
    layout.current.mkdir()
    with pytest.raises(AdapterError, match="not a symlink"):
        store.current()
    layout.current.rmdir()
    layout.current.symlink_to("/etc")
    with pytest.raises(AdapterError, match="not a version"):
        store.current()


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


# Crashes.


def check_whole(layout: BrainLayout) -> str | None:
    """The store is sound: current is a whole version or absent, the history verifies. Returns its id."""
    store = AdapterStore(layout)
    assert store.verify_history().ok
    current = store.current()
    for version in store.list():
        assert version.compute_sha256().startswith(version.sha8)
    if current is None:
        return None
    assert (layout.current / "lora_adapters.pt").is_file()
    return current.version_id


@pytest.mark.parametrize("after", [False, True], ids=["before_call", "after_call"])
@pytest.mark.parametrize("act", ["stage", "promote", "rollback"])
@pytest.mark.parametrize("drives_already", [False, True], ids=["from_base", "from_adapter"])
def test_killed_at_any_file_system_call_keeps_the_old_adapter_or_the_new_one_whole(
    store: AdapterStore,
    layout: BrainLayout,
    adapters: type,
    dying_os: Callable[..., object],
    act: str,
    after: bool,
    drives_already: bool,
) -> None:
    if drives_already:
        adapters.promoted(store, "older")
        adapters.promoted(store, "old")
    if act == "rollback":
        adapters.promoted(store, "bad")
    waiting = store.stage(adapters.files("new"))
    verdict = adapters.verdict(waiting)
    old = check_whole(layout)

    def do(on: AdapterStore) -> None:
        if act == "stage":
            on.stage(adapters.files("newer"))
        elif act == "promote":
            on.promote(waiting.version_id, verdict, base_sha256=adapters.BASE_SHA256)
        elif check_whole(layout) == old:  # once: a second rollback would undo the first
            on.rollback()

    pristine = layout.root.with_name("pristine")
    shutil.copytree(layout.root, pristine, symlinks=True)
    do(store)
    new = check_whole(layout)
    assert (new == old) == (act == "stage")

    seen: set[str | None] = set()
    for change in range(200):
        shutil.rmtree(layout.root)
        shutil.copytree(pristine, layout.root, symlinks=True)
        dying = dying_os(change, after=after)
        with contextlib.suppress(adapters.SimulatedDeathError):
            do(AdapterStore(layout))
        dying_os()
        found = check_whole(layout)
        seen.add(found)
        assert found in (old, new)
        # The next process finishes what was begun, once.
        reopened = AdapterStore(layout)
        reopened.recover()
        settled = check_whole(layout)
        assert found != new or settled == new
        assert not reopened.recover()
        do(reopened)
        assert check_whole(layout) == new
        if not dying.dead:
            break
    assert change >= 8
    assert seen == {old, new}


def test_recovery_stays_with_what_drives_when_the_new_one_was_lost(
    store: AdapterStore, layout: BrainLayout, adapters: type, dying_os: Callable[..., object]
) -> None:
    first = adapters.promoted(store, "a")
    second = store.stage(adapters.files("b"))
    verdict = adapters.verdict(second)
    # Die right after the intent is on disk: find that call by its line in the history.
    for change in range(50):
        dying_os(change)
        with contextlib.suppress(adapters.SimulatedDeathError):
            store.promote(second.version_id, verdict, base_sha256=adapters.BASE_SHA256)
        dying_os()
        if len(store.history()) == 2:
            break
    assert store.current() == first
    shutil.rmtree(second.path)
    assert store.recover()
    assert store.current() == first
    assert store.history()[-1].event == "abandon"
    assert store.verify_history().ok
    assert not store.recover()


FLIP = """
import sys
from pathlib import Path
from continuonbrain.storage.adapters import AdapterStore
from continuonbrain.storage.layout import BrainLayout
store = AdapterStore(BrainLayout(Path(sys.argv[1])))
print("ready", flush=True)
while True:
    store.rollback()
"""


def test_sigkill_while_adapters_change_never_leaves_a_broken_store(
    store: AdapterStore, layout: BrainLayout, adapters: type
) -> None:
    ids = {adapters.promoted(store, "a").version_id, adapters.promoted(store, "b").version_id}
    for round_number in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", FLIP, str(layout.root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.013 * round_number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert check_whole(layout) in ids
        store.recover()
        assert {store.current().version_id, store.previous().version_id} == ids  # type: ignore[union-attr]
    assert len(store.history()) > 6


def _promote_one(root: Path, tag: str) -> None:
    store = AdapterStore(BrainLayout(root))
    version = store.stage({"adapter_model.safetensors": tag.encode(), "adapter_config.json": b"{}"})
    verdict = judged(version, BASE)
    store.promote(version.version_id, verdict, base_sha256=BASE)


def test_promotions_at_the_same_moment_lose_none(store: AdapterStore, layout: BrainLayout) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_promote_one, args=(layout.root, tag)) for tag in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len(store.list()) == 3
    assert len(store.history()) == 3
    assert store.verify_history().ok


def test_the_reflex_head_is_part_of_what_is_promoted() -> None:
    assert "reflex.safetensors" in BEHAVIOURAL_FILES
