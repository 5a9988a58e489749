"""Probation: how it begins, when an adapter is confirmed or taken back, and that everybody is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.crash_points import driving, drove, new_root, staged
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.loops import probation, promotion
from continuonbrain.loops.probation import (
    at_policy_start,
    confirm_by_hand,
    look_after,
    progress,
    rules_from_config,
    take_back,
)
from continuonbrain.loops.promotion import announce_unfinished, promote_candidate, roll_back
from continuonbrain.storage.adapters import AdapterStore, OnProbation
from continuonbrain.storage.driving_record import INCIDENTS, DrivingRecord, write_record
from continuonbrain.storage.event_log import EventLog
from continuonbrain.storage.lock import LockHeldError
from tests.loops.probation_brain import BOOT, kinds, new_brain


@pytest.fixture
def brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BrainRoot:
    return new_brain(tmp_path, monkeypatch)


def test_a_promotion_begins_the_probation_of_the_config(brain: BrainRoot) -> None:
    staged(brain, "a")
    promoted = promote_candidate(brain, boot=BOOT)
    told = progress(brain)
    assert (told["state"], told["version_id"], told["of_ticks"]) == ("probation", promoted.version_id, 400)
    staged(brain, "b")
    with pytest.raises(OnProbation):
        promote_candidate(brain, boot=BOOT)
    assert kinds(brain) == ["promotion"]


def test_zero_asks_for_none(brain: BrainRoot) -> None:
    settings = {"promotion.probation_ticks": 0, "promotion.probation_minutes": 0.0}
    final = BrainRoot(brain.layout, brain.config.with_overrides(settings))
    for tag in "ab":
        staged(final, tag)
        promote_candidate(final, boot=BOOT)
        assert progress(final)["state"] == "confirmed"


def test_one_that_drove_well_is_confirmed_and_told_by_an_event_alone(brain: BrainRoot) -> None:
    staged(brain, "a")
    promoted = promote_candidate(brain, boot=BOOT)
    assert look_after(brain) is None
    drove(brain, promoted.version_id, off_road=0)
    before = brain.layout.manifest_path.stat().st_mtime_ns
    told = look_after(brain)
    assert told is not None
    assert "confirm" in told.detail
    assert brain.layout.manifest_path.stat().st_mtime_ns == before
    assert look_after(brain) is None
    assert announce_unfinished(brain) is None
    assert kinds(brain) == ["promotion", "confirm"]
    assert EventLog(brain.layout.events_dir).after(0)[-1].data["reason"] == "drove_well"
    entry = AdapterStore(brain.layout).last_change()
    assert entry is not None
    assert entry.about["new"]["ticks"] == 800


def test_what_was_counted_before_a_second_try_does_not_count_in_it(brain: BrainRoot) -> None:
    """Also of one that was blocked before its first tick, so that it has incidents and no ticks."""
    driving(brain, "old")
    version_id = staged(brain, "a")
    promote_candidate(brain, boot=BOOT)
    sha256 = AdapterStore(brain.layout).get(version_id).compute_sha256()
    write_record(brain.layout.driving_dir, sha256, DrivingRecord(0, 11.4, {"block": 40}))
    taken = look_after(brain, boot=BOOT)
    assert taken is not None
    assert "taken back (block)" in taken.detail
    promote_candidate(brain, version_id=version_id, again=True, boot=BOOT)
    assert look_after(brain, boot=BOOT) is None
    assert progress(brain)["state"] == "probation"


def test_one_that_drove_worse_is_taken_back_and_everybody_is_told(brain: BrainRoot) -> None:
    old = driving(brain, "old")
    staged(brain, "bad")
    bad = promote_candidate(brain, boot=BOOT)
    drove(brain, bad.version_id, off_road=20)
    told = look_after(brain)
    assert told is not None
    assert told.version_id == old
    event = EventLog(brain.layout.events_dir).after(0)[-1]
    assert (event.kind, event.data["version_id"], event.data["reason"]) == ("revert", old, "off_road")
    assert look_after(brain) is None
    assert announce_unfinished(brain) is None
    assert kinds(brain)[-2:] == ["promotion", "revert"]


def test_what_an_adapter_drove_before_its_promotion_does_not_count(brain: BrainRoot) -> None:
    name = staged(brain, "a")
    drove(brain, name, off_road=20)
    promote_candidate(brain, boot=BOOT)
    assert look_after(brain) is None
    assert progress(brain)["ticks"] == 0


def test_another_start_of_the_machine_takes_it_back(brain: BrainRoot) -> None:
    staged(brain, "a")
    promote_candidate(brain, boot=BOOT)
    at_policy_start(brain, boot="boot-2")
    assert AdapterStore(brain.layout).current() is None
    assert kinds(brain) == ["promotion", "revert"]
    staged(brain, "b")
    promote_candidate(brain, boot="")  # a kernel that does not name its starts
    at_policy_start(brain, boot="")
    assert AdapterStore(brain.layout).current() is None


def test_the_policy_process_starts_a_few_times_and_no_more(brain: BrainRoot) -> None:
    staged(brain, "a")
    promote_candidate(brain, boot=BOOT)
    for starts in (1, 2, 3):
        at_policy_start(brain)
        told = progress(brain)
        assert (told["restarts"], told["of_ticks"]) == (starts, 400 * (1 + starts))  # and driven for longer
    at_policy_start(brain)
    assert AdapterStore(brain.layout).current() is None
    entry = AdapterStore(brain.layout).last_change()
    assert entry is not None
    assert entry.about["reason"] == "restarts"
    staged(brain, "b")
    promote_candidate(brain, boot=BOOT)
    at_policy_start(brain)
    assert progress(brain)["restarts"] == 1  # each has its own


def test_whoever_holds_the_lock_delays_a_start_and_never_lets_an_unconfirmed_one_through(
    brain: BrainRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probation, "TELLING_S", 0.05)
    staged(brain, "a")
    bad = promote_candidate(brain, boot=BOOT)
    drove(brain, bad.version_id, off_road=20)
    with promotion.changing(brain, timeout_s=1.0):
        assert look_after(brain) is None
        at_policy_start(brain)
        with pytest.raises(LockHeldError):
            at_policy_start(brain, boot="boot-2")
    assert progress(brain)["state"] == "probation"
    assert look_after(brain) is not None


def test_one_that_cannot_be_loaded_is_taken_back(brain: BrainRoot) -> None:
    assert take_back(brain, "unusable", "it does not fit") is None
    staged(brain, "a")
    promote_candidate(brain, boot=BOOT)
    assert take_back(brain, "unusable", "it does not fit") is not None
    assert AdapterStore(brain.layout).current() is None


def test_damaged_bytes_are_taken_back_instead_of_confirmed(brain: BrainRoot) -> None:
    staged(brain, "a")
    promoted = promote_candidate(brain, boot=BOOT)
    drove(brain, promoted.version_id, off_road=0)
    path = brain.layout.versions_dir / promoted.version_id / "calibration.json"
    path.write_bytes(b'{"bit": "rot"}')
    assert look_after(brain) is not None
    entry = AdapterStore(brain.layout).last_change()
    assert entry is not None
    assert (entry.event, entry.about["reason"]) == ("revert", "damaged")


def test_by_hand(brain: BrainRoot) -> None:
    staged(brain, "a")
    first = promote_candidate(brain, boot=BOOT)
    confirm_by_hand(brain)
    assert progress(brain)["state"] == "confirmed"
    staged(brain, "b")
    promote_candidate(brain, boot=BOOT)
    assert roll_back(brain).version_id == first.version_id
    assert kinds(brain) == ["promotion", "confirm", "promotion", "rollback"]


def test_the_config_sets_the_limits(brain: BrainRoot) -> None:
    settings = json.loads(brain.layout.config_path.read_bytes())
    settings["promotion"] |= {"max_off_road_per_min": 7.0, "probation_restarts": 9}
    brain.layout.config_path.write_text(json.dumps(settings))
    rules = rules_from_config(open_brain(brain.layout.root).config.promotion)
    assert (rules.limits_per_min["off_road"], rules.max_restarts) == (7.0, 9)
    assert set(rules.limits_per_min) == set(INCIDENTS)


@pytest.mark.parametrize("slot", ["candidate", "previous"])
def test_a_link_that_leads_elsewhere_keeps_no_bad_adapter_driving(tmp_path: Path, slot: str) -> None:
    brain = new_root(tmp_path / "b")
    old, bad = driving(brain, "old"), driving(brain, "bad", probation=True)
    drove(brain, bad, off_road=20)
    link = getattr(brain.layout, slot)
    link.unlink(missing_ok=True)
    link.symlink_to("/etc")
    told = look_after(brain, boot=BOOT)
    assert told is not None
    assert AdapterStore(brain.layout).current_id() == old


@pytest.mark.parametrize("starts", ["1e999", "-1e999", "[]", '"many"', "9" * 5000])
def test_a_count_of_starts_that_is_none_keeps_nobody_from_looking(tmp_path: Path, starts: str) -> None:
    brain = new_root(tmp_path / "b")
    old, bad = driving(brain, "old"), driving(brain, "bad", probation=True)
    change = AdapterStore(brain.layout).standing().change
    brain.layout.probation_path.parent.mkdir(parents=True, exist_ok=True)
    brain.layout.probation_path.write_text(f'{{"change": "{change}", "starts": {starts}}}')
    assert look_after(brain, boot=BOOT) is None
    assert progress(brain)["version_id"] == bad
    drove(brain, bad, off_road=20)
    assert look_after(brain, boot=BOOT) is not None
    assert AdapterStore(brain.layout).current_id() == old
