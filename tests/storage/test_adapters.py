"""The adapter store: what it keeps, what it refuses to let drive, and what it says of it."""

from __future__ import annotations

import json
import shutil

import pytest

from continuonbrain.storage.adapters import (
    BEHAVIOURAL_FILES,
    AdapterError,
    AdapterStore,
    PromotionRefused,
    StaleVerdict,
)
from continuonbrain.storage.layout import BrainLayout


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


def test_the_reflex_head_is_part_of_what_is_promoted() -> None:
    assert "reflex.safetensors" in BEHAVIOURAL_FILES
